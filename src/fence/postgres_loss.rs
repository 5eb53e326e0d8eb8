//! Detects that Postgres has lost commits (a restored copy, an asynchronous failover) while Redis still has their
//! effects. Then an operator must decide, even if Redis restarts later: a rebuild from such a Postgres would forget
//! winners and undo edits.

use std::collections::{BTreeMap, HashMap};

use super::Evidence;
use super::promotion::Successor;
use crate::domain::{CouponId, counter};
use crate::postgres::fence::FenceRow;
use crate::redis::marker::epoch_of;
use crate::redis::probe::RedisProbe;
use crate::redis::{Redis, RedisError, coupon_hash, server_info};

/// A sign that Postgres has lost commits.
#[derive(Clone, Debug)]
pub struct Sign {
    pub why: String,
    /// This Redis may belong to another Postgres: the fence row is not flagged.
    pub may_be_foreign: bool,
}

/// The difference between the coupons in Redis and those in Postgres.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    /// Coupons that Postgres does not know. Nothing of them is deleted, since their claims are the only record of their
    /// winners.
    pub unknown: Vec<CouponId>,
    /// A coupon whose version in Redis is higher, with the version in Redis and the version in Postgres.
    pub newer: Option<(CouponId, i64, i64)>,
}

impl Definitions {
    /// Compares versions read from Redis with versions read from Postgres *afterwards*: an edit reaches Postgres first.
    pub async fn compare(
        redis: &Redis,
        in_redis: &BTreeMap<CouponId, Option<i64>>,
        in_postgres: &HashMap<CouponId, i64>,
    ) -> Result<Self, RedisError> {
        let mut compared = Self::default();
        for (id, version) in in_redis {
            match (version, in_postgres.get(id)) {
                (_, None) => compared.unknown.push(id.clone()),
                (Some(theirs), Some(ours))
                    if theirs > ours && compared.newer.is_none() && adds_up(redis, id).await? =>
                {
                    compared.newer = Some((id.clone(), *theirs, *ours));
                }
                _ => {}
            }
        }
        Ok(compared)
    }

    /// Why Postgres has lost commits; `None` if these definitions do not show it.
    pub fn why(&self) -> Option<String> {
        match (self.unknown.first(), &self.newer) {
            (Some(unknown), _) => Some(format!("it does not know coupon {unknown}, which Redis holds")),
            (None, Some((id, theirs, ours))) => newer_in_redis(id, *theirs, *ours),
            (None, None) => None,
        }
    }
}

/// Why Postgres has lost an edit: a consistent coupon hash has a higher version than the row, which was read after the
/// hash. Only Postgres creates versions. `None` if the version is not higher.
pub fn newer_in_redis(coupon: &CouponId, in_redis: i64, in_postgres: i64) -> Option<String> {
    (in_redis > in_postgres).then(|| {
        format!("coupon {coupon} is at version {in_redis} in Redis and at {in_postgres} in Postgres")
    })
}

/// A sign of lost commits. `None` also if Redis is empty and no loss was detected before: then there is nothing to
/// restore.
pub async fn by_postgres(
    redis: &Redis,
    seen: &RedisProbe,
    row: &FenceRow,
    evidence: Option<&Evidence>,
    compared: &Definitions,
    successor: &Successor,
) -> Result<Option<Sign>, RedisError> {
    let why = compared.why().or_else(|| change(seen, row, evidence, successor.loss(seen, row)));
    let Some(why) = why else { return Ok(None) };
    if !row.postgres_lost && compared.unknown.is_empty() && server_info::has_no_keys(redis).await? {
        return Ok(None);
    }
    let is_of_the_row = seen.marker.as_deref().and_then(epoch_of) == Some(row.epoch.as_str());
    let may_be_foreign = !row.postgres_lost
        && !compared.unknown.is_empty()
        && !is_of_the_row
        && marker_counter(seen) <= row.epoch.counter();
    Ok(Some(Sign { why, may_be_foreign }))
}

/// Why Postgres has lost commits, as far as one probe shows it. `replaced` is why another server in its place may lack
/// some.
fn change(
    seen: &RedisProbe,
    row: &FenceRow,
    evidence: Option<&Evidence>,
    replaced: Option<String>,
) -> Option<String> {
    let is_older_copy =
        seen.postgres_lsn.as_ref().zip(row.lsn.as_ref()).is_some_and(|(noted, now)| now < noted);
    if is_older_than_redis(seen, row) {
        Some("its epoch is older than the one in Redis".into())
    } else if replaced.is_some() {
        replaced
    } else if is_older_copy {
        Some("it is an older copy of itself".into())
    } else if let Some(evidence) = evidence.filter(|evidence| evidence.by_postgres) {
        Some(evidence.reason.clone())
    } else {
        row.postgres_lost.then(|| "noticed before".into())
    }
}

/// Why a loss was noticed before, as far as one probe still shows it.
pub fn noticed_before(seen: &RedisProbe, row: &FenceRow, evidence: Option<&Evidence>) -> String {
    let is_replaced = !row.postgres_identity.is_empty() && row.this_postgres != row.postgres_identity;
    let replaced = is_replaced.then(|| "another server or timeline has taken its place".to_owned());
    change(seen, row, evidence, replaced).unwrap_or_default()
}

/// Whether Redis cannot be behind this Postgres: it is the Redis of the agreement, or its marker has a later epoch than
/// the row. Only then a live order that Redis does not hold has certainly ended.
pub fn may_cancel(seen: &RedisProbe, row: &FenceRow) -> bool {
    if is_older_than_redis(seen, row) {
        seen.marker.as_ref().is_some_and(|marker| marker.starts_with("ready:"))
    } else {
        // A rebuild that died after it made the new epoch leaves an older marker in Redis.
        seen.run_id == row.redis_run_id && seen.marker.is_some()
    }
}

/// The reason and the command that helps, for the operator. Every place that shows the reason uses this sentence.
pub fn sentence(why: &str) -> String {
    format!(
        "Postgres has lost commits, or belongs to another Redis ({why}): claims wait for an operator. {WHAT_TO_DO}"
    )
}

/// The remedy in either case.
pub const WHAT_TO_DO: &str = "If this is the right database, `seckill reconcile --rebuild` restores what Redis \
    still holds and lists what it changes; if these stores do not belong together, correct REDIS_URL, DATABASE_URL or \
    SECKILL_REDIS_PREFIX";

async fn adds_up(redis: &Redis, id: &CouponId) -> Result<bool, RedisError> {
    match coupon_hash::first_inconsistent(redis, std::slice::from_ref(id)).await {
        Ok(wrong) => Ok(wrong.is_none()),
        Err(RedisError::WrongType(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the marker in Redis has a later epoch than the row.
pub fn is_older_than_redis(seen: &RedisProbe, row: &FenceRow) -> bool {
    marker_counter(seen) > row.epoch.counter()
}

fn marker_counter(seen: &RedisProbe) -> u64 {
    seen.marker.as_deref().and_then(epoch_of).map_or(0, counter)
}
