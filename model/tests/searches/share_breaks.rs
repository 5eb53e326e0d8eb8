//! Without a rule of moves a promise breaks: the search finds a shortest path to it.

use crate::share_checks::{breaks, failover, holds, lost, passes};
use model::shares::{Broken, Fault, Rule, Scope};
use model::{Outcome, search};

use Fault::*;
use Rule::*;

#[test]
fn a_unit_that_postgres_moves_first_is_sold_in_both_partitions() {
    let (broken, _) = breaks(TakeFirst, &Scope::small());
    assert!([Broken::Rejected, Broken::TooManyUnits].contains(&broken), "{broken:?}");
}

#[test]
fn a_take_from_an_older_hash_is_given_back_by_the_publication_that_was_on_its_way() {
    let (broken, path) = breaks(TakeOfItsVersion, &Scope { raises: &[1], claims: [0, 0], ..Scope::small() });
    assert_eq!(broken, Broken::TooManyUnits);
    passes(
        &path,
        &["the total is raised", "a take is answered", "a move is committed", "a share is published"],
    );
}

#[test]
fn a_take_of_more_than_the_stock_leaves_it_below_zero() {
    let (broken, _) = breaks(TakeAtMostStock, &Scope { claims: [1, 0], ..Scope::small() });
    assert_eq!(broken, Broken::BelowZero);
}

#[test]
fn a_commit_of_what_was_asked_for_moves_units_that_were_not_taken() {
    let (broken, _) = breaks(CommitOfTheAnswer, &Scope { units: [2, 0], sizes: &[1, 2], ..Scope::small() });
    assert!([Broken::Rejected, Broken::TooManyUnits].contains(&broken), "{broken:?}");
}

#[test]
fn a_take_of_an_older_epoch_is_committed_after_the_rebuild_gave_its_unit_back() {
    let (broken, path) = breaks(CommitOfItsEpoch, &failover());
    assert!([Broken::Rejected, Broken::TooManyUnits].contains(&broken), "{broken:?}");
    passes(&path, &["a take is answered", "FailedOver", "a move is committed", "a rebuild sets its share"]);
}

#[test]
fn a_take_of_an_older_version_is_committed_after_a_raise_gave_its_unit_back() {
    let (broken, path) =
        breaks(CommitOfItsVersion, &Scope { raises: &[1], claims: [0, 0], ..Scope::small() });
    assert_eq!(broken, Broken::TooManyUnits);
    passes(&path, &["a take is sent", "the total is raised", "a move is committed"]);
}

#[test]
fn a_transaction_that_is_open_beside_a_rebuild_moves_a_unit_that_the_rebuild_gave_back() {
    let (broken, path) = breaks(CommitHoldsTheFence, &Scope { opens: true, ..failover() });
    assert!([Broken::Rejected, Broken::TooManyUnits].contains(&broken), "{broken:?}");
    passes(
        &path,
        &[
            "a move opens its transaction",
            "a rebuild starts an epoch",
            "a rebuild reads its share",
            "a move is committed",
        ],
    );
}

#[test]
fn units_that_are_given_before_the_commit_are_given_twice() {
    let (broken, path) = breaks(CommitBeforeUnits, &Scope { claims: [0, 0], ..Scope::small() });
    assert_eq!(broken, Broken::TooManyUnits);
    passes(&path, &["the other share gets units before the commit", "a share is published"]);
}

#[test]
fn a_publication_relative_to_postgres_breaks_the_sum_after_a_cancelled_take() {
    let (broken, path) = breaks(DifferenceToTheHash, &Scope { claims: [0, 0], ..Scope::small() });
    assert_eq!(broken, Broken::SumBroken);
    passes(&path, &["a share is published"]);
}

#[test]
fn a_take_that_a_rebuild_has_kept_is_answered_although_its_unit_is_sold() {
    let scope = Scope { moves: 2, claims: [0, 0], ..failover() };
    let (broken, path) = breaks(RebuildDropsTakes, &scope);
    assert!([Broken::Rejected, Broken::TooManyUnits].contains(&broken), "{broken:?}");
    passes(&path, &["a rebuild sets its share", "a take is answered", "a move is committed"]);
}

#[test]
fn a_take_that_is_cancelled_in_redis_is_committed_after_its_unit_was_sold() {
    let (broken, path) = breaks(CancelInPostgres, &Scope { claims: [1, 0], ..Scope::small() });
    assert!([Broken::Rejected, Broken::TooManyUnits].contains(&broken), "{broken:?}");
    passes(&path, &["a take is answered", "a move is committed", "a take is cancelled"]);
}

#[test]
fn a_share_that_got_a_unit_sells_it_although_postgres_has_lost_the_move() {
    let (broken, path) = breaks(LossTakesOverShares, &Scope { claims: [0, 2], ..lost() });
    assert!([Broken::Rejected, Broken::BelowZero].contains(&broken), "{broken:?}");
    passes(
        &path,
        &["a copy of Postgres is made", "a move is committed", "PostgresOlderCopy", "a restore decides"],
    );
}

#[test]
fn a_share_whose_unit_was_taken_before_the_loss_gets_it_back_beside_the_other_share() {
    let (broken, path) = breaks(LossTakesOverTakes, &Scope { claims: [0, 0], ..lost() });
    assert_eq!(broken, Broken::Raised);
    passes(&path, &["a take is answered", "a move is committed", "PostgresOlderCopy", "a restore decides"]);
}

#[test]
fn a_share_that_is_restored_alone_sells_while_the_shares_do_not_add_up() {
    let (broken, path) = breaks(LossSetsAllShares, &Scope { claims: [0, 0], ..lost() });
    assert!([Broken::SharesDoNotAddUp, Broken::TooManyUnits].contains(&broken), "{broken:?}");
    passes(&path, &["a take is answered", "PostgresOlderCopy", "a restore decides"]);
}

#[test]
fn note_marker_and_server_of_a_take_are_not_needed_for_safety() {
    for rule in [TakeIsNoted, TakeOfItsEpoch, TakeOfItsServer] {
        holds(&Scope { without: Vec::leak(vec![rule]), ..failover() }, 2_000_000);
        let scope = Scope { claims: [1, 0], faults: &[Flushed], max_faults: 1, ..Scope::small() };
        holds(&Scope { without: Vec::leak(vec![rule]), ..scope }, 2_000_000);
    }
}

/// A restore never cancels an order of a share that Redis has lost. So the total grows if the order's unit is elsewhere.
#[test]
#[ignore = "long"]
fn a_restore_raises_the_total_if_a_cancelled_order_came_back_and_its_unit_has_moved() {
    let faults = &[PostgresOlderCopy, Flushed];
    let scope = Scope { cancels: 1, claims: [1, 0], faults, max_faults: 2, ..lost() };
    let Outcome::Breaks(broken, path) = search(&scope, 4_000_000).outcome else {
        panic!("the total is kept")
    };
    assert_eq!(broken, Broken::Raised);
    passes(&path, &["an order is cancelled", "a move is committed", "PostgresOlderCopy", "Flushed"]);
}
