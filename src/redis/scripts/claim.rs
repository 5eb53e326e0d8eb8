//! The claim script: a batch of claims as its arguments, and the one decoding of its reply.

use std::collections::HashMap;
use std::slice::Iter;

use fred::types::Value;

use super::CLAIM;
use crate::domain::{Claim, ClaimOutcome, CouponId, OrderId, Refusal};
use crate::redis::{Redis, RedisError, array, integer, script_args, text};

/// Numbers of `claim.lua`'s header.
pub mod claim_code {
    pub const STATUS_DONE: i64 = 0;
    pub const STATUS_FENCED: i64 = 1;
    pub const STATUS_LATE: i64 = 2;
    pub const STATUS_LOST: i64 = 3;
    pub const STATUS_FULL: i64 = 4;
    pub const ACCEPTED: u8 = b'0';
    pub const HELD: u8 = b'1';
    pub const UNKNOWN_COUPON: u8 = b'2';
    pub const ENDED: u8 = b'3';
    pub const PAUSED: u8 = b'4';
    pub const NOT_STARTED: u8 = b'5';
    pub const SOLD_OUT: u8 = b'6';
}

/// What the script made of a whole batch.
#[derive(Debug, PartialEq, Eq)]
pub enum BatchOutcome {
    /// One outcome for each claim, in the order of the batch.
    Done(Vec<ClaimOutcome>),
    /// The marker is not the one sent: another epoch, or a rebuild.
    Fenced,
    /// The deadline had passed.
    Late,
    /// The stream or a coupon does not add up.
    Lost(String),
    /// The stream can take no more events: each claim whose event fitted is made.
    Full,
}

#[derive(Debug)]
pub struct BatchReply {
    pub outcome: BatchOutcome,
    /// Redis's clock when the script ran, ms since 1970.
    pub now_ms: i64,
}

/// Sends a batch of claims as one EVALSHA. `is_published` says whether Postgres knows the coupon as
/// published: then its absence from Redis is a loss, not an unknown id.
///
/// # Errors
/// Any of them leaves open whether the batch ran, except where `RedisError` says that nothing was written.
pub async fn claim_batch(
    redis: &Redis,
    ready: &str,
    deadline_ms: i64,
    claims: &[Claim],
    is_published: impl Fn(&CouponId) -> bool,
) -> Result<BatchReply, RedisError> {
    let groups = group_by_coupon(claims);
    let mut keys: Vec<Value> = vec![(&*redis.keys.epoch).into(), (&*redis.keys.orders).into()];
    keys.extend(
        groups.iter().flat_map(|(coupon, _)| {
            [Value::from(redis.keys.coupon(coupon)), redis.keys.claims(coupon).into()]
        }),
    );
    let mut args = script_args(CLAIM.sha1(), keys, [Value::from(ready), deadline_ms.into()]);
    args.reserve(3 * groups.len() + 2 * claims.len());
    for (coupon, members) in &groups {
        args.push(coupon.as_str().into());
        args.push(i64::from(is_published(coupon)).into());
        args.push(i64::try_from(members.len()).unwrap_or(i64::MAX).into());
        for &member in members {
            args.push(claims[member].user.as_str().into());
            args.push(claims[member].order.to_string().into());
        }
    }
    let reply = array(redis.call("EVALSHA", args).await?, "claim")?;
    decode_claims(&reply, &groups, claims.len())
}

/// Why Redis would refuse to run a batch now, asked by an empty one, which writes nothing.
///
/// # Errors
/// Any that is not about writes.
pub async fn refusal(redis: &Redis, ready: &str) -> Result<Option<String>, RedisError> {
    match claim_batch(redis, ready, 0, &[], |_| true).await {
        Ok(_) => Ok(None),
        Err(error) if error.is_about_writes() => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}

/// The batch's coupons in the order of their first claim, each with its claims in the order of arrival.
fn group_by_coupon(claims: &[Claim]) -> Vec<(&CouponId, Vec<usize>)> {
    let mut groups: Vec<(&CouponId, Vec<usize>)> = Vec::new();
    let mut places: HashMap<&CouponId, usize> = HashMap::new();
    for (index, claim) in claims.iter().enumerate() {
        let place = *places.entry(&claim.coupon).or_insert_with(|| {
            groups.push((&claim.coupon, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(index);
    }
    groups
}

fn decode_claims(
    reply: &[Value],
    groups: &[(&CouponId, Vec<usize>)],
    claims: usize,
) -> Result<BatchReply, RedisError> {
    let mut values = reply.iter();
    let status = integer(next(&mut values)?, "claim status")?;
    let now_ms = integer(next(&mut values)?, "claim time")?;
    let outcome = match status {
        claim_code::STATUS_DONE => BatchOutcome::Done(decode_outcomes(
            &mut values,
            groups,
            vec![ClaimOutcome::Refused(Refusal::Ended); claims],
            now_ms,
        )?),
        claim_code::STATUS_FENCED => BatchOutcome::Fenced,
        claim_code::STATUS_LATE => BatchOutcome::Late,
        claim_code::STATUS_LOST => {
            let number = usize::try_from(integer(next(&mut values)?, "lost coupon")?).unwrap_or(0);
            BatchOutcome::Lost(match number.checked_sub(1).and_then(|i| groups.get(i)) {
                Some((coupon, _)) => format!("coupon {coupon}: stock + claims is not its total in Redis"),
                None => "the order stream is gone from Redis".into(),
            })
        }
        claim_code::STATUS_FULL => BatchOutcome::Full,
        other => return Err(RedisError::Reply(format!("claim: unknown status {other}"))),
    };
    Ok(BatchReply { outcome, now_ms })
}

/// Puts every claim's outcome into its place.
fn decode_outcomes(
    values: &mut Iter<'_, Value>,
    groups: &[(&CouponId, Vec<usize>)],
    mut outcomes: Vec<ClaimOutcome>,
    now_ms: i64,
) -> Result<Vec<ClaimOutcome>, RedisError> {
    let Value::Array(held) = next(values)? else { return Err(broken()) };
    let mut held = held.iter();
    for (_, members) in groups {
        let left = integer(next(values)?, "stock left")?.max(0);
        let starts_at_ms = integer(next(values)?, "start")?;
        let codes =
            next(values)?.as_bytes().filter(|codes| codes.len() == members.len()).ok_or_else(broken)?;
        // The units went one by one, in the order of the claims.
        let mut stock = left + codes.iter().map(|&code| i64::from(code == claim_code::ACCEPTED)).sum::<i64>();
        for (&member, &code) in members.iter().zip(codes) {
            outcomes[member] = match code {
                claim_code::ACCEPTED => {
                    stock -= 1;
                    ClaimOutcome::Accepted { stock }
                }
                claim_code::HELD => ClaimOutcome::Held { order: held_order(next(&mut held)?)?, stock: left },
                claim_code::UNKNOWN_COUPON => ClaimOutcome::Refused(Refusal::UnknownCoupon),
                claim_code::ENDED => ClaimOutcome::Refused(Refusal::Ended),
                claim_code::PAUSED => ClaimOutcome::Refused(Refusal::Paused),
                claim_code::NOT_STARTED => {
                    ClaimOutcome::Refused(Refusal::NotStarted { starts_at_ms, now_ms })
                }
                claim_code::SOLD_OUT => ClaimOutcome::Refused(Refusal::SoldOut),
                _ => return Err(broken()),
            };
        }
    }
    Ok(outcomes)
}

fn next<'a>(values: &mut Iter<'a, Value>) -> Result<&'a Value, RedisError> {
    values.next().ok_or_else(broken)
}

fn broken() -> RedisError {
    RedisError::Reply("claim: the reply is not as expected".into())
}

/// The order in a value of the claims hash, `<order>` or `<order> <key>`.
pub(crate) fn held_order(value: &Value) -> Result<OrderId, RedisError> {
    text(value)
        .and_then(|text| text.split(' ').next().and_then(|order| order.parse().ok()))
        .ok_or_else(|| RedisError::Reply("the claims hash holds something else than an order id".into()))
}
