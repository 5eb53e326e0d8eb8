//! Who waits at the gate, in the order in which they came, and how many senders take them to Redis.
//!
//! One carrier makes the largest batches, which cost Redis and us the least, but while Redis flushes its log both
//! wait for each other. A second one sets out as soon as half of a batch has gathered again, and Redis finds it
//! waiting; a third was never faster.

use std::collections::VecDeque;

use crate::config;

pub struct Queue<T> {
    waiting: VecDeque<T>,
    senders: usize,
    /// How many the last batch had.
    last_batch: usize,
}

/// What became of somebody who came to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// A carrier that is on its way will come back.
    Waits,
    /// Whoever joined sends a new carrier.
    NeedsSender,
    /// There is no room.
    Full,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), senders: 0, last_batch: 0 }
    }
}

impl<T> Queue<T> {
    pub fn join(&mut self, one: T) -> Joined {
        if self.waiting.len() >= config::CLAIM_QUEUE_MAX_CLAIMS {
            return Joined::Full;
        }
        self.waiting.push_back(one);
        if self.senders >= config::CLAIM_MAX_SENDERS || !self.is_worth_going(self.senders) {
            return Joined::Waits;
        }
        self.senders += 1;
        Joined::NeedsSender
    }

    /// What a carrier takes. Without anything it is dismissed.
    pub fn next_batch(&mut self) -> Option<Vec<T>> {
        if !self.is_worth_going(self.senders - 1) {
            self.senders -= 1;
            return None;
        }
        self.last_batch = self.waiting.len().min(config::CLAIM_BATCH_MAX_CLAIMS);
        Some(self.waiting.drain(..self.last_batch).collect())
    }

    fn is_worth_going(&self, other_senders: usize) -> bool {
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

    /// So many come; how many senders they ask for.
    fn come(queue: &mut Queue<usize>, count: usize) -> usize {
        (0..count).filter(|number| queue.join(*number) == Joined::NeedsSender).count()
    }

    #[test]
    fn the_first_does_not_wait_and_the_next_go_together() {
        let mut queue = Queue::default();
        assert_eq!(queue.join(0), Joined::NeedsSender);
        assert_eq!(queue.next_batch(), Some(vec![0]));
        assert_eq!(queue.join(1), Joined::Waits);
        assert_eq!(queue.join(2), Joined::Waits);
        assert_eq!(queue.next_batch(), Some(vec![1, 2]));
        assert_eq!(queue.next_batch(), None);
        assert_eq!(queue.join(3), Joined::NeedsSender);
    }

    #[test]
    fn a_second_carrier_goes_for_half_a_batch_and_never_a_third() {
        let mut queue = Queue::default();
        let second = config::CLAIM_SECOND_BATCH_MIN_CLAIMS;
        assert_eq!(come(&mut queue, 1), 1);
        queue.next_batch();
        assert_eq!(come(&mut queue, second - 1), 0);
        assert_eq!(come(&mut queue, 1), 1);
        assert_eq!(queue.next_batch().map(|batch| batch.len()), Some(second));
        assert_eq!(come(&mut queue, 100), 0);
        // The first comes back to a hundred, the second, while the first is away, to less than half of that.
        assert_eq!(queue.next_batch().map(|batch| batch.len()), Some(100));
        assert_eq!(come(&mut queue, 49), 0);
        assert_eq!(queue.next_batch(), None);
        assert_eq!(come(&mut queue, 1), 1);
        assert_eq!(queue.next_batch().map(|batch| batch.len()), Some(50));
    }

    #[test]
    fn a_batch_and_the_line_have_an_end() {
        let mut queue = Queue::default();
        come(&mut queue, config::CLAIM_QUEUE_MAX_CLAIMS);
        assert_eq!(queue.join(0), Joined::Full);
        assert_eq!(queue.next_batch().map(|batch| batch.len()), Some(config::CLAIM_BATCH_MAX_CLAIMS));
        assert_eq!(queue.join(0), Joined::Waits);
    }
}
