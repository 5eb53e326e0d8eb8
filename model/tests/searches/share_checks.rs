//! Checks that no promise breaks in a scope of the model of shares, or that one breaks without a rule.

use model::shares::{Broken, Fault, Rule, Scope, State};
use model::{Outcome, Path, search};

use Fault::*;

/// Searches the whole scope. Also checks that something happens: otherwise the search proves nothing.
#[track_caller]
pub fn holds(scope: &Scope, max_states: usize) -> usize {
    let found = search(scope, max_states);
    assert!(matches!(found.outcome, Outcome::Holds), "{scope:?}: {:?}", found.outcome);
    assert!(found.quiet > 1, "{scope:?}: nothing happens");
    found.states
}

/// The broken promise without this rule, and a shortest path to it.
#[track_caller]
pub fn breaks(rule: Rule, scope: &Scope) -> (Broken, Path<State>) {
    match search(&Scope { without: Vec::leak(vec![rule]), ..scope.clone() }, 4_000_000).outcome {
        Outcome::Breaks(broken, path) => (broken, path),
        outcome => panic!("without {rule:?}: {outcome:?}"),
    }
}

#[track_caller]
pub fn passes(path: &Path<State>, steps: &[&str]) {
    assert!(path.passes(steps), "{path:?}");
}

pub fn failover() -> Scope {
    Scope { claims: [1, 0], faults: &[FailedOver], max_faults: 1, ..Scope::small() }
}

pub fn lost() -> Scope {
    Scope { claims: [1, 1], faults: &[PostgresOlderCopy], max_faults: 1, ..Scope::small() }
}
