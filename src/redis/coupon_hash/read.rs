//! Reads of coupon hashes.

use std::collections::BTreeMap;

use fred::types::Value;
use futures_util::StreamExt;

use super::{CouponHash, whole};
use crate::config;
use crate::domain::{CouponId, CouponSnapshot};
use crate::redis::lua::{DEFINITIONS, SUMS};
use crate::redis::{Redis, RedisError, array, integer, script_args, server_info, text, waitlist};

/// The coupons' hashes in the order of the ids, each with the number of units that the claims hash held at the same
/// moment; `None` for an absent hash.
pub async fn read(redis: &Redis, coupons: &[CouponId]) -> Result<Vec<Option<CouponHash>>, RedisError> {
    let mut hashes = Vec::with_capacity(coupons.len());
    for chunk in coupons.chunks(config::DEFINITIONS_MAX_COUPONS) {
        let keys = chunk.iter().flat_map(|id| [redis.keys.coupon(id), redis.keys.claims(id)]);
        let args = script_args(DEFINITIONS.source(), keys, super::names());
        for reply in array(redis.call("EVAL", args).await?, "definitions")? {
            let reply = array(reply, "definitions")?;
            let (held, values) = reply
                .split_first()
                .ok_or_else(|| RedisError::Reply("definitions: a coupon without a value".into()))?;
            let hash = CouponHash::from_values(values, integer(held, "definitions")?);
            hashes.push((!hash.is_absent()).then_some(hash));
        }
    }
    if hashes.len() == coupons.len() {
        return Ok(hashes);
    }
    Err(RedisError::Reply(format!("definitions: {} instead of {}", hashes.len(), coupons.len())))
}

/// As `read`, for one coupon.
pub async fn read_one(redis: &Redis, coupon: &CouponId) -> Result<Option<CouponHash>, RedisError> {
    Ok(read(redis, std::slice::from_ref(coupon)).await?.pop().flatten())
}

/// A coupon's hash, without the number of held units; empty if the hash is absent.
pub async fn read_hash(redis: &Redis, coupon: &CouponId) -> Result<CouponHash, RedisError> {
    let pairs = array(redis.call("HGETALL", vec![redis.keys.coupon(coupon).into()]).await?, "HGETALL")?;
    Ok(CouponHash::from_pairs(&pairs))
}

/// What a buyer sees of a coupon now; `None` if it is absent.
pub async fn snapshot(redis: &Redis, id: &CouponId) -> Result<Option<CouponSnapshot>, RedisError> {
    let (hash, waiting, now_ms) =
        tokio::try_join!(read_hash(redis, id), waitlist::length(redis, id), server_info::now_ms(redis))?;
    if hash.is_absent() { Ok(None) } else { hash.snapshot(id, waiting, now_ms).map(Some) }
}

/// The first of these coupons whose stock + claims is not its total; `None` if all add up.
pub async fn first_inconsistent<'c>(
    redis: &Redis,
    coupons: &'c [CouponId],
) -> Result<Option<&'c CouponId>, RedisError> {
    for chunk in coupons.chunks(config::SUMS_MAX_COUPONS) {
        let keys = chunk.iter().flat_map(|id| [redis.keys.coupon(id), redis.keys.claims(id)]);
        let args = script_args(SUMS.source(), keys, [] as [&str; 0]);
        let number = integer(&redis.call("EVAL", args).await?, "sums")?;
        if let Some(index) = usize::try_from(number).unwrap_or(0).checked_sub(1) {
            return Ok(chunk.get(index));
        }
    }
    Ok(None)
}

/// One page of the ids for which Redis has a coupon key, and the cursor of the next page; `0` is the end.
pub async fn scan(redis: &Redis, cursor: &str) -> Result<(Vec<CouponId>, String), RedisError> {
    let count = i64::try_from(config::SCAN_PAGE_ENTRIES).unwrap_or(i64::MAX);
    let args =
        vec![cursor.into(), "MATCH".into(), redis.keys.every_coupon().into(), "COUNT".into(), count.into()];
    let mut reply = array(redis.call("SCAN", args).await?, "SCAN")?.into_iter();
    let cursor = reply.next().as_ref().and_then(text).unwrap_or_else(|| "0".into());
    let found = array(reply.next().unwrap_or(Value::Null), "SCAN keys")?;
    Ok((found.iter().filter_map(text).filter_map(|key| redis.keys.coupon_id(&key)).collect(), cursor))
}

/// The version of every coupon for which Redis has a key; `None` if it cannot be read.
pub async fn versions(redis: &Redis) -> Result<BTreeMap<CouponId, Option<i64>>, RedisError> {
    let mut versions = BTreeMap::new();
    let mut cursor = "0".to_owned();
    loop {
        let (page, next) = scan(redis, &cursor).await?;
        let mut reads = futures_util::stream::iter(page.into_iter().map(|id| async {
            let version = version(redis, &id).await;
            (id, version)
        }))
        .buffer_unordered(config::VERSIONS_IN_FLIGHT);
        while let Some((id, version)) = reads.next().await {
            versions.insert(id, version?);
        }
        drop(reads);
        if next == "0" {
            return Ok(versions);
        }
        cursor = next;
    }
}

async fn version(redis: &Redis, id: &CouponId) -> Result<Option<i64>, RedisError> {
    match redis.call("HGET", vec![redis.keys.coupon(id).into(), "version".into()]).await {
        Err(RedisError::WrongType(_)) => Ok(None),
        version => Ok(text(&version?).as_deref().and_then(whole)),
    }
}
