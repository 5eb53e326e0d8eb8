//! What a rebuild does to Redis: the scripts that demand its `building:<epoch>` marker, and the reading
//! of claims hashes. They go as EVAL, so that they need no cache. When to call what is `fence/rebuild`'s affair.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use fred::types::Value;

use super::keys::{GROUP, Keys};
use super::scripts::definition_fields;
use super::{Redis, RedisError, array, info, integer, probe, script_args, text};
use crate::config;
use crate::domain::{CouponId, Definition, OrderId, UserId};

const BEGIN: &str = include_str!("../../lua/rebuild_begin.lua");
const TYPES: &str = include_str!("../../lua/rebuild_types.lua");
const CHUNK: &str = include_str!("../../lua/rebuild_chunk.lua");
const COUPON: &str = include_str!("../../lua/rebuild_coupon.lua");
const EVENTS: &str = include_str!("../../lua/rebuild_events.lua");
const READY: &str = include_str!("../../lua/rebuild_ready.lua");

/// Numbers of the headers of `rebuild_*.lua`.
pub mod rebuild_code {
    pub const BEGUN: i64 = 0;
    pub const NEWER: i64 = 1;
    pub const DONE: i64 = 0;
    pub const READY: i64 = 0;
    pub const FENCED: i64 = 1;
    pub const CHANGED: i64 = 2;
}

/// Sets the marker to `building:<epoch>` and sees to stream and group; `false` where a newer rebuild has begun.
pub async fn begin(redis: &Redis, epoch: &str) -> Result<bool, RedisError> {
    let Keys { epoch: marker, orders, postgres_lsn, tally, .. } = &redis.keys;
    let keys = [marker, orders, postgres_lsn, tally].map(|key| &**key);
    let args = script_args(BEGIN, keys, [epoch, GROUP]);
    if !succeeded(redis, args, [rebuild_code::BEGUN, rebuild_code::NEWER], "rebuild_begin").await? {
        return Ok(false);
    }
    // Before anything is read: what goes from here on is missed again, all else is this rebuild's to find.
    let building = building_marker(epoch);
    match probe::tally(redis, &building).await? {
        Some(tally) => probe::settle(redis, &building, &tally).await,
        None => Ok(false),
    }
}

/// Removes coupon and claims keys of a wrong type; `None` where this rebuild is no longer the newest.
pub async fn remove_wrong_types(
    redis: &Redis,
    building: &str,
    coupons: &[CouponId],
) -> Result<Option<i64>, RedisError> {
    let mut removed = 0;
    for chunk in coupons.chunks(config::REBUILD_CHUNK_FIELDS) {
        let keys = std::iter::once(redis.keys.epoch.to_string())
            .chain(chunk.iter().flat_map(|id| [redis.keys.coupon(id), redis.keys.claims(id)]));
        let reply =
            integer(&redis.call("EVAL", script_args(TYPES, keys, [building])).await?, "rebuild_types")?;
        if reply < 0 {
            return Ok(None);
        }
        removed += reply;
    }
    Ok(Some(removed))
}

/// A claims hash as it stands.
#[derive(Default)]
pub struct ClaimsHash {
    pub claims: HashMap<UserId, OrderId>,
    /// Fields that are no claim of ours: each would hold a unit that nobody owns.
    pub strangers: HashSet<Bytes>,
}

impl ClaimsHash {
    /// Units that its fields hold.
    #[must_use]
    pub fn held(&self) -> usize {
        self.claims.len() + self.strangers.len()
    }

    fn take_in(&mut self, page: Vec<(Bytes, Bytes)>) {
        for (field, value) in page {
            match info::read_claim(&field, &value) {
                Some((user, order)) => drop(self.claims.insert(user, order)),
                // A copy: the field itself would keep its whole page in memory.
                None => drop(self.strangers.insert(Bytes::copy_from_slice(&field))),
            }
        }
    }
}

/// Reads a claims hash whole, in pages.
pub async fn claims_hash(redis: &Redis, coupon: &CouponId) -> Result<ClaimsHash, RedisError> {
    let mut hash = ClaimsHash::default();
    let (mut page, mut cursor) = info::scan_claims(redis, coupon, "0").await?;
    while cursor != "0" {
        // The next page is under way while this one is read.
        let (next, ()) = tokio::join!(info::scan_claims(redis, coupon, &cursor), async {
            hash.take_in(std::mem::take(&mut page));
        });
        (page, cursor) = next?;
    }
    hash.take_in(page);
    Ok(hash)
}

/// `stock`, `total` and all other fields of a coupon's hash, for comparing; empty where it is absent.
pub async fn coupon_hash(redis: &Redis, coupon: &CouponId) -> Result<HashMap<String, String>, RedisError> {
    let fields = array(redis.call("HGETALL", vec![redis.keys.coupon(coupon).into()]).await?, "HGETALL")?;
    Ok(fields.chunks_exact(2).filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?))).collect())
}

/// Deletes fields of a claims hash and sets others, together at most `REBUILD_CHUNK_FIELDS`. `false`: no longer
/// the newest.
pub async fn apply_chunk(
    redis: &Redis,
    building: &str,
    coupon: &CouponId,
    delete: &[Bytes],
    set: &[(UserId, OrderId)],
) -> Result<bool, RedisError> {
    let mut args = script_args(CHUNK, redis.coupon_keys(coupon), [building]);
    args.reserve(1 + delete.len() + 2 * set.len());
    args.push(i64::try_from(delete.len()).unwrap_or(i64::MAX).into());
    args.extend(delete.iter().cloned().map(Value::Bytes));
    args.extend(set.iter().flat_map(|(user, order)| [user.as_str().into(), order.to_string().into()]));
    succeeded(redis, args, [rebuild_code::DONE, rebuild_code::FENCED], "rebuild_chunk").await
}

/// Whether the coupon's hash is what `set_coupon` would make of it with `held` units held.
#[must_use]
pub(crate) fn coupon_is_right(hash: &HashMap<String, String>, definition: &Definition, held: usize) -> bool {
    let held = i64::try_from(held).unwrap_or(i64::MAX);
    hash.get("stock") == Some(&(definition.total - held).to_string()) && is_defined_as(hash, definition)
}

/// The same but for its stock.
#[must_use]
pub(crate) fn is_defined_as(hash: &HashMap<String, String>, definition: &Definition) -> bool {
    let expected = [("total", definition.total), ("version", definition.version)];
    let numbers = expected.iter().all(|(name, value)| hash.get(*name) == Some(&value.to_string()));
    numbers
        && definition_fields(definition)
            .chunks_exact(2)
            .all(|pair| text(&pair[0]).and_then(|name| hash.get(&name).cloned()) == text(&pair[1]))
}

/// What became of a coupon's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CouponSet {
    Done,
    /// No longer the newest rebuild.
    Fenced,
    /// Somebody has changed the claims since they were decided.
    ClaimsChanged,
}

/// Sets a coupon to its definition and `stock` to total − claims, if `held` claims are there.
pub async fn set_coupon(
    redis: &Redis,
    building: &str,
    definition: &Definition,
    held: usize,
) -> Result<CouponSet, RedisError> {
    let mut args = script_args(COUPON, redis.coupon_keys(&definition.id), [building]);
    args.push(i64::try_from(held).unwrap_or(i64::MAX).into());
    args.extend([definition.total.into(), "version".into(), definition.version.into()]);
    args.extend(definition_fields(definition));
    match integer(&redis.call("EVAL", args).await?, "rebuild_coupon")? {
        rebuild_code::DONE => Ok(CouponSet::Done),
        rebuild_code::FENCED => Ok(CouponSet::Fenced),
        rebuild_code::CHANGED => Ok(CouponSet::ClaimsChanged),
        other => Err(RedisError::Reply(format!("rebuild_coupon: unknown code {other}"))),
    }
}

/// Appends order events of kept claims. `false`: no longer the newest.
pub async fn append_events(
    redis: &Redis,
    building: &str,
    coupon: &CouponId,
    orders: &[(UserId, OrderId)],
) -> Result<bool, RedisError> {
    let keys = [&*redis.keys.epoch, &*redis.keys.orders];
    for chunk in orders.chunks(config::REBUILD_CHUNK_FIELDS) {
        let mut args = script_args(EVENTS, keys, [building, coupon.as_str()]);
        for (user, order) in chunk {
            args.extend([user.as_str().into(), order.to_string().into()]);
        }
        if !succeeded(redis, args, [rebuild_code::DONE, rebuild_code::FENCED], "rebuild_events").await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sets the marker to `ready:<epoch>` and notes Postgres's position. `false`: no longer the newest.
pub async fn ready(redis: &Redis, epoch: &str, postgres_lsn: &str) -> Result<bool, RedisError> {
    let keys = [&*redis.keys.epoch, &*redis.keys.orders, &*redis.keys.postgres_lsn];
    let args = script_args(READY, keys, [epoch, postgres_lsn]);
    succeeded(redis, args, [rebuild_code::READY, rebuild_code::FENCED], "rebuild_ready").await
}

/// The marker while this epoch's rebuild is under way.
#[must_use]
pub fn building_marker(epoch: &str) -> String {
    format!("building:{epoch}")
}

/// Runs a script that answers one of two codes: `true` for the first, `false` for the second.
async fn succeeded(
    redis: &Redis,
    args: Vec<Value>,
    [done, refused]: [i64; 2],
    name: &str,
) -> Result<bool, RedisError> {
    match integer(&redis.call("EVAL", args).await?, name)? {
        code if code == done => Ok(true),
        code if code == refused => Ok(false),
        other => Err(RedisError::Reply(format!("{name}: unknown code {other}"))),
    }
}
