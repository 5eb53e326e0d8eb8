//! Whether Postgres has lost commits that Redis still tells of (`fence/lost.rs`), and what an ordered rebuild makes
//! of the coupon's definition then (`fence/rebuild/definitions.rs`).

use crate::state::{Coupon, Epoch, Marker, Postgres, Rebuilder, Redis, State, counter};
use crate::{Rule, Scope};

/// A sign of lost commits. Claims then wait for a person, unless Redis is empty and nothing was noticed before:
/// there is nothing to be made again then.
#[must_use]
pub fn shows(redis: &Redis, postgres: &Postgres, scope: &Scope, loss_by_postgres: bool) -> bool {
    let changed = postgres.row.lost
        || has_newer_definition(redis, postgres, scope)
        || (scope.has(Rule::PostgresIdentity)
            && (counter(redis.marker.epoch()) > counter(postgres.row.epoch)
                || postgres.position < redis.noted
                || loss_by_postgres
                || postgres.identity != postgres.row.identity));
    let matters = if scope.has(Rule::LossWaits) {
        postgres.row.lost || !redis.is_empty()
    } else {
        is_whole(redis, postgres.row.epoch, postgres.row.run)
    };
    changed && matters
}

/// Postgres alone makes versions.
#[must_use]
pub fn has_newer_definition(redis: &Redis, postgres: &Postgres, scope: &Scope) -> bool {
    scope.has(Rule::HigherVersionIsALoss)
        && redis.believable().is_some_and(|coupon| coupon.version > postgres.coupon.version)
}

/// What was noticed waits, whatever becomes of Redis.
#[must_use]
pub fn waits_for_a_person(state: &State, scope: &Scope) -> bool {
    let row = &state.postgres.row;
    let is_same_redis = state.redis.run == row.run && state.redis.marker != Marker::None;
    row.lost && (scope.has(Rule::LossWaits) || is_same_redis)
}

/// Redis is not behind this Postgres: the one of the agreement, or of a later one than this Postgres remembers. A
/// replica with a later marker holds whatever was live when that marker was set.
#[must_use]
pub fn may_cancel(redis: &Redis, epoch: Epoch, run: u8) -> bool {
    if counter(redis.marker.epoch()) > counter(epoch) {
        matches!(redis.marker, Marker::Ready(_))
    } else {
        // A rebuild that died after its new epoch leaves the marker behind the row.
        redis.run == run && redis.marker != Marker::None
    }
}

fn is_whole(redis: &Redis, epoch: Epoch, run: u8) -> bool {
    let adds_up = redis.coupon.is_none() || redis.believable().is_some();
    may_cancel(redis, epoch, run) && redis.has_group() && adds_up
}

/// The coupon as an ordered rebuild leaves it in Postgres, beside so many live orders and units held.
#[must_use]
pub fn definition(mine: &Rebuilder, postgres: &Postgres, scope: &Scope, live: i8, held: i8) -> Coupon {
    let before = Coupon { stock: postgres.coupon.total - live, ..postgres.coupon };
    if !mine.postgres_lost {
        return before;
    }
    match mine.hash {
        Some(hash) if mine.is_believed && hash.version > before.version => {
            if scope.has(Rule::HigherVersionWins) { adopted(hash, live) } else { before }
        }
        Some(hash) if mine.is_believed && is_confirmed(hash, postgres) => before,
        hash => unconfirmed(before, hash, scope, live, held),
    }
}

/// A total below what is live beside it cannot be taken over as it was.
fn adopted(hash: Coupon, live: i8) -> Coupon {
    let total = hash.total.max(live);
    let is_cut = total != hash.total;
    let version = hash.version + u8::from(is_cut);
    Coupon { total, stock: total - live, version, paused: hash.paused || is_cut }
}

/// Redis has what Postgres says that it has.
fn is_confirmed(hash: Coupon, postgres: &Postgres) -> bool {
    let Coupon { total, version, paused, .. } = postgres.coupon;
    hash.version >= postgres.published
        && (hash.version < version || (hash.total, hash.paused) == (total, paused))
}

/// What was in force is not known: paused, so that a person looks. The claims tell how many units there were at least.
fn unconfirmed(before: Coupon, hash: Option<Coupon>, scope: &Scope, live: i8, held: i8) -> Coupon {
    let version = hash.map_or(0, |hash| hash.version);
    let may_lack_an_edit = hash.is_none() || version > before.version;
    let total = if may_lack_an_edit { before.total.max(held) } else { before.total };
    if !scope.has(Rule::UnconfirmedPauses) || (before.paused && total == before.total) {
        return before;
    }
    Coupon { total, stock: total - live, version: before.version.max(version) + 1, paused: true }
}
