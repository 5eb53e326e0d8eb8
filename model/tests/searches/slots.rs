//! A user with two slots and Idempotency-Keys, also with faults. Without one of the rules for slots and keys a promise
//! breaks.

use crate::checks::{breaks, breaks_somewhere, holds, of, passes};
use model::{Broken, Fault, Rule, Scope};

use Fault::*;
use Rule::*;

/// Two units, one user with two slots and two keys.
fn slots() -> Scope {
    Scope { slots: true, total: 2, ..Scope::small() }
}

#[test]
fn two_keys_two_slots_and_no_fault() {
    holds(&Scope { workers: 2, claims: [2, 2], cancels: 2, ..slots() }, 4_000_000);
    holds(&Scope { claims: [2, 1], cancels: 1, edits: &[-1, 1], ..slots() }, 4_000_000);
}

#[test]
fn any_fault_beside_two_slots() {
    for fault in Fault::ALL {
        let scope = Scope { faults: of(&[fault]), compares: true, max_faults: 1, ..slots() };
        // A promotion at any moment multiplies the states.
        let cancels = u8::from(![PostgresPromoted, PostgresFailedOver].contains(&fault));
        holds(&Scope { claims: [2, 1], cancels, ..scope }, 4_000_000);
    }
}

#[test]
fn a_retry_with_its_key_takes_a_second_unit() {
    let (broken, _) = breaks(&[KeyIsHeld], &Scope { claims: [2, 0], ..slots() });
    assert_eq!(broken, Broken::SecondUnitForKey);
}

#[test]
fn a_retry_after_a_rebuild_that_forgot_its_key_takes_a_second_unit() {
    let scope = Scope { claims: [2, 0], faults: &[RedisFlushed], max_faults: 1, compares: true, ..slots() };
    let (broken, path) = breaks(&[RebuildKeepsKeys], &scope);
    assert_eq!(broken, Broken::SecondUnitForKey);
    passes(&path, &["a user claims", "RedisFlushed", "a rebuild applies a field", "a user claims"]);
}

#[test]
#[ignore = "long"]
fn lost_commits_beside_two_slots() {
    for lost in [PostgresOlderCopy, PostgresPromoted] {
        let scope = Scope { claims: [2, 1], cancels: 2, compares: true, max_faults: 1, ..slots() };
        holds(&Scope { faults: of(&[lost]), ..scope }, 30_000_000);
    }
}

#[test]
#[ignore = "long"]
fn an_order_that_came_back_in_another_slot_causes_a_rejection_of_the_next_one_with_its_key() {
    let faults = &[RedisRestarted, PostgresOlderCopy];
    let scope = Scope { claims: [2, 1], cancels: 2, faults, max_faults: 2, ..slots() };
    let (broken, path) = breaks_somewhere(&[SameKeyCancels], &scope, 30_000_000);
    assert_eq!(broken, Broken::Rejected);
    passes(&path, &["an order is cancelled", "a user claims", "PostgresOlderCopy", "a rebuild decides"]);
}
