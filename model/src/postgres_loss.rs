//! Whether Redis shows that Postgres has lost commits (`fence/postgres_loss.rs`), and which definition an ordered
//! rebuild then puts in force (`fence/rebuild/definitions.rs`).

use crate::state::{Coupon, Epoch, Marker, Postgres, Rebuilder, Redis, State, counter};
use crate::{Rule, Scope};

/// Redis has lost the position.
const NONE_NOTED: u8 = 0;

/// Whether Postgres has lost commits. Claims then wait for the operator, unless Redis is empty and the loss was not
/// recorded before: Redis then holds nothing to restore.
#[must_use]
pub fn is_lost(redis: &Redis, postgres: &Postgres, scope: &Scope, loss_by_postgres: bool) -> bool {
    let changed = postgres.row.lost
        || has_newer_definition(redis, postgres, scope)
        || (scope.has(Rule::PostgresIdentity)
            && (counter(redis.marker.epoch()) > counter(postgres.row.epoch)
                || postgres.position < redis.noted
                || loss_by_postgres
                || may_lack_commits(redis, postgres, scope)));
    let matters = if scope.has(Rule::LossWaits) {
        postgres.row.lost || !redis.is_empty()
    } else {
        is_whole(redis, postgres.row.epoch, postgres.row.run)
    };
    changed && matters
}

/// Another Postgres than that of the last agreement may lack commits with an effect in Redis (`fence/promotion.rs`).
#[must_use]
pub fn may_lack_commits(redis: &Redis, postgres: &Postgres, scope: &Scope) -> bool {
    is_another(redis, postgres, scope)
        && (!shows_promotion(redis, postgres, scope) || lacks_commits(redis, postgres, scope))
}

/// The promoted standby has left its primary's timeline before the position in Redis.
#[must_use]
pub fn lacks_commits(redis: &Redis, postgres: &Postgres, scope: &Scope) -> bool {
    let since = usize::from(agreed(redis, postgres, scope)) - 1..usize::from(postgres.identity) - 1;
    let is_left_before = |timeline: usize| postgres.left_at[timeline] < redis.noted;
    is_another(redis, postgres, scope)
        && (redis.noted == NONE_NOTED || since.into_iter().any(is_left_before))
        && scope.has(Rule::PromotionIsCompared)
}

fn is_another(redis: &Redis, postgres: &Postgres, scope: &Scope) -> bool {
    postgres.identity != agreed(redis, postgres, scope)
}

/// The Postgres of the last agreement. A `ready` marker of the row's epoch proves that the stores have agreed since the row
/// names its Postgres.
fn agreed(redis: &Redis, postgres: &Postgres, scope: &Scope) -> u8 {
    let row = &postgres.row;
    let has_agreed = redis.marker == Marker::Ready(row.epoch) || !scope.has(Rule::AgreedPostgresStays);
    if has_agreed { row.identity } else { row.agreed }
}

/// The position in Redis covers every commit that has had an effect outside Postgres.
fn shows_promotion(redis: &Redis, postgres: &Postgres, scope: &Scope) -> bool {
    let row = &postgres.row;
    let epoch = redis.marker.epoch();
    let is_own = redis.run == row.run || !scope.has(Rule::OwnRedisShowsPromotion);
    let is_of_a_rebuild_since =
        counter(row.agreed_epoch) < counter(epoch) && counter(epoch) < counter(row.epoch);
    let is_known = epoch == row.epoch || epoch == row.agreed_epoch || is_of_a_rebuild_since;
    redis.marker != Marker::None && is_known && (is_own || row.with_standby)
}

/// Redis has a version that Postgres does not have. Only Postgres makes versions, so Postgres has lost an edit.
#[must_use]
pub fn has_newer_definition(redis: &Redis, postgres: &Postgres, scope: &Scope) -> bool {
    scope.has(Rule::HigherVersionIsALoss)
        && redis.consistent_coupon().is_some_and(|coupon| coupon.version > postgres.coupon.version)
}

/// A recorded loss waits for the operator, whatever happens to Redis.
#[must_use]
pub fn waits_for_operator(state: &State, scope: &Scope) -> bool {
    let row = &state.postgres.row;
    let is_same_redis = state.redis.run == row.run && state.redis.marker != Marker::None;
    row.lost && (scope.has(Rule::LossWaits) || is_same_redis)
}

/// Redis is not older than this Postgres: it is the Redis of the fence row's epoch, or it has a later marker. A
/// replica with a later marker holds every order that was live when that marker was set.
#[must_use]
pub fn may_cancel(redis: &Redis, epoch: Epoch, run: u8) -> bool {
    if counter(redis.marker.epoch()) > counter(epoch) {
        matches!(redis.marker, Marker::Ready(_))
    } else {
        // A rebuild that died after it had written its new epoch leaves an older marker in Redis.
        redis.run == run && redis.marker != Marker::None
    }
}

fn is_whole(redis: &Redis, epoch: Epoch, run: u8) -> bool {
    let is_consistent = redis.coupon.is_none() || redis.consistent_coupon().is_some();
    may_cancel(redis, epoch, run) && redis.has_group() && is_consistent
}

/// The definition that an ordered rebuild leaves in Postgres, for a number of live orders and of claims held.
#[must_use]
pub fn definition(mine: &Rebuilder, postgres: &Postgres, scope: &Scope, live: i8, held: i8) -> Coupon {
    let before = Coupon { stock: postgres.coupon.total - live, ..postgres.coupon };
    if !mine.postgres_lost {
        return before;
    }
    match mine.hash {
        Some(hash) if mine.is_consistent && hash.version > before.version => {
            if scope.has(Rule::HigherVersionWins) { adopted(hash, scope, (live, held)) } else { before }
        }
        Some(hash) if mine.is_consistent && is_confirmed(hash, postgres, scope, held) => before,
        hash => {
            let is_excess =
                scope.has(Rule::ExcessClaimsUnconfirm) && mine.is_consistent && held > before.total;
            unconfirmed(before, hash, is_excess, scope, (live, held))
        }
    }
}

/// Raises a total that is below the number of claims: a revocation may have withdrawn a unit, and Postgres may have
/// lost the revocation.
fn adopted(hash: Coupon, scope: &Scope, (live, held): (i8, i8)) -> Coupon {
    let total = hash.total.max(if scope.has(Rule::ExcessClaimsUnconfirm) { held } else { live });
    let is_cut = total != hash.total;
    let version = hash.version + u8::from(is_cut);
    Coupon { total, stock: total - live, version, paused: hash.paused || is_cut }
}

/// Redis has the version that Postgres has recorded as published. Not if it holds more claims than units: they were
/// accepted under a higher total, which both stores may have lost.
fn is_confirmed(hash: Coupon, postgres: &Postgres, scope: &Scope, held: i8) -> bool {
    let Coupon { total, version, paused, .. } = postgres.coupon;
    let is_same = (hash.total, hash.paused) == (total, paused);
    let has_room = held <= total || !scope.has(Rule::ExcessClaimsUnconfirm);
    hash.version >= postgres.published && (hash.version < version || is_same && has_room)
}

/// The definition that was in force is unknown: the coupon is paused until an admin resumes it. The total is at least
/// the number of claims.
fn unconfirmed(
    before: Coupon,
    hash: Option<Coupon>,
    is_excess: bool,
    scope: &Scope,
    (live, held): (i8, i8),
) -> Coupon {
    let version = hash.map_or(0, |hash| hash.version);
    let may_lack_an_edit = hash.is_none() || version > before.version || is_excess;
    let total = if may_lack_an_edit { before.total.max(held) } else { before.total };
    if !scope.has(Rule::UnconfirmedPauses) || (before.paused && total == before.total) {
        return before;
    }
    Coupon { total, stock: total - live, version: before.version.max(version) + 1, paused: true }
}
