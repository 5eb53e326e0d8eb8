//! Reads that change nothing: the identity of the server we talk to, a coupon's hash, who holds what.

use bytes::Bytes;
use fred::types::Value;

use super::scripts::claim;
use super::{Redis, RedisError, array, integer, order_stream, script_args, text};
use crate::domain::{CouponId, CouponSnapshot, OrderId, UserId};

const SUMS: &str = include_str!("../../lua/sums.lua");

/// Entries that the group has not read. Redis's own `lag` may be missing, and counts entries that were
/// trimmed before they were read: it never says less than there are, and nothing behind the last entry.
pub async fn unread(redis: &Redis, group: &order_stream::GroupInfo) -> Result<i64, RedisError> {
    if order_stream::last_id(redis).await?.is_none_or(|last| last == group.last_delivered_id) {
        return Ok(0);
    }
    let length = order_stream::length(redis).await?;
    Ok(group.lag.map_or(length, |lag| lag.min(length)))
}

/// The highest WAL position noted; a key of another type counts as none.
pub async fn noted_lsn(redis: &Redis) -> Result<Option<String>, RedisError> {
    match redis.call("GET", vec![(&*redis.keys.postgres_lsn).into()]).await {
        Err(RedisError::WrongType(_)) => Ok(None),
        lsn => Ok(text(&lsn?)),
    }
}

/// The first of these coupons whose stock + claims is not its total; `None` where all add up.
pub async fn first_wrong_sum<'c>(
    redis: &Redis,
    coupons: &'c [CouponId],
) -> Result<Option<&'c CouponId>, RedisError> {
    for chunk in coupons.chunks(crate::config::SUMS_MAX_COUPONS) {
        let keys = chunk.iter().flat_map(|id| [redis.keys.coupon(id), redis.keys.claims(id)]);
        let args = script_args(SUMS, keys, [] as [&str; 0]);
        let wrong = integer(&redis.call("EVAL", args).await?, "sums")?;
        if let Some(index) = usize::try_from(wrong).unwrap_or(0).checked_sub(1) {
            return Ok(chunk.get(index));
        }
    }
    Ok(None)
}

/// Redis's clock, ms since 1970.
pub async fn now_ms(redis: &Redis) -> Result<i64, RedisError> {
    let time = array(redis.call("TIME", vec![]).await?, "TIME")?;
    let part = |index: usize| integer(time.get(index).unwrap_or(&Value::Null), "TIME");
    Ok(part(0)? * 1_000 + part(1)? / 1_000)
}

/// A coupon as Redis has it now, or `None`.
pub async fn coupon(redis: &Redis, id: &CouponId) -> Result<Option<CouponSnapshot>, RedisError> {
    let (fields, now_ms) =
        tokio::try_join!(redis.call("HGETALL", vec![redis.keys.coupon(id).into()]), now_ms(redis))?;
    let fields = array(fields, "HGETALL")?;
    if fields.is_empty() {
        return Ok(None);
    }
    let get =
        |name: &str| fields.chunks_exact(2).find(|p| p[0].as_str().as_deref() == Some(name)).map(|p| &p[1]);
    let number = |name: &str| get(name).and_then(Value::as_i64);
    let (Some(total), Some(stock)) = (number("total"), number("stock")) else {
        return Err(RedisError::Reply(format!("coupon {id}: total or stock is no number")));
    };
    Ok(Some(CouponSnapshot {
        id: id.clone(),
        title: get("title").and_then(text).unwrap_or_default(),
        total,
        stock: stock.max(0),
        starts_at_ms: number("starts_at_ms").filter(|&ms| ms != 0),
        ends_at_ms: number("ends_at_ms").filter(|&ms| ms != 0),
        paused: number("paused") == Some(1),
        per_user_limit: number("per_user_limit").unwrap_or(1),
        reserve_seconds: number("reserve_seconds").filter(|&seconds| seconds != 0),
        unlisted: number("unlisted") == Some(1),
        version: number("version").unwrap_or(0),
        now_ms,
    }))
}

/// Units held of a coupon, recorded or not.
pub async fn held_units(redis: &Redis, coupon: &CouponId) -> Result<i64, RedisError> {
    integer(&redis.call("HLEN", vec![redis.keys.claims(coupon).into()]).await?, "HLEN")
}

/// The orders that these users hold of this coupon, in their order.
pub async fn held_by_each(
    redis: &Redis,
    coupon: &CouponId,
    users: &[&UserId],
) -> Result<Vec<Option<OrderId>>, RedisError> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let mut args: Vec<Value> = vec![redis.keys.claims(coupon).into()];
    args.extend(users.iter().map(|user| Value::from(user.as_str())));
    let values = array(redis.call("HMGET", args).await?, "HMGET")?;
    Ok(values.iter().map(|value| claim::held_order(value).ok()).collect())
}

/// One page of a claims hash as it stands, and the cursor from which to go on; `0` is the end.
pub async fn scan_claims(
    redis: &Redis,
    coupon: &CouponId,
    cursor: &str,
) -> Result<(Vec<(Bytes, Bytes)>, String), RedisError> {
    let count = i64::try_from(crate::config::SCAN_PAGE_ENTRIES).unwrap_or(i64::MAX);
    let args = vec![redis.keys.claims(coupon).into(), cursor.into(), "COUNT".into(), count.into()];
    let mut reply = array(redis.call("HSCAN", args).await?, "HSCAN")?.into_iter();
    let cursor = reply.next().as_ref().and_then(text).unwrap_or_else(|| "0".into());
    let mut fields = array(reply.next().unwrap_or(Value::Null), "HSCAN fields")?
        .into_iter()
        .map(|value| value.into_bytes().unwrap_or_default());
    let mut page = Vec::new();
    while let (Some(field), Some(value)) = (fields.next(), fields.next()) {
        page.push((field, value));
    }
    Ok((page, cursor))
}

/// A field of a claims hash and its value; `None` where they are no claim of ours.
#[must_use]
pub fn read_claim(field: &[u8], value: &[u8]) -> Option<(UserId, OrderId)> {
    let user = std::str::from_utf8(field).ok()?.parse().ok()?;
    Some((user, read_order(value)?))
}

/// The order in a value of a claims hash.
#[must_use]
pub fn read_order(value: &[u8]) -> Option<OrderId> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The order that the user holds of this coupon.
pub async fn held_by(redis: &Redis, coupon: &CouponId, user: &UserId) -> Result<Option<OrderId>, RedisError> {
    let args = vec![redis.keys.claims(coupon).into(), user.as_str().into()];
    match redis.call("HGET", args).await? {
        Value::Null => Ok(None),
        value => claim::held_order(&value).map(Some),
    }
}

/// One page of coupon ids that Redis has hashes for, and the cursor from which to go on; `0` is the end.
pub async fn scan_coupons(redis: &Redis, cursor: &str) -> Result<(Vec<CouponId>, String), RedisError> {
    let count = i64::try_from(crate::config::SCAN_PAGE_ENTRIES).unwrap_or(i64::MAX);
    let args =
        vec![cursor.into(), "MATCH".into(), redis.keys.every_coupon().into(), "COUNT".into(), count.into()];
    let mut reply = array(redis.call("SCAN", args).await?, "SCAN")?.into_iter();
    let cursor = reply.next().as_ref().and_then(text).unwrap_or_else(|| "0".into());
    let found = array(reply.next().unwrap_or(Value::Null), "SCAN keys")?;
    Ok((found.iter().filter_map(text).filter_map(|key| redis.keys.coupon_id(&key)).collect(), cursor))
}

pub(super) async fn section(redis: &Redis, section: &'static str) -> Result<String, RedisError> {
    Ok(text(&redis.call("INFO", vec![section.into()]).await?).unwrap_or_default())
}

pub(super) fn line(info: &str, name: &str) -> String {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_default()
        .trim()
        .to_owned()
}
