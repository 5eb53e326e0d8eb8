//! The orders that a rebuild has decided to keep: at most one for each slot of a user, and one for each key.

use std::collections::{HashMap, HashSet};

use crate::domain::{IdempotencyKey, OrderId, UserId};
use crate::redis::claims_hash::ClaimField;

#[derive(Default)]
pub struct Kept {
    by_field: HashMap<ClaimField, OrderId>,
    keys: HashSet<(UserId, IdempotencyKey)>,
}

impl Kept {
    /// Keeps the order and returns `true`, or returns `false` if another kept order of the user has the slot or the
    /// key.
    pub fn keep(&mut self, field: &ClaimField, order: OrderId, key: Option<&IdempotencyKey>) -> bool {
        let key = key.map(|key| (field.user(), key.clone()));
        if self.has(field) || key.as_ref().is_some_and(|key| self.keys.contains(key)) {
            return false;
        }
        self.by_field.insert(field.clone(), order);
        self.keys.extend(key);
        true
    }

    /// Whether a kept order has the slot.
    pub fn has(&self, field: &ClaimField) -> bool {
        self.by_field.contains_key(field)
    }

    /// Whether this order is the kept order of the slot.
    pub fn holds(&self, field: &ClaimField, order: OrderId) -> bool {
        self.by_field.get(field) == Some(&order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_and_a_key_of_a_user_are_kept_once() {
        let mut kept = Kept::default();
        let mut keep = |user: &str, slot, key: Option<&str>| {
            let key: Option<IdempotencyKey> = key.map(|key| key.parse().unwrap());
            kept.keep(&ClaimField::new(&user.parse().unwrap(), slot), OrderId::mint(), key.as_ref())
        };
        assert!(keep("alice", 1, Some("a")));
        assert!(!keep("alice", 1, Some("b")), "the slot is taken");
        assert!(!keep("alice", 2, Some("a")), "the key is taken");
        assert!(keep("alice", 2, Some("b")), "an order that was not kept takes neither slot nor key");
        assert!(keep("bob", 1, Some("a")), "users may have equal keys");
        assert!(keep("carol", 1, None) && keep("carol", 2, None));
    }
}
