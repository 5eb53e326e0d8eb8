//! A standby of Postgres is promoted. One that has every commit needs no operator, also if Redis fails over at the same
//! time; one that lacks commits waits for the operator. Without one of the rules for this a promise breaks.

use crate::checks::{breaks, breaks_somewhere, holds, of, passes};
use model::{Broken, Fault, Rule, Scope};

use Fault::*;
use Rule::*;

fn reserved() -> Scope {
    Scope { reserves: true, claims: [1, 0], confirms: 1, ..Scope::small() }
}

#[expect(clippy::cast_possible_truncation, reason = "all numbers of a scope are below ten")]
fn with(faults: &[Fault]) -> Scope {
    Scope { faults: of(faults), max_faults: faults.len() as u8, ..reserved() }
}

#[test]
fn a_failover_that_keeps_everything_needs_no_operator() {
    let faults = [
        &[PostgresFailedOver][..],
        &[PostgresFailedOver, RedisFailedOver],
        &[PostgresFailedOver, RedisRestarted],
        &[PostgresFailedOver, RebuilderKilled],
        &[PostgresFailedOver, ServerKilled],
    ];
    for faults in faults {
        holds(&with(faults), 2_000_000);
        holds(&Scope { claims: [2, 0], cancels: 1, confirms: 0, reserves: false, ..with(faults) }, 2_000_000);
        holds(&Scope { edits: &[1], confirms: 0, reserves: false, ..with(faults) }, 2_000_000);
    }
}

#[test]
fn a_failover_beside_a_restart_of_redis_needs_no_operator_although_the_rebuild_dies() {
    holds(&with(&[PostgresFailedOver, RedisRestarted, RebuilderKilled]), 6_000_000);
}

#[test]
fn a_failover_that_loses_commits_waits_for_the_operator() {
    for fault in [RedisFailedOver, RedisRestarted, RebuilderKilled, ServerKilled] {
        let scope = Scope { rebuilders: 2, ..with(&[PostgresPromoted, fault]) };
        holds(&scope, 6_000_000);
    }
}

#[test]
fn a_standby_that_lacks_a_commit_is_taken_for_complete() {
    let (broken, path) = breaks(&[PromotionIsCompared], &with(&[PostgresPromoted]));
    assert_eq!(broken, Broken::SoldOverLoss);
    passes(&path, &["a worker commits", "PostgresPromoted", "the fence comes up"]);
}

#[test]
fn a_confirm_of_the_old_primary_is_answered_after_the_standby_was_compared() {
    let (broken, path) = breaks(&[PromotionIsComparedAgain], &with(&[PostgresPromoted]));
    assert_eq!(broken, Broken::ConfirmLost);
    passes(
        &path,
        &[
            "an order is confirmed",
            "PostgresPromoted",
            "a rebuild probes the stores",
            "a confirm is answered",
        ],
    );
}

#[test]
fn an_epoch_on_the_promoted_standby_hides_that_the_server_has_changed() {
    let (broken, path) = breaks(&[AgreedPostgresStays], &with(&[PostgresPromoted]));
    assert_eq!(broken, Broken::ConfirmLost);
    passes(
        &path,
        &[
            "PostgresPromoted",
            "a rebuild probes the stores",
            "a confirm is answered",
            "a rebuild starts an epoch",
        ],
    );
}

#[test]
fn both_stores_lose_a_confirm_and_neither_shows_it() {
    let (broken, path) = breaks(&[OwnRedisShowsPromotion], &with(&[RedisFailedOver, PostgresPromoted]));
    assert_eq!(broken, Broken::SoldOverLoss);
    passes(&path, &["RedisFailedOver", "PostgresPromoted", "the fence comes up"]);
}

#[test]
fn a_position_of_the_new_primary_looks_like_a_loss() {
    let scope = Scope { edits: &[1], confirms: 0, reserves: false, ..with(&[PostgresFailedOver]) };
    let (broken, path) = breaks(&[PositionOfTheRow], &scope);
    assert_eq!(broken, Broken::WaitsInVain);
    passes(&path, &["PostgresFailedOver", "a definition is read", "a definition is published"]);
}

#[test]
fn the_outbox_row_of_an_order_that_ended_again_is_deleted_without_its_release() {
    let scope = Scope { compares: true, ..with(&[RedisFailedOver, PostgresPromoted]) };
    let (broken, path) = breaks_somewhere(&[OutboxOfItsPostgres], &scope, 8_000_000);
    assert_eq!(broken, Broken::StocksDiffer);
    passes(
        &path,
        &["PostgresPromoted", "a unit is released", "an order expires", "an outbox row is deleted"],
    );
}
