//! The claims that wait, in the order of their arrival, and the number of senders that send them to Redis.
//!
//! With one sender, batches are largest and cost Redis and this process the least. But the sender waits while Redis
//! flushes its log, and afterwards Redis waits for the sender. A second sender starts when half of a batch has gathered
//! again: Redis then has the next batch at once. A third sender was not faster in any measurement, except for batches that
//! wait for a replica.

use std::collections::VecDeque;

use crate::config;

pub struct Queue<T> {
    waiting: VecDeque<T>,
    senders: usize,
    max_senders: usize,
    /// Claims in the last batch.
    last_batch: usize,
}

/// The result of joining the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The claim waits for a sender that is already running.
    Waits,
    /// The caller starts a new sender.
    NeedsSender,
    /// The queue has no room.
    Full,
}

impl<T> Queue<T> {
    pub const fn new(max_senders: usize) -> Self {
        Self { waiting: VecDeque::new(), senders: 0, max_senders, last_batch: 0 }
    }

    pub fn join(&mut self, one: T) -> Joined {
        if self.waiting.len() >= config::CLAIM_QUEUE_MAX_CLAIMS {
            return Joined::Full;
        }
        self.waiting.push_back(one);
        if self.senders >= self.max_senders || !self.is_worth_sending(self.senders) {
            return Joined::Waits;
        }
        self.senders += 1;
        Joined::NeedsSender
    }

    /// The next batch of a sender; `None` ends the sender.
    pub fn next_batch(&mut self) -> Option<Vec<T>> {
        if !self.is_worth_sending(self.senders - 1) {
            self.senders -= 1;
            return None;
        }
        self.last_batch = self.waiting.len().min(config::CLAIM_BATCH_MAX_CLAIMS);
        Some(self.waiting.drain(..self.last_batch).collect())
    }

    fn is_worth_sending(&self, other_senders: usize) -> bool {
        let least = if other_senders == 0 {
            1
        } else {
            config::CLAIM_SECOND_BATCH_MIN_CLAIMS.max(self.last_batch / 2)
        };
        self.waiting.len() >= least
    }
}

#[cfg(test)]
mod tests {
    use super::{Joined, Queue};
    use crate::config;

    /// Joins `count` claims; returns how many senders they need.
    fn join_many(queue: &mut Queue<usize>, count: usize) -> usize {
        (0..count).filter(|number| queue.join(*number) == Joined::NeedsSender).count()
    }

    #[test]
    fn the_first_claim_does_not_wait_and_the_next_ones_go_together() {
        let mut queue = Queue::new(config::CLAIM_MAX_SENDERS);
        assert_eq!(queue.join(0), Joined::NeedsSender);
        assert_eq!(queue.next_batch(), Some(vec![0]));
        assert_eq!(queue.join(1), Joined::Waits);
        assert_eq!(queue.join(2), Joined::Waits);
        assert_eq!(queue.next_batch(), Some(vec![1, 2]));
        assert_eq!(queue.next_batch(), None);
        assert_eq!(queue.join(3), Joined::NeedsSender);
    }

    #[test]
    fn a_second_sender_starts_for_half_a_batch_and_a_third_never_does() {
        let mut queue = Queue::new(config::CLAIM_MAX_SENDERS);
        let second = config::CLAIM_SECOND_BATCH_MIN_CLAIMS;
        assert_eq!(join_many(&mut queue, 1), 1);
        queue.next_batch();
        assert_eq!(join_many(&mut queue, second - 1), 0);
        assert_eq!(join_many(&mut queue, 1), 1);
        assert_eq!(queue.next_batch().map(|batch| batch.len()), Some(second));
        assert_eq!(join_many(&mut queue, 100), 0);
        // The first sender takes a hundred claims. Until it returns, fewer than 50 claims do not start a batch.
        assert_eq!(queue.next_batch().map(|batch| batch.len()), Some(100));
        assert_eq!(join_many(&mut queue, 49), 0);
        assert_eq!(queue.next_batch(), None);
        assert_eq!(join_many(&mut queue, 1), 1);
        assert_eq!(queue.next_batch().map(|batch| batch.len()), Some(50));
    }

    #[test]
    fn a_batch_and_the_queue_have_a_limit() {
        let mut queue = Queue::new(config::CLAIM_MAX_SENDERS);
        join_many(&mut queue, config::CLAIM_QUEUE_MAX_CLAIMS);
        assert_eq!(queue.join(0), Joined::Full);
        assert_eq!(queue.next_batch().map(|batch| batch.len()), Some(config::CLAIM_BATCH_MAX_CLAIMS));
        assert_eq!(queue.join(0), Joined::Waits);
    }
}
