//! The scripts of a rebuild. Each writes only under its `building:<epoch>` marker, and is sent as EVAL: the script cache
//! may be empty. `fence/rebuild` decides what to write.

use bytes::Bytes;
use fred::types::Value;

use super::claims_hash::{ClaimField, KeysByOrder, encode_value};
use super::keys::{GROUP, Keys};
use super::lua::{
    REBUILD_BEGIN, REBUILD_CHUNK, REBUILD_COUPON, REBUILD_EVENTS, REBUILD_READY, REBUILD_TYPES, code,
    decode_count, decode_done, unknown_code,
};
use super::marker::building_marker;
use super::{Redis, RedisError, coupon_hash, integer, probe, script_args, tally};
use crate::config;
use crate::domain::{CouponId, Definition, Epoch, OrderId};

/// Sets the marker to `building:<epoch>` and creates the stream and the group if they are absent; `false` if a newer
/// rebuild has begun.
pub async fn begin(redis: &Redis, epoch: &Epoch) -> Result<bool, RedisError> {
    let Keys { epoch: marker, orders, postgres_lsn, tally, .. } = &redis.keys;
    let keys = [marker, orders, postgres_lsn, tally].map(|key| &**key);
    let args = script_args(REBUILD_BEGIN.source(), keys, [epoch.as_str(), GROUP]);
    if !decode_done(&redis.call("EVAL", args).await?, &REBUILD_BEGIN)? {
        return Ok(false);
    }
    // Before the rebuild reads anything: the rebuild finds entries that were missed earlier, and entries that are
    // missed later change the tally.
    let building = building_marker(epoch);
    match probe::recount_tally(redis, &building).await? {
        Some(found) => tally::settle(redis, &building, &found).await,
        None => Ok(false),
    }
}

/// Removes coupon and claims keys of a wrong type and returns how many; `None` if a newer rebuild has begun.
pub async fn remove_wrong_types(
    redis: &Redis,
    building: &str,
    coupons: &[CouponId],
) -> Result<Option<i64>, RedisError> {
    let mut removed = 0;
    for chunk in coupons.chunks(config::REBUILD_CHUNK_FIELDS) {
        let keys = std::iter::once(redis.keys.epoch.to_string())
            .chain(chunk.iter().flat_map(|id| [redis.keys.coupon(id), redis.keys.claims(id)]));
        let args = script_args(REBUILD_TYPES.source(), keys, [building]);
        let Some(count) = decode_count(redis.call("EVAL", args).await?, &REBUILD_TYPES)? else {
            return Ok(None);
        };
        removed += count;
    }
    Ok(Some(removed))
}

/// Deletes fields of a claims hash and sets others, at most `REBUILD_CHUNK_FIELDS` in all; `false` if a newer rebuild
/// has begun.
pub async fn apply_chunk(
    redis: &Redis,
    building: &str,
    coupon: &CouponId,
    delete: &[Bytes],
    set: &[(ClaimField, OrderId)],
    keys: &KeysByOrder,
) -> Result<bool, RedisError> {
    let mut args = script_args(REBUILD_CHUNK.source(), redis.coupon_keys(coupon), [building]);
    args.reserve(1 + delete.len() + 2 * set.len());
    args.push(i64::try_from(delete.len()).unwrap_or(i64::MAX).into());
    args.extend(delete.iter().cloned().map(Value::Bytes));
    args.extend(fields_and_values(set, keys));
    decode_done(&redis.call("EVAL", args).await?, &REBUILD_CHUNK)
}

fn fields_and_values(claims: &[(ClaimField, OrderId)], keys: &KeysByOrder) -> impl Iterator<Item = Value> {
    claims
        .iter()
        .flat_map(|(field, order)| [field.as_str().into(), encode_value(*order, keys.get(order)).into()])
}

/// The result of `set_coupon`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CouponSet {
    Done,
    /// A newer rebuild has begun, or the stream is gone.
    Fenced,
    /// Another program has changed the claims since the rebuild read them.
    ClaimsChanged,
}

/// Sets a coupon hash to the definition, and its stock to total − claims, if its claims hash has `held` fields.
pub async fn set_coupon(
    redis: &Redis,
    building: &str,
    definition: &Definition,
    held: usize,
) -> Result<CouponSet, RedisError> {
    let mut args = script_args(REBUILD_COUPON.source(), redis.coupon_keys(&definition.id), [building]);
    args.push(i64::try_from(held).unwrap_or(i64::MAX).into());
    args.extend([definition.total.into(), "version".into(), definition.version.into()]);
    args.extend(coupon_hash::other_fields(definition));
    match integer(&redis.call("EVAL", args).await?, "rebuild_coupon")? {
        code::DONE => Ok(CouponSet::Done),
        code::FENCED | code::INCONSISTENT => Ok(CouponSet::Fenced),
        code::CLAIMS_CHANGED => Ok(CouponSet::ClaimsChanged),
        other => Err(unknown_code(&REBUILD_COUPON, other)),
    }
}

/// Appends the order events of these claims; `false` where a newer rebuild has begun.
pub async fn append_events(
    redis: &Redis,
    building: &str,
    coupon: &CouponId,
    claims: &[(ClaimField, OrderId)],
    keys: &KeysByOrder,
) -> Result<bool, RedisError> {
    let script_keys = [&*redis.keys.epoch, &*redis.keys.orders];
    for chunk in claims.chunks(config::REBUILD_CHUNK_FIELDS) {
        let mut args = script_args(REBUILD_EVENTS.source(), script_keys, [building, coupon.as_str()]);
        args.extend(fields_and_values(chunk, keys));
        if !decode_done(&redis.call("EVAL", args).await?, &REBUILD_EVENTS)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sets the marker to `ready:<epoch>` and records Postgres's WAL position; `false` if a newer rebuild has begun.
pub async fn ready(redis: &Redis, epoch: &Epoch, postgres_lsn: &str) -> Result<bool, RedisError> {
    let keys = [&*redis.keys.epoch, &*redis.keys.orders, &*redis.keys.postgres_lsn];
    let args = script_args(REBUILD_READY.source(), keys, [epoch.as_str(), postgres_lsn]);
    decode_done(&redis.call("EVAL", args).await?, &REBUILD_READY)
}
