//! Calls of the scripts that run while the fence is up. Each checks the epoch marker itself; behind the fence it writes
//! nothing. The claim script and the release script have files of their own; the scripts of a rebuild are in
//! `rebuild.rs`.

pub mod claim;
pub mod release;
pub mod take;

use std::time::Duration;

use fred::types::Value;

use super::claims_hash::{StoredClaim, encode_value};
use super::keys::{GROUP, Keys};
use super::lua::{ACKNOWLEDGE, PUBLISH, REMOVE_CONSUMER, REQUEUE, TRIM, code, decode_count, unknown_code};
use super::{Redis, RedisError, coupon_hash, integer, script_args};
use crate::domain::{CouponId, Definition};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The definition is in force.
    Applied,
    /// Redis has this version or a higher one already.
    Current,
    /// The marker is another one.
    Fenced,
    /// The stream or the coupon is absent, or stock + claims is not the total.
    Inconsistent,
}

/// Brings a definition into force. `just_inserted` is true only in the request that inserted the coupon's row: any
/// other request could create the hash again while claims of the coupon still exist.
pub async fn publish(
    redis: &Redis,
    ready: &str,
    just_inserted: bool,
    definition: &Definition,
) -> Result<Published, RedisError> {
    let more = [
        ready.into(),
        i64::from(just_inserted).into(),
        Value::from(definition.version),
        definition.total.into(),
    ];
    let mut args = script_args(PUBLISH.sha1(), redis.coupon_keys(&definition.id), more);
    args.extend(coupon_hash::other_fields(definition));
    match integer(&PUBLISH.run(redis, args).await?, "publish")? {
        code::DONE => Ok(Published::Applied),
        code::CURRENT => Ok(Published::Current),
        code::FENCED => Ok(Published::Fenced),
        code::INCONSISTENT => Ok(Published::Inconsistent),
        other => Err(unknown_code(&PUBLISH, other)),
    }
}

/// Trims acknowledged entries. Keeps a tail of `tail` entries, and for other groups every entry from the id `keep_from`
/// on. Returns how many it removed; `None` if it is fenced.
pub async fn trim(redis: &Redis, ready: &str, tail: u64, keep_from: &str) -> Result<Option<i64>, RedisError> {
    let tail = i64::try_from(tail).unwrap_or(i64::MAX);
    let args = script_args(
        TRIM.sha1(),
        [&*redis.keys.epoch, &*redis.keys.orders, &*redis.keys.tally],
        [ready.into(), Value::from(tail), GROUP.into(), keep_from.into()],
    );
    decode_count(TRIM.run(redis, args).await?, &TRIM)
}

/// Removes a consumer that has no pending entry and was idle for `gone_after`; `false` if the consumer stays.
pub async fn remove_consumer(
    redis: &Redis,
    ready: &str,
    consumer: &str,
    gone_after: Duration,
) -> Result<bool, RedisError> {
    let gone_after_ms = i64::try_from(gone_after.as_millis()).unwrap_or(i64::MAX);
    let more = [ready.into(), GROUP.into(), consumer.into(), Value::from(gone_after_ms)];
    let keys = [&*redis.keys.epoch, &*redis.keys.orders];
    let args = script_args(REMOVE_CONSUMER.sha1(), keys, more);
    match integer(&REMOVE_CONSUMER.run(redis, args).await?, "remove_consumer")? {
        code::DONE => Ok(true),
        code::KEPT | code::FENCED => Ok(false),
        other => Err(unknown_code(&REMOVE_CONSUMER, other)),
    }
}

/// Acknowledges entries that Postgres has recorded or rejected up to this WAL position. Returns how many were pending;
/// `None` if it is fenced.
pub async fn acknowledge(
    redis: &Redis,
    ready: &str,
    lsn: &str,
    ids: impl Iterator<Item = &str>,
) -> Result<Option<i64>, RedisError> {
    let Keys { epoch, orders, postgres_lsn, tally, .. } = &redis.keys;
    let keys = [epoch, orders, postgres_lsn, tally].map(|key| &**key);
    let mut args = script_args(ACKNOWLEDGE.sha1(), keys, [ready, lsn, GROUP]);
    args.extend(ids.map(Value::from));
    decode_count(ACKNOWLEDGE.run(redis, args).await?, &ACKNOWLEDGE)
}

/// Sends lost order events again: those of claims that have neither an entry nor a row. Returns how many; `None` if it
/// is fenced.
pub async fn requeue(
    redis: &Redis,
    ready: &str,
    coupon: &CouponId,
    claims: &[StoredClaim],
) -> Result<Option<i64>, RedisError> {
    let keys = [&*redis.keys.epoch, &*redis.keys.orders, &redis.keys.claims(coupon)];
    let mut args = script_args(REQUEUE.sha1(), keys, [ready, coupon.as_str()]);
    for StoredClaim { field, order, key } in claims {
        args.extend([field.as_str().into(), encode_value(*order, key.as_ref()).into()]);
    }
    decode_count(REQUEUE.run(redis, args).await?, &REQUEUE)
}
