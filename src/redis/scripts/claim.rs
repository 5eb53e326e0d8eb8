//! The claim script: a batch of claims as its arguments, and the decoding of its reply.

use std::collections::HashMap;
use std::slice::Iter;
use std::time::Duration;

use fred::types::Value;

use crate::domain::{Claim, ClaimOutcome, CouponId, IdempotencyKey, Refusal};
use crate::redis::claims_hash::decode_order;
use crate::redis::lua::{CLAIM, code, unknown_code};
use crate::redis::{Redis, RedisError, array, integer, script_args};

/// The outcome of one claim, a digit for each in the reply. The header of `claim.lua` has the same digits; a test
/// compares the two.
mod outcome_code {
    pub const ACCEPTED: u8 = b'0';
    pub const HELD: u8 = b'1';
    pub const UNKNOWN_COUPON: u8 = b'2';
    pub const ENDED: u8 = b'3';
    pub const PAUSED: u8 = b'4';
    pub const NOT_STARTED: u8 = b'5';
    pub const SOLD_OUT: u8 = b'6';
    pub const KEY_REQUIRED: u8 = b'7';
    pub const SLOTS_TAKEN: u8 = b'8';
}

/// The result of a whole batch.
#[derive(Debug, PartialEq, Eq)]
pub enum BatchOutcome {
    /// One outcome for each claim, in the order of the batch.
    Done(Vec<ClaimOutcome>),
    /// The marker is another one: another epoch, or a rebuild.
    Fenced,
    /// The deadline had passed.
    Late,
    /// The stream is absent, or stock + claims of a coupon is not its total; the text says which.
    Inconsistent(String),
    /// The stream can take no more events: only the claims whose events fitted are made.
    Full,
}

#[derive(Debug)]
pub struct BatchReply {
    pub outcome: BatchOutcome,
    /// Redis's clock when the script ran, ms since 1970.
    pub now_ms: i64,
}

/// The arguments of a batch's EVALSHA, and the coupons of the batch with their claims.
struct Call<'a> {
    args: Vec<Value>,
    groups: Vec<(&'a CouponId, Vec<usize>)>,
    claims: usize,
}

/// Sends a batch of claims as one EVALSHA. `deadline_ms` is by Redis's clock. `is_published` tells whether Postgres has
/// the coupon as published: if such a coupon is absent from Redis, Redis has lost it.
///
/// # Errors
/// After an error it is unknown whether the batch ran, unless `RedisError::wrote_nothing`.
pub async fn claim_batch(
    redis: &Redis,
    ready: &str,
    deadline_ms: i64,
    claims: &[Claim],
    is_published: impl Fn(&CouponId) -> bool,
) -> Result<BatchReply, RedisError> {
    let call = Call::of(redis, ready, deadline_ms, claims, is_published);
    let reply = array(CLAIM.run(redis, call.args).await?, "claim")?;
    decode_claims(&reply, &call.groups, call.claims)
}

/// As [`claim_batch`]. Also returns whether a replica has received all outcomes within this time, those of repeats
/// included. The connection must have no other work: it waits too.
///
/// # Errors
/// As [`claim_batch`].
pub async fn claim_batch_replicated(
    redis: &Redis,
    ready: &str,
    deadline_ms: i64,
    claims: &[Claim],
    is_published: impl Fn(&CouponId) -> bool,
    within: Duration,
) -> Result<(BatchReply, bool), RedisError> {
    let call = Call::of(redis, ready, deadline_ms, claims, is_published);
    let (reply, has_replica) = CLAIM.run_replicated(redis, call.args, within).await?;
    let reply = decode_claims(&array(reply, "claim")?, &call.groups, call.claims)?;
    Ok((reply, has_replica))
}

impl<'a> Call<'a> {
    fn of(
        redis: &Redis,
        ready: &str,
        deadline_ms: i64,
        claims: &'a [Claim],
        is_published: impl Fn(&CouponId) -> bool,
    ) -> Self {
        let groups = group_by_coupon(claims);
        let mut keys: Vec<Value> = vec![(&*redis.keys.epoch).into(), (&*redis.keys.orders).into()];
        keys.extend(groups.iter().flat_map(|(coupon, _)| {
            [redis.keys.coupon(coupon), redis.keys.claims(coupon), redis.keys.waitlist(coupon)]
                .map(Value::from)
        }));
        let mut args = script_args(CLAIM.sha1(), keys, [Value::from(ready), deadline_ms.into()]);
        args.reserve(3 * groups.len() + 3 * claims.len());
        for (coupon, members) in &groups {
            args.push(coupon.as_str().into());
            // The program cannot know whether the script needs the keys: only the script reads the coupon's limit.
            let have_keys = members.iter().any(|&member| claims[member].key.is_some());
            args.push((i64::from(is_published(coupon)) + 2 * i64::from(have_keys)).into());
            args.push(i64::try_from(members.len()).unwrap_or(i64::MAX).into());
            args.extend(members.iter().map(|&member| Value::from(claims[member].user.as_str())));
            args.extend(members.iter().map(|&member| Value::from(claims[member].order.to_string())));
            if have_keys {
                let keys = members.iter().map(|&member| claims[member].key.as_ref());
                args.extend(keys.map(|key| key.map_or("", IdempotencyKey::as_str).into()));
            }
        }
        Self { args, groups, claims: claims.len() }
    }
}

/// Why Redis would refuse the writes of a batch now; `None` if it would not. Sends an empty batch.
///
/// # Errors
/// If Redis fails for another reason than refusing writes.
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
    let code = integer(next(&mut values)?, "claim code")?;
    let now_ms = integer(next(&mut values)?, "claim time")?;
    let outcome = match code {
        code::DONE => BatchOutcome::Done(decode_outcomes(
            values.as_slice(),
            groups,
            vec![ClaimOutcome::Refused(Refusal::Ended); claims],
            now_ms,
        )?),
        code::FENCED => BatchOutcome::Fenced,
        code::LATE => BatchOutcome::Late,
        code::INCONSISTENT => {
            let number = usize::try_from(integer(next(&mut values)?, "inconsistent coupon")?).unwrap_or(0);
            BatchOutcome::Inconsistent(match number.checked_sub(1).and_then(|i| groups.get(i)) {
                Some((coupon, _)) => format!("coupon {coupon}: stock + claims is not its total in Redis"),
                None => "the order stream is gone from Redis".into(),
            })
        }
        code::FULL => BatchOutcome::Full,
        other => return Err(unknown_code(&CLAIM, other)),
    };
    Ok(BatchReply { outcome, now_ms })
}

/// The outcomes in the order of the batch; the reply has them by coupon.
fn decode_outcomes(
    values: &[Value],
    groups: &[(&CouponId, Vec<usize>)],
    mut outcomes: Vec<ClaimOutcome>,
    now_ms: i64,
) -> Result<Vec<ClaimOutcome>, RedisError> {
    let (coupons, held) = values.split_at_checked(3 * groups.len()).ok_or_else(broken)?;
    let (mut coupons, mut held) = (coupons.iter(), held.iter());
    for (_, members) in groups {
        let left = integer(next(&mut coupons)?, "stock left")?.max(0);
        let starts_at_ms = integer(next(&mut coupons)?, "start")?;
        let digits = next(&mut coupons)?
            .as_bytes()
            .filter(|digits| digits.len() == members.len())
            .ok_or_else(broken)?;
        // The script took the units one by one, in the order of the claims, so the stock after each claim is known.
        let mut stock =
            left + digits.iter().map(|&digit| i64::from(digit == outcome_code::ACCEPTED)).sum::<i64>();
        for (&member, &digit) in members.iter().zip(digits) {
            outcomes[member] = match digit {
                outcome_code::ACCEPTED => {
                    stock -= 1;
                    ClaimOutcome::Accepted { stock }
                }
                outcome_code::HELD => {
                    ClaimOutcome::Held { order: decode_order(next(&mut held)?)?, stock: left }
                }
                outcome_code::UNKNOWN_COUPON => ClaimOutcome::Refused(Refusal::UnknownCoupon),
                outcome_code::ENDED => ClaimOutcome::Refused(Refusal::Ended),
                outcome_code::PAUSED => ClaimOutcome::Refused(Refusal::Paused),
                outcome_code::NOT_STARTED => {
                    ClaimOutcome::Refused(Refusal::NotStarted { starts_at_ms, now_ms })
                }
                outcome_code::SOLD_OUT => ClaimOutcome::Refused(Refusal::SoldOut),
                outcome_code::KEY_REQUIRED => ClaimOutcome::Refused(Refusal::KeyRequired),
                outcome_code::SLOTS_TAKEN => ClaimOutcome::Refused(Refusal::LimitReached),
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
