//! The waiting list of a sold-out coupon, beside faults. Without one of its rules a promise breaks.

use crate::checks::{breaks, holds, of, passes};
use model::{Broken, Fault, Rule, Scope};

use Fault::*;
use Rule::*;

/// One unit: user 1 claims it, and both users may wait for it.
fn waitlist() -> Scope {
    Scope { waitlist: true, claims: [0, 1], cancels: 1, ..Scope::small() }
}

fn after(faults: &'static [Fault]) -> Scope {
    Scope { faults, max_faults: 1, compares: true, ..waitlist() }
}

#[test]
fn users_wait_for_a_unit_that_comes_back() {
    holds(&Scope { workers: 2, cancels: 2, ..waitlist() }, 4_000_000);
    holds(&Scope { edits: &[1, -1], ..waitlist() }, 4_000_000);
}

#[test]
fn any_fault_beside_a_waiting_user() {
    for fault in Fault::ALL {
        // A copy of Postgres that is made or promoted at any moment multiplies the states.
        let has_copy = [PostgresOlderCopy, PostgresPromoted, PostgresFailedOver].contains(&fault);
        holds(&Scope { cancels: u8::from(!has_copy), ..after(of(&[fault])) }, 8_000_000);
    }
}

#[test]
#[ignore = "long"]
fn lost_commits_beside_a_waiting_user_and_an_order_that_ends() {
    for lost in [PostgresOlderCopy, PostgresPromoted] {
        holds(&after(of(&[lost])), 40_000_000);
    }
}

#[test]
fn a_claim_overtakes_the_users_who_wait() {
    let (broken, path) =
        breaks(&[LineBlocksClaims], &Scope { total: 0, edits: &[1], cancels: 0, ..waitlist() });
    assert_eq!(broken, Broken::Barged);
    passes(&path, &["a user joins the line", "a user claims"]);
}

#[test]
fn a_flush_forgets_a_place_that_only_redis_had() {
    let (broken, _) = breaks(&[JoinCommitsFirst], &after(&[RedisFlushed]));
    assert_eq!(broken, Broken::WaitForgotten);
}

#[test]
fn a_rebuild_forgets_the_line() {
    let (broken, _) = breaks(&[RebuildRestoresLine], &after(&[RedisFlushed]));
    assert_eq!(broken, Broken::WaitForgotten);
}

#[test]
fn a_rebuild_serves_a_place_again_that_was_served() {
    let (broken, path) = breaks(&[ServedDoNotWait], &Scope { cancels: 2, ..after(&[RedisRestarted]) });
    assert_eq!(broken, Broken::ServedTwice);
    passes(&path, &["the first in line is served", "an order is cancelled", "the first in line is served"]);
}

#[test]
fn a_rebuild_serves_a_place_again_whose_order_is_on_its_way() {
    let (broken, path) = breaks(&[HoldersDoNotWait], &Scope { cancels: 2, ..after(&[RedisRestarted]) });
    assert_eq!(broken, Broken::ServedTwice);
    passes(&path, &["the first in line is served", "RedisRestarted", "the first in line is served"]);
}

#[test]
fn an_older_copy_of_postgres_forgets_a_place() {
    let (broken, _) = breaks(&[LossAdoptsLine], &Scope { cancels: 0, ..after(&[PostgresOlderCopy]) });
    assert_eq!(broken, Broken::WaitForgotten);
}

#[test]
fn a_second_request_adds_a_ticket_again_that_was_served() {
    let (broken, _) = breaks(&[TicketForEachJoin], &Scope { cancels: 2, ..waitlist() });
    assert_eq!(broken, Broken::ServedTwice);
}
