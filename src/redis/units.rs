//! The units of one coupon as Redis has them at one moment, for the receipt.

use super::claims_hash::encode_field;
use super::lua::UNITS;
use super::order_stream::{self, Entry};
use super::{Redis, RedisError, array, integer, script_args, text};
use crate::domain::{CouponId, OrderEvent, OrderId};

/// The stock and the held units of a coupon at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Units {
    /// Redis's clock, ms since 1970.
    pub now_ms: i64,
    pub marker: Option<String>,
    /// The last entry id of the order stream.
    pub last_entry_id: String,
    pub held: i64,
    /// How many of the given units are held.
    pub still_held: i64,
    /// `None` if the field is absent or not a number.
    pub stock: Option<i64>,
    pub total: Option<i64>,
    pub version: Option<i64>,
}

/// The unit of an order that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedUnit {
    pub order: OrderId,
    pub user: String,
    /// From 1 to the coupon's limit for each user.
    pub slot: i16,
}

/// Reads the units of a coupon, and which of `ended` are still held at the same moment. `ended` has at most
/// `RECEIPT_MAX_ASKED_UNITS` units.
pub async fn read(redis: &Redis, coupon: &CouponId, ended: &[EndedUnit]) -> Result<Units, RedisError> {
    let unit = |unit: &EndedUnit| [encode_field(&unit.user, unit.slot), unit.order.to_string()];
    let args = script_args(UNITS.source(), redis.coupon_keys(coupon), ended.iter().flat_map(unit));
    let reply = array(redis.call("EVAL", args).await?, UNITS.name)?;
    let [now_ms, marker, last_entry_id, held, still_held, hash @ ..] = &reply[..] else {
        return Err(RedisError::Reply(format!("{}: {} values", UNITS.name, reply.len())));
    };
    let field = |index: usize| hash.get(index).and_then(text).and_then(|text| text.parse().ok());
    Ok(Units {
        now_ms: integer(now_ms, UNITS.name)?,
        marker: text(marker),
        last_entry_id: text(last_entry_id).unwrap_or_default(),
        held: integer(held, UNITS.name)?,
        still_held: integer(still_held, UNITS.name)?,
        stock: field(0),
        total: field(1),
        version: field(2),
    })
}

/// How many order events of the coupon were appended after the entry `from` and up to the entry `to`.
pub async fn events_between(
    redis: &Redis,
    coupon: &CouponId,
    from: &str,
    to: &str,
) -> Result<i64, RedisError> {
    let is_of_coupon =
        |entry: &&Entry| OrderEvent::read(&entry.fields).is_ok_and(|event| event.coupon == *coupon);
    let mut events = 0;
    let mut from = from.to_owned();
    while from != to {
        let page = order_stream::range(redis, &format!("({from}"), to).await?;
        events += page.iter().filter(is_of_coupon).count();
        let Some(last) = page.last() else { break };
        from.clone_from(&last.id);
    }
    Ok(i64::try_from(events).unwrap_or(i64::MAX))
}
