//! A reserved order is confirmed, cancelled, expired or revoked only once, also with faults. Without one of the rules
//! for this a promise breaks.

use crate::checks::{breaks, compared, holds, of, passes};
use model::{Broken, Fault, Rule, Scope};

use Fault::*;
use Rule::*;

fn reserved() -> Scope {
    Scope { reserves: true, ..Scope::small() }
}

#[test]
fn a_confirm_a_cancel_and_the_sweeper_race_for_an_order() {
    holds(&Scope { workers: 2, claims: [2, 1], confirms: 1, cancels: 1, ..reserved() }, 2_000_000);
    holds(&Scope { total: 2, claims: [2, 2], confirms: 2, cancels: 1, ..reserved() }, 2_000_000);
    holds(&Scope { total: 2, claims: [1, 1], confirms: 2, edits: &[-1, 1], ..reserved() }, 2_000_000);
}

#[test]
fn any_fault_beside_a_reserved_order() {
    for fault in Fault::ALL {
        let scope = Scope { faults: of(&[fault]), compares: true, max_faults: 1, ..reserved() };
        // A promotion at any moment multiplies the states.
        let is_promotion = [PostgresPromoted, PostgresFailedOver].contains(&fault);
        let claims = if is_promotion { [1, 0] } else { [2, 0] };
        holds(&Scope { claims, confirms: 1, ..scope.clone() }, 2_000_000);
        let claims = if is_promotion { [1, 0] } else { [1, 1] };
        holds(&Scope { claims, cancels: 1, ..scope }, 2_000_000);
    }
}

#[test]
fn any_fault_beside_a_unit_that_is_withdrawn() {
    for fault in Fault::ALL {
        let scope = Scope { faults: of(&[fault]), compares: true, max_faults: 1, ..Scope::small() };
        holds(&Scope { total: 2, claims: [1, 1], withdraws: 1, ..scope }, 4_000_000);
    }
}

fn lost_commits_and(fault: Fault) {
    for lost in [PostgresOlderCopy, PostgresPromoted] {
        let scope = Scope { claims: [1, 0], confirms: 1, compares: true, max_faults: 2, ..reserved() };
        holds(&Scope { faults: of(&[lost, fault]), ..scope }, 4_000_000);
    }
}

#[test]
fn lost_commits_and_a_flush_beside_a_confirm() {
    lost_commits_and(RedisFlushed);
}

#[test]
#[ignore = "long"]
fn lost_commits_and_any_fault_beside_a_confirm() {
    Fault::ALL.into_iter().for_each(lost_commits_and);
}

#[test]
fn the_sweeper_expires_orders_of_an_older_copy_that_lacks_their_confirms() {
    let scope =
        Scope { faults: &[PostgresOlderCopy], max_faults: 1, claims: [1, 0], confirms: 1, ..reserved() };
    let scope = Scope { compares: true, ..scope };
    let (broken, path) = breaks(&[TransitionsAreFenced], &scope);
    assert_eq!(broken, Broken::ConfirmLost);
    passes(&path, &["a confirm is answered", "PostgresOlderCopy", "an order expires"]);
}

#[test]
fn a_confirm_that_redis_does_not_know_of_is_lost_unnoticed() {
    let scope =
        Scope { faults: &[PostgresOlderCopy], max_faults: 1, claims: [1, 0], confirms: 1, ..reserved() };
    let (broken, path) = breaks(&[ConfirmNotesPosition], &Scope { compares: true, ..scope });
    assert_eq!(broken, Broken::ConfirmLost);
    passes(&path, &["a confirm is answered", "PostgresOlderCopy"]);
}

#[test]
fn an_order_whose_confirm_is_lost_expires_as_soon_as_claims_are_accepted_again() {
    let scope =
        Scope { faults: &[PostgresOlderCopy], max_faults: 1, claims: [1, 0], confirms: 1, ..reserved() };
    let (broken, path) = breaks(&[LossRestartsDeadlines], &Scope { compares: true, ..scope });
    assert_eq!(broken, Broken::ConfirmLost);
    passes(&path, &["a confirm is answered", "PostgresOlderCopy", "the operator orders a rebuild"]);
}

#[test]
fn an_order_that_is_cancelled_while_the_sweeper_reads_it_returns_two_units() {
    let (broken, path) = breaks(&[TransitionsAreConditional], &Scope { cancels: 1, ..reserved() });
    assert_eq!(broken, Broken::Oversold);
    passes(&path, &["a sweep begins", "an order is cancelled", "an order expires"]);
}

#[test]
fn a_confirm_after_the_deadline_wins_if_the_sweeper_has_not_come() {
    let (broken, path) = breaks(&[DeadlineDecides], &Scope { confirms: 1, ..reserved() });
    assert_eq!(broken, Broken::ConfirmedLate);
    passes(&path, &["the time to pay passes", "an order is confirmed"]);
}

#[test]
fn a_unit_that_ends_without_an_outbox_row_never_returns() {
    let (broken, _) = breaks(&[EndsReturnTheUnit], &Scope { cancels: 1, ..reserved() });
    assert_eq!(broken, Broken::StocksDiffer);
}

#[test]
fn a_withdrawn_unit_is_sold_before_redis_has_the_lowered_total() {
    let scope = Scope { withdraws: 1, claims: [1, 1], ..compared() };
    let (broken, path) = breaks(&[ReleaseAwaitsVersion], &scope);
    assert_eq!(broken, Broken::Rejected);
    passes(&path, &["its unit withdrawn", "a unit is released", "a user claims"]);
}
