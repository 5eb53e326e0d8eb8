//! The replay allows every step of the searched model, and accepts the model's quiet states as the end of a run.

use model::trace::hold_against_model;
use model::{Fault, Scope};

/// How many steps the replay allowed.
fn allows(scope: &Scope) -> usize {
    hold_against_model(scope, 20_000).unwrap_or_else(|refused| panic!("{scope:?}: {refused:#?}"))
}

#[test]
fn a_replay_allows_what_the_model_does_without_faults() {
    let scope = Scope { workers: 2, total: 2, claims: [2, 1], cancels: 1, edits: &[-1, 1], ..Scope::small() };
    assert!(allows(&scope) > 20_000);
    let waiting = Scope { waitlist: true, claims: [0, 1], cancels: 2, ..Scope::small() };
    assert!(allows(&Scope { edits: &[1, -1], ..waiting }) > 20_000);
}

#[test]
fn a_replay_allows_what_the_model_does_around_a_fault() {
    // Traces of real runs do not contain a server that replaces another one.
    for fault in Fault::ALL.into_iter().filter(|fault| !fault.replaces_a_server()) {
        let faults = Vec::leak(vec![fault]);
        let scope = Scope { faults, max_faults: 1, compares: true, ..Scope::small() };
        assert!(allows(&Scope { claims: [2, 1], cancels: 1, ..scope.clone() }) > 200, "{fault:?}");
        let reserved = Scope { reserves: true, confirms: 1, cancels: 1, claims: [2, 0], ..scope.clone() };
        assert!(allows(&reserved) > 200, "{fault:?}");
        assert!(allows(&Scope { withdraws: 1, ..scope.clone() }) > 200, "{fault:?}");
        let waiting = Scope { waitlist: true, claims: [0, 1], cancels: 2, ..scope.clone() };
        assert!(allows(&waiting) > 200, "{fault:?}");
        assert!(allows(&Scope { edits: &[-1], rebuilders: 2, ..scope }) > 200, "{fault:?}");
    }
}
