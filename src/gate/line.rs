//! Who waits at the gate, in the order in which they came, and how many carriers take them to Redis.
//!
//! One carrier makes the largest batches, which cost Redis and us the least, but while Redis flushes its log both
//! wait for each other. A second one sets out as soon as half of a batch has gathered again, and Redis finds it
//! waiting; a third was never faster.

use std::collections::VecDeque;

use crate::config;

pub struct Line<T> {
    waiting: VecDeque<T>,
    carriers: usize,
    /// How many the last batch had.
    last_batch: usize,
}

/// What became of somebody who came to the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// A carrier that is on its way will come back.
    Waits,
    /// Whoever joined sends a new carrier.
    NeedsCarrier,
    /// There is no room.
    Full,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), carriers: 0, last_batch: 0 }
    }
}

impl<T> Line<T> {
    pub fn join(&mut self, one: T) -> Joined {
        if self.waiting.len() >= config::GATE_QUEUE_MAX_CLAIMS {
            return Joined::Full;
        }
        self.waiting.push_back(one);
        if self.carriers >= config::GATE_MAX_CARRIERS || !self.is_worth_going(self.carriers) {
            return Joined::Waits;
        }
        self.carriers += 1;
        Joined::NeedsCarrier
    }

    /// What a carrier takes. Without anything it is dismissed.
    pub fn next_batch(&mut self) -> Option<Vec<T>> {
        if !self.is_worth_going(self.carriers - 1) {
            self.carriers -= 1;
            return None;
        }
        self.last_batch = self.waiting.len().min(config::GATE_BATCH_MAX_CLAIMS);
        Some(self.waiting.drain(..self.last_batch).collect())
    }

    fn is_worth_going(&self, other_carriers: usize) -> bool {
        let least = if other_carriers == 0 {
            1
        } else {
            config::GATE_SECOND_BATCH_MIN_CLAIMS.max(self.last_batch / 2)
        };
        self.waiting.len() >= least
    }
}

#[cfg(test)]
mod tests {
    use super::{Joined, Line};
    use crate::config;

    /// So many come; how many carriers they ask for.
    fn come(line: &mut Line<usize>, count: usize) -> usize {
        (0..count).filter(|number| line.join(*number) == Joined::NeedsCarrier).count()
    }

    #[test]
    fn the_first_does_not_wait_and_the_next_go_together() {
        let mut line = Line::default();
        assert_eq!(line.join(0), Joined::NeedsCarrier);
        assert_eq!(line.next_batch(), Some(vec![0]));
        assert_eq!(line.join(1), Joined::Waits);
        assert_eq!(line.join(2), Joined::Waits);
        assert_eq!(line.next_batch(), Some(vec![1, 2]));
        assert_eq!(line.next_batch(), None);
        assert_eq!(line.join(3), Joined::NeedsCarrier);
    }

    #[test]
    fn a_second_carrier_goes_for_half_a_batch_and_never_a_third() {
        let mut line = Line::default();
        let second = config::GATE_SECOND_BATCH_MIN_CLAIMS;
        assert_eq!(come(&mut line, 1), 1);
        line.next_batch();
        assert_eq!(come(&mut line, second - 1), 0);
        assert_eq!(come(&mut line, 1), 1);
        assert_eq!(line.next_batch().map(|batch| batch.len()), Some(second));
        assert_eq!(come(&mut line, 100), 0);
        // The first comes back to a hundred, the second, while the first is away, to less than half of that.
        assert_eq!(line.next_batch().map(|batch| batch.len()), Some(100));
        assert_eq!(come(&mut line, 49), 0);
        assert_eq!(line.next_batch(), None);
        assert_eq!(come(&mut line, 1), 1);
        assert_eq!(line.next_batch().map(|batch| batch.len()), Some(50));
    }

    #[test]
    fn a_batch_and_the_line_have_an_end() {
        let mut line = Line::default();
        come(&mut line, config::GATE_QUEUE_MAX_CLAIMS);
        assert_eq!(line.join(0), Joined::Full);
        assert_eq!(line.next_batch().map(|batch| batch.len()), Some(config::GATE_BATCH_MAX_CLAIMS));
        assert_eq!(line.join(0), Joined::Waits);
    }
}
