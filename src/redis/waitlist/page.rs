//! Reads a part of a waiting list, for the operator. Each user has a number that grows in the order of joining; the place
//! is the number of users up to this one.

use fred::types::Value;

use crate::domain::{CouponId, OrderId, UserId};
use crate::redis::claims_hash::decode_value;
use crate::redis::{Redis, RedisError, array, integer, text};

/// A user in line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceInLine {
    pub user: UserId,
    /// From 1, the next user to get a unit.
    pub place: i64,
    /// Keeps its value while users before this one are served or leave; the next page begins after it.
    pub number: i64,
    /// The order that the user gets with a unit; `None` if the list is damaged.
    pub order: Option<OrderId>,
}

/// At most `limit` users in line with a number above `after`.
///
/// # Errors
/// If Redis does not answer, or a key has another type.
pub async fn read_page(
    redis: &Redis,
    coupon: &CouponId,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<PlaceInLine>, RedisError> {
    let line: Value = redis.keys.waitlist(coupon).into();
    let from = after.map_or("-inf".to_owned(), |number| format!("({number}"));
    let range = ["BYSCORE", "LIMIT", "0", &limit.to_string(), "WITHSCORES"].map(Value::from);
    let args = [line.clone(), from.into(), "+inf".into()].into_iter().chain(range).collect();
    let found = array(redis.call("ZRANGE", args).await?, "ZRANGE")?;
    let users: Vec<Value> = found.iter().step_by(2).cloned().collect();
    let Some(first) = users.first() else { return Ok(Vec::new()) };
    // A first user who has just been served was the first in line.
    let rank = match redis.call("ZRANK", vec![line, first.clone()]).await? {
        Value::Null => 0,
        rank => integer(&rank, "ZRANK")?,
    };
    let args = std::iter::once(redis.keys.waitlist_orders(coupon).into()).chain(users).collect();
    let values = array(redis.call("HMGET", args).await?, "HMGET")?;
    let places = found.chunks_exact(2).zip(&values).zip(rank + 1..).filter_map(|((pair, value), place)| {
        let user = text(&pair[0])?.parse().ok()?;
        let order = value.as_bytes().and_then(decode_value).map(|(order, _)| order);
        Some(PlaceInLine { user, place, number: number(&pair[1])?, order })
    });
    Ok(places.collect())
}

/// A score as Redis writes it. The scripts give whole scores only.
fn number(score: &Value) -> Option<i64> {
    text(score)?.parse().ok()
}
