//! Checks that no promise breaks in a scope, or that a promise breaks without some rules.

use model::trace::replay_path;
use model::{Broken, Fault, Outcome, Path, Rule, Scope, search};

use Rule::SessionOfTheRow;

/// Searches the whole scope and checks that no promise breaks. Also checks that something happens and that the search
/// was complete: otherwise it proves nothing.
pub fn holds(scope: &Scope, max_states: usize) -> usize {
    let found = search(scope, max_states);
    assert!(matches!(found.outcome, Outcome::Holds), "{scope:?}: {:?}", found.outcome);
    assert!(found.quiet > 1, "{scope:?}: nothing happens");
    assert_eq!(found.unfollowed, 0, "{scope:?}: the stream has no room");
    found.states
}

pub fn of(faults: &[Fault]) -> &'static [Fault] {
    Vec::leak(faults.to_vec())
}

const MAX_STATES: usize = 6_000_000;

/// The broken promise without these rules, and the path to it. Also checks that no promise breaks as soon as one of
/// these rules is in force.
pub fn breaks(rules: &'static [Rule], scope: &Scope) -> (Broken, Path) {
    for left in rules {
        let others: Vec<Rule> = rules.iter().copied().filter(|rule| rule != left).collect();
        let outcome = search(&Scope { without: Vec::leak(others), ..scope.clone() }, MAX_STATES).outcome;
        assert!(matches!(outcome, Outcome::Holds), "with {left:?} in force: {outcome:?}");
    }
    breaks_somewhere(rules, scope, MAX_STATES)
}

/// Like `breaks`, for a scope that is too large for a complete search: it does not check each rule alone.
pub fn breaks_somewhere(rules: &'static [Rule], scope: &Scope, max_states: usize) -> (Broken, Path) {
    let without = Scope { without: rules, ..scope.clone() };
    match search(&without, max_states).outcome {
        Outcome::Breaks(broken, path) => {
            // A replay sees only the steps of the stores. It does not see the answer to a client, or a server that
            // refuses claims without a reason. It cannot follow a change from one server to another.
            let is_hidden = broken == Broken::DeadOrderAnswered || rules == [SessionOfTheRow];
            let is_seen = !is_hidden && !scope.faults.iter().any(|fault| fault.replaces_a_server());
            assert!(!is_seen || replay_path(&without, &path).is_some(), "{rules:?}: {path:?}");
            (broken, path)
        }
        outcome => panic!("without {rules:?}: {outcome:?}"),
    }
}

pub fn compared() -> Scope {
    Scope { compares: true, ..Scope::small() }
}

#[track_caller]
pub fn passes(path: &Path, steps: &[&str]) {
    assert!(path.passes(steps), "{path:?}");
}
