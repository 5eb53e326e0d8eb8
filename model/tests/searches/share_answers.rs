//! Questions about moves, each answered by a search and by one run.

use crate::share_checks::{breaks, holds};
use model::shares::{Broken, Rule, Scope};

#[test]
fn a_take_may_be_repeated_with_another_number_of_units() {
    let scope =
        Scope { units: [2, 1], sizes: &[1, 2], movers: 2, moves: 2, claims: [0, 0], ..Scope::small() };
    holds(&scope, 4_000_000);
    let (broken, _) = breaks(Rule::CommitOfTheAnswer, &scope);
    assert!([Broken::TooManyUnits, Broken::BelowZero].contains(&broken), "{broken:?}");
}

#[test]
fn both_shares_may_be_published_in_either_order() {
    let moved = ["a take is sent", "a take is answered", "a move is committed"];
    let published = ["a share is read", "a share is read", "a share is published", "a share is published"];
    let scope = Scope { claims: [0, 0], ..Scope::small() };
    assert!(scope.allows(&[&moved[..], &published].concat()));
    holds(&scope, 1_000_000);
}

#[test]
fn a_raise_that_is_committed_during_a_take_cancels_the_take() {
    let scope = Scope { raises: &[1], claims: [1, 0], ..Scope::small() };
    let run = ["a take is sent", "a take is answered", "the total is raised", "a commit is refused"];
    assert!(scope.allows(&run));
    assert!(!scope.allows(&[
        "a take is sent",
        "a take is answered",
        "the total is raised",
        "a move is committed"
    ]));
    holds(&scope, 4_000_000);
}

#[test]
fn publications_alone_repair_every_share_while_no_store_fails() {
    let scope = Scope { rebuilds: false, raises: &[1], claims: [1, 0], ..Scope::small() };
    holds(&scope, 4_000_000);
    holds(
        &Scope { rebuilds: false, cancels: 1, movers: 2, moves: 2, claims: [1, 0], ..Scope::small() },
        4_000_000,
    );
}

#[test]
fn the_unit_of_a_cancelled_order_returns_to_its_own_share_beside_moves() {
    holds(&Scope { cancels: 1, claims: [1, 0], moves: 2, ..Scope::small() }, 4_000_000);
}

#[test]
fn a_lowering_takes_from_each_share_and_is_refused_as_a_whole_if_too_little_is_left() {
    let scope = Scope { moves: 0, claims: [1, 0], lowers: &[2], ..Scope::small() };
    let answers = ["a take is answered", "a lowering asks the next share", "a take is answered"];
    let whole = [&["a lowering begins"][..], &answers, &["a move is committed"]].concat();
    assert!(scope.allows(&whole));
    let short = [&["a user claims", "a lowering begins"][..], &answers, &["a lowering is refused"]].concat();
    assert!(scope.allows(&short));
    holds(&scope, 4_000_000);
}
