//! Without a rule a promise breaks: for each rule the search finds a shortest path to the broken promise. If the check
//! of `stock + claims = total` would find and repair the damage, the test also switches this check off. The missing
//! check alone breaks no promise in that test.

use crate::checks::{breaks, compared, passes};
use model::{Broken, Fault, Rule, Scope};

use Fault::*;
use Rule::*;

#[test]
fn a_lagging_replica_sells_a_unit_twice() {
    let scope = Scope { faults: &[RedisFailedOver], max_faults: 1, ..compared() };
    let (broken, path) = breaks(&[RedisIdentity], &scope);
    assert_eq!(broken, Broken::StocksDiffer);
    passes(&path, &["a user claims", "a worker commits", "RedisFailedOver"]);
}

#[test]
fn an_older_copy_of_postgres_forgets_orders() {
    let scope = Scope { faults: &[PostgresOlderCopy], max_faults: 1, ..Scope::small() };
    let (_, path) = breaks(&[PostgresIdentity], &scope);
    passes(&path, &["a copy of Postgres is made", "a worker commits", "PostgresOlderCopy"]);
}

#[test]
fn a_deleted_claims_hash_goes_unnoticed() {
    let scope = Scope { total: 2, claims: [2, 0], faults: &[ClaimsDeleted], max_faults: 1, ..compared() };
    let (broken, _) = breaks(&[Sum], &scope);
    assert_eq!(broken, Broken::ClaimsDiffer);
}

#[test]
fn a_transaction_opened_before_a_flush_commits_after_the_rebuild_has_read_postgres() {
    let scope = Scope { faults: &[RedisFlushed], max_faults: 1, ..compared() };
    let (broken, path) = breaks(&[FenceLock], &scope);
    assert_eq!(broken, Broken::StocksDiffer);
    passes(&path, &["a worker inserts an order", "RedisFlushed", "a rebuild decides", "a worker commits"]);
}

#[test]
fn a_worker_records_an_entry_of_an_older_epoch() {
    let scope = Scope { faults: &[RedisFlushed], max_faults: 1, ..compared() };
    let (_, path) = breaks(&[RecordingEpoch], &scope);
    passes(
        &path,
        &[
            "a worker reads an entry",
            "RedisFlushed",
            "a rebuild starts an epoch",
            "a worker inserts an order",
        ],
    );
}

#[test]
fn an_event_without_stock_in_postgres_is_retried_for_ever() {
    let (broken, path) = breaks(&[StockShortRejects], &Scope { edits: &[-1], ..compared() });
    assert_eq!(broken, Broken::NeverAtRest);
    passes(&path, &["a user claims", "the total is edited"]);
}

#[test]
fn a_unit_is_released_by_the_answer_of_xack_and_again_from_the_outbox() {
    let (broken, path) = breaks(&[Sum, HashArbitrates], &Scope { edits: &[-1], ..compared() });
    assert_eq!(broken, Broken::StocksDiffer);
    passes(&path, &["a worker rejects an order", "a unit is released", "a worker acknowledges"]);
}

#[test]
fn a_unit_that_a_rebuild_returned_is_returned_again() {
    let faults = &[RedisRestarted];
    let scope = Scope { cancels: 1, claims: [2, 0], faults, max_faults: 1, ..compared() };
    let (broken, _) = breaks(&[Sum, HashArbitrates], &scope);
    assert_eq!(broken, Broken::StocksDiffer);
}

#[test]
fn a_late_release_takes_the_unit_of_the_users_next_order() {
    let (_, path) = breaks(&[ReleaseNamesTheOrder], &Scope { cancels: 1, claims: [2, 0], ..compared() });
    passes(&path, &["an order is cancelled", "a user claims", "a user claims", "a unit is released"]);
}

#[test]
fn a_cancelled_order_comes_back_with_an_older_copy_unnoticed() {
    let faults = &[PostgresOlderCopy];
    let scope = Scope { cancels: 1, claims: [2, 0], faults, max_faults: 1, ..compared() };
    let (_, path) = breaks(&[EffectsNotePosition], &scope);
    passes(&path, &["a copy of Postgres is made", "an order is cancelled", "PostgresOlderCopy"]);
}

#[test]
fn a_stock_clamped_at_zero_gives_one_unit_too_many_later() {
    let (_, path) = breaks(&[Sum, NoClamp], &Scope { edits: &[-1, 1], ..compared() });
    passes(
        &path,
        &["a user claims", "the total is edited", "a definition is published", "a definition is published"],
    );
}

#[test]
fn a_publication_recreates_a_lost_coupon_that_has_live_orders() {
    let faults = &[CouponDeleted, ClaimsDeleted];
    let scope = Scope { edits: &[1], claims: [1, 0], faults, max_faults: 2, ..compared() };
    let (_, path) = breaks(&[PublishNeverCreates], &scope);
    passes(&path, &["a worker commits", "CouponDeleted", "ClaimsDeleted", "a definition is published"]);
}

#[test]
fn an_edit_during_a_rebuild_never_reaches_redis() {
    let faults = &[MarkerDeleted];
    let scope = Scope { edits: &[1], claims: [0, 0], rebuilders: 2, faults, max_faults: 1, ..compared() };
    let (_, path) = breaks(&[PublishRepeats], &scope);
    passes(&path, &["a rebuild reads definitions", "the total is edited", "a definition is published"]);
}

#[test]
fn a_publication_from_a_replaced_postgres_is_recorded_in_the_new_one() {
    let faults = &[PostgresPromoted];
    let scope = Scope { edits: &[1, -1], claims: [0, 0], faults, max_faults: 1, ..compared() };
    let (_, path) = breaks(&[PublicationOfItsEpoch, HigherVersionWins], &scope);
    passes(&path, &["PostgresPromoted", "a definition is published", "a publication is recorded"]);
}

#[test]
fn a_session_outlives_its_epoch() {
    let faults = &[RedisFlushed, SessionDropped];
    let scope = Scope { claims: [1, 0], rebuilders: 2, faults, max_faults: 2, ..compared() };
    let (broken, _) = breaks(&[SessionOfTheRow], &scope);
    assert_eq!(broken, Broken::NeverAtRest);
}

#[test]
fn an_acknowledged_entry_is_counted_as_an_unrecorded_order() {
    let scope = Scope { faults: &[PostgresPromoted], max_faults: 1, ..Scope::small() };
    let (_, path) = breaks(&[AcknowledgedDoNotCount], &scope);
    passes(&path, &["a worker acknowledges", "PostgresPromoted", "a rebuild decides"]);
}

#[test]
fn a_rebuilder_whose_lock_was_dropped_rejects_a_live_claim() {
    let faults = &[RedisFlushed, SessionDropped];
    let scope = Scope { rebuilders: 2, claims: [2, 0], faults, max_faults: 3, ..compared() };
    let (broken, path) = breaks(&[DecisionIsFenced], &scope);
    assert_eq!(broken, Broken::Rejected);
    passes(&path, &["SessionDropped", "a rebuild ends", "a rebuild decides"]);
}

#[test]
fn a_rebuilder_that_was_overtaken_writes_over_live_claims() {
    let faults = &[ClaimsDeleted, SessionDropped];
    let scope = Scope { rebuilders: 2, cancels: 1, faults, max_faults: 2, ..compared() };
    let (_, path) = breaks(&[BuildingMarker], &scope);
    passes(&path, &["SessionDropped", "a rebuild takes the lock", "a rebuild applies a field"]);
}

#[test]
fn claims_deleted_in_the_middle_of_a_rebuild_are_counted_as_free_units() {
    let scope = Scope { faults: &[ClaimsDeleted], max_faults: 2, ..compared() };
    let (broken, path) = breaks(&[CouponCountsClaims], &scope);
    assert_eq!(broken, Broken::StocksDiffer);
    passes(&path, &["a rebuild decides", "ClaimsDeleted", "a rebuild sets the coupon"]);
}

#[test]
fn a_rebuilder_that_dies_leaves_lost_commits_unnoticed() {
    let faults = &[PostgresPromoted, RebuilderKilled];
    let scope = Scope { cancels: 1, claims: [2, 0], faults, max_faults: 2, ..compared() };
    let (broken, path) = breaks(&[LossIsNoted, AgreedPostgresStays], &scope);
    assert_eq!(broken, Broken::SoldOverLoss);
    passes(&path, &["the operator orders a rebuild", "RebuilderKilled", "the fence comes up"]);
}

#[test]
fn a_cancelled_order_that_came_back_causes_a_rejection_of_the_next_one() {
    let faults = &[PostgresPromoted];
    let scope = Scope { cancels: 1, claims: [2, 0], faults, max_faults: 1, ..compared() };
    let (broken, _) = breaks(&[LossCancels, NewerClaimCancels], &scope);
    assert_eq!(broken, Broken::Rejected);
}

#[test]
fn an_order_that_came_back_after_a_restart_of_redis_causes_a_rejection_of_the_next_one() {
    let faults = &[RedisRestarted, PostgresOlderCopy];
    let scope = Scope { cancels: 1, claims: [2, 0], faults, max_faults: 2, ..compared() };
    let (broken, path) = breaks(&[NewerClaimCancels], &scope);
    assert_eq!(broken, Broken::Rejected);
    passes(&path, &["an order is cancelled", "a user claims", "PostgresOlderCopy", "a rebuild decides"]);
}

#[test]
fn an_order_that_came_back_beside_deleted_claims_causes_a_rejection_of_the_next_one() {
    let faults = &[ClaimsDeleted, PostgresOlderCopy];
    let scope = Scope { cancels: 1, claims: [2, 0], faults, max_faults: 2, ..compared() };
    let (broken, path) = breaks(&[NewerClaimCancels], &scope);
    assert_eq!(broken, Broken::Rejected);
    passes(&path, &["an order is cancelled", "a user claims", "PostgresOlderCopy", "a rebuild decides"]);
}

#[test]
fn a_raised_total_that_both_stores_lost_rejects_the_claim_that_a_dead_rebuilder_left() {
    let faults = &[PostgresOlderCopy, RedisFailedOver, RebuilderKilled];
    let scope = Scope {
        total: 0,
        claims: [1, 0],
        edits: &[1],
        faults,
        max_faults: 3,
        compares: true,
        ..Scope::small()
    };
    let (broken, path) = breaks(&[ExcessClaimsUnconfirm], &scope);
    assert_eq!(broken, Broken::Rejected);
    passes(&path, &["the total is edited", "RedisFailedOver", "PostgresOlderCopy", "RebuilderKilled"]);
}

#[test]
fn a_replica_that_is_behind_cancels_recorded_orders() {
    let faults = &[RedisFailedOver, PostgresOlderCopy];
    let scope = Scope { faults, max_faults: 2, ..compared() };
    let (broken, path) = breaks(&[OnlyCurrentRedisCancels], &scope);
    assert_eq!(broken, Broken::Rejected);
    passes(&path, &["a worker commits", "RedisFailedOver", "a rebuild decides"]);
}

#[test]
fn lost_commits_are_rebuilt_without_the_operator_after_redis_has_restarted() {
    for fault in [RedisRestarted, MarkerDeleted, StockEdited] {
        let faults = Vec::leak(vec![PostgresOlderCopy, fault]);
        let (broken, path) = breaks(&[LossWaits], &Scope { faults, max_faults: 2, ..compared() });
        assert_eq!(broken, Broken::SoldOverLoss);
        passes(&path, &["PostgresOlderCopy", "the fence comes up"]);
    }
}

#[test]
fn orders_under_a_raised_total_that_an_older_copy_lacks_are_rejected() {
    let faults = &[PostgresOlderCopy];
    let scope = Scope { edits: &[1], faults, max_faults: 1, ..compared() };
    let (broken, path) = breaks(&[HigherVersionWins], &scope);
    assert!([Broken::Rejected, Broken::SoldByOldDefinition].contains(&broken), "{broken:?}");
    passes(&path, &["the total is edited", "PostgresOlderCopy", "the operator orders a rebuild"]);
}

#[test]
fn a_pause_that_an_older_copy_lacks_is_undone() {
    let faults = &[PostgresOlderCopy, RedisRestarted];
    let scope = Scope { edits: &[0], claims: [1, 0], faults, max_faults: 2, ..compared() };
    let (broken, path) = breaks(&[HigherVersionWins], &scope);
    assert_eq!(broken, Broken::SoldByOldDefinition);
    passes(&path, &["a definition is published", "PostgresOlderCopy", "a user claims"]);
}

#[test]
fn a_definition_restored_by_hand_is_not_noticed() {
    let faults = &[DefinitionRestored];
    let scope = Scope { edits: &[0], claims: [1, 0], faults, max_faults: 1, ..compared() };
    let (_, path) = breaks(&[HigherVersionIsALoss], &scope);
    passes(&path, &["the total is edited", "a definition is published", "DefinitionRestored"]);
}

#[test]
fn a_coupon_with_an_unconfirmed_definition_is_still_sold() {
    let faults = &[DefinitionRestored, CouponDeleted];
    let scope = Scope { edits: &[0], claims: [1, 0], faults, max_faults: 2, ..compared() };
    let (broken, path) = breaks(&[UnconfirmedPauses], &scope);
    assert_eq!(broken, Broken::SoldByOldDefinition);
    passes(&path, &["DefinitionRestored", "CouponDeleted", "a rebuild decides", "a user claims"]);
}

#[test]
fn a_flush_during_an_ordered_rebuild_cancels_every_order() {
    for faults in [&[PostgresPromoted, RedisFlushed], &[PostgresPromoted, ClaimsDeleted]] {
        let scope = Scope { claims: [1, 0], edits: &[1], faults, max_faults: 2, ..compared() };
        let (broken, path) = breaks(&[LossChecksSum], &scope);
        assert_eq!(broken, Broken::Rejected);
        passes(&path, &["the operator orders a rebuild", "a rebuild reads the claims", "a rebuild decides"]);
    }
}

#[test]
fn a_comparison_overwrites_the_stock_while_claims_are_under_way() {
    let (broken, _) = breaks(&[Sum, CompareWritesNoStock], &Scope { claims: [1, 0], ..compared() });
    assert_eq!(broken, Broken::StocksDiffer);
}

#[test]
fn a_repeat_is_answered_with_a_dead_order() {
    let (broken, _) = breaks(&[RepeatAsksPostgres], &Scope { cancels: 1, claims: [2, 0], ..compared() });
    assert_eq!(broken, Broken::DeadOrderAnswered);
}

#[test]
fn a_pending_entry_that_was_deleted_is_forgotten() {
    let faults = &[PendingDeleted, WorkerKilled];
    let scope = Scope { faults, max_faults: 2, ..Scope::small() };
    let (_, path) = breaks(&[DeletedEntriesAreALoss], &scope);
    passes(&path, &["PendingDeleted", "WorkerKilled"]);
}

#[test]
fn a_group_created_at_the_end_skips_events_that_only_the_stream_has() {
    let faults = &[GroupDestroyed, ClaimsDeleted];
    let scope = Scope { claims: [1, 0], faults, max_faults: 2, ..compared() };
    let (broken, _) = breaks(&[GroupAtZero], &scope);
    assert_eq!(broken, Broken::Forgotten);
}

#[test]
fn a_deleted_entry_is_forgotten_when_the_worker_that_finds_it_dies() {
    let faults = &[PendingDeleted, WorkerKilled, ServerKilled];
    let scope = Scope { claims: [1, 0], faults, max_faults: 3, ..Scope::small() };
    let (_, path) = breaks(&[DeletedEntriesStay], &scope);
    passes(&path, &["PendingDeleted", "a worker finds a deleted entry", "ServerKilled"]);
}
