//! What the open streams show, so that only that is read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::feed::Topic;
use crate::domain::CouponId;

/// A cheap handle; clones share one count.
#[derive(Clone, Default)]
pub struct Topics {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    listed: usize,
    one: BTreeMap<CouponId, usize>,
}

/// One stream's topic, until it is dropped.
pub struct Watched {
    topics: Topics,
    topic: Topic,
}

impl Topics {
    pub fn watch(&self, topic: Topic) -> Watched {
        {
            let mut counts = self.lock();
            match &topic {
                Topic::Listed => counts.listed += 1,
                Topic::One(id) => *counts.one.entry(id.clone()).or_default() += 1,
            }
        }
        Watched { topics: self.clone(), topic }
    }

    /// Whether a stream shows the list, and the coupons with streams of their own.
    pub fn get(&self) -> (bool, Vec<CouponId>) {
        let counts = self.lock();
        (counts.listed > 0, counts.one.keys().cloned().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut counts = self.topics.lock();
        match &self.topic {
            Topic::Listed => counts.listed -= 1,
            Topic::One(id) => {
                if let Some(count) = counts.one.get_mut(id) {
                    *count -= 1;
                    if *count == 0 {
                        counts.one.remove(id);
                    }
                }
            }
        }
    }
}
