//! The waiting list of a coupon: the sorted set of the users in line, and the hash with the order that each of them gets.
//! Reads them and calls the scripts that write them; `scripts/release.rs` gives units that come back to users in line.

pub mod page;

use fred::types::Value;

use super::claims_hash::{decode_value, encode_value};
use super::lua::{
    LINE_PAGE, REBUILD_LINE, WAITLIST_JOIN, WAITLIST_LEAVE, WAITLIST_SERVE, code, decode_done, unknown_code,
};
use super::{Redis, RedisError, array, integer, script_args, text};
use crate::config;
use crate::domain::{CouponId, IdempotencyKey, JoinRefusal, OrderId, UserId, WaitingUser};

/// The outcome for one user. The header of `waitlist_join.lua` has the same numbers; a test compares the two.
mod outcome_code {
    pub const JOINED: i64 = 0;
    pub const WAITS: i64 = 1;
    pub const HELD: i64 = 2;
    pub const NO_WAITLIST: i64 = 3;
    pub const KEY_REQUIRED: i64 = 4;
    pub const SLOTS_TAKEN: i64 = 5;
    pub const ENDED: i64 = 6;
    pub const NOT_SOLD_OUT: i64 = 7;
    pub const FULL: i64 = 8;
}

/// The outcome for a user who asks for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The user has got this place, from 1, or could get it.
    Joined(i64),
    /// The user is in line already, with the order that an earlier request named.
    Waits {
        place: i64,
        order: OrderId,
    },
    /// The user holds a unit with this order, so there is nothing to wait for.
    Held(OrderId),
    Refused(JoinRefusal),
}

/// The result of a call of a script that changes a waiting list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineOutcome<T> {
    Done(T),
    /// The marker is another one.
    Fenced,
    /// The stream or the coupon is absent, stock + claims is not the total, or a user in line has no order.
    Inconsistent,
}

/// The standings of a batch, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standings {
    /// Users in line after the script.
    pub waiting: i64,
    pub users: Vec<Standing>,
}

/// Tells which users may join, without a write. See [`join`].
///
/// # Errors
/// If Redis does not answer or refuses the script.
pub async fn look(
    redis: &Redis,
    ready: &str,
    coupon: &CouponId,
    users: &[WaitingUser],
) -> Result<LineOutcome<Standings>, RedisError> {
    call_join(redis, ready, "", coupon, users).await
}

/// Takes places in line for users whose rows were committed in Postgres up to the WAL position `lsn`. Safe to repeat.
///
/// # Errors
/// If Redis does not answer or refuses the script.
pub async fn join(
    redis: &Redis,
    ready: &str,
    lsn: &str,
    coupon: &CouponId,
    users: &[WaitingUser],
) -> Result<LineOutcome<Standings>, RedisError> {
    call_join(redis, ready, lsn, coupon, users).await
}

async fn call_join(
    redis: &Redis,
    ready: &str,
    lsn: &str,
    coupon: &CouponId,
    users: &[WaitingUser],
) -> Result<LineOutcome<Standings>, RedisError> {
    let [epoch, orders, hash, claims, line, line_orders] = redis.line_keys(coupon);
    let keys = [epoch, orders, hash, claims, line, line_orders, redis.keys.postgres_lsn.to_string()];
    let most = i64::try_from(config::WAITLIST_MAX_USERS).unwrap_or(i64::MAX);
    let mut args = script_args(WAITLIST_JOIN.sha1(), keys, [ready.into(), lsn.into(), Value::from(most)]);
    args.reserve(3 * users.len());
    for WaitingUser { user, order, key } in users {
        let key = key.as_ref().map_or("", IdempotencyKey::as_str);
        args.extend([user.as_str().into(), order.to_string().into(), key.into()]);
    }
    let reply = array(WAITLIST_JOIN.run(redis, args).await?, WAITLIST_JOIN.name)?;
    let values = match decode_line(&reply, WAITLIST_JOIN.name)? {
        LineOutcome::Done(values) => values,
        LineOutcome::Fenced => return Ok(LineOutcome::Fenced),
        LineOutcome::Inconsistent => return Ok(LineOutcome::Inconsistent),
    };
    let (waiting, standings) = values.split_first().ok_or_else(broken)?;
    if standings.len() != 2 * users.len() {
        return Err(broken());
    }
    let users = standings
        .chunks_exact(2)
        .map(|pair| decode_standing(&pair[0], &pair[1]))
        .collect::<Result<_, _>>()?;
    Ok(LineOutcome::Done(Standings { waiting: integer(waiting, WAITLIST_JOIN.name)?, users }))
}

fn decode_standing(outcome: &Value, detail: &Value) -> Result<Standing, RedisError> {
    let detail = text(detail).unwrap_or_default();
    let place = |text: &str| text.parse().map_err(|_| broken());
    let order = |text: &str| text.parse().map_err(|_| broken());
    Ok(match integer(outcome, WAITLIST_JOIN.name)? {
        outcome_code::JOINED => Standing::Joined(place(&detail)?),
        outcome_code::WAITS => {
            let (first, second) = detail.split_once(' ').ok_or_else(broken)?;
            Standing::Waits { place: place(first)?, order: order(second)? }
        }
        outcome_code::HELD => Standing::Held(order(&detail)?),
        outcome_code::NO_WAITLIST => Standing::Refused(JoinRefusal::NoWaitlist),
        outcome_code::KEY_REQUIRED => Standing::Refused(JoinRefusal::KeyRequired),
        outcome_code::SLOTS_TAKEN => Standing::Refused(JoinRefusal::LimitReached),
        outcome_code::ENDED => Standing::Refused(JoinRefusal::Ended),
        outcome_code::NOT_SOLD_OUT => Standing::Refused(JoinRefusal::NotSoldOut),
        outcome_code::FULL => Standing::Refused(JoinRefusal::Full),
        _ => return Err(broken()),
    })
}

fn broken() -> RedisError {
    RedisError::Reply("waitlist_join: the reply is not as expected".into())
}

/// The values behind the code of a reply.
fn decode_line<'r>(reply: &'r [Value], script: &str) -> Result<LineOutcome<&'r [Value]>, RedisError> {
    let (first, values) = reply.split_first().ok_or_else(|| RedisError::Reply(format!("{script}: empty")))?;
    match integer(first, script)? {
        code::DONE => Ok(LineOutcome::Done(values)),
        code::FENCED => Ok(LineOutcome::Fenced),
        code::INCONSISTENT => Ok(LineOutcome::Inconsistent),
        other => Err(RedisError::Reply(format!("{script}: unknown code {other}"))),
    }
}

/// Takes the user out of the line. Returns the order that the user would have got; `None` if the user was not in line.
///
/// # Errors
/// If Redis does not answer or refuses the script.
pub async fn leave(
    redis: &Redis,
    ready: &str,
    coupon: &CouponId,
    user: &UserId,
) -> Result<LineOutcome<Option<OrderId>>, RedisError> {
    let keys =
        [redis.keys.epoch.to_string(), redis.keys.waitlist(coupon), redis.keys.waitlist_orders(coupon)];
    let args = script_args(WAITLIST_LEAVE.sha1(), keys, [ready, user.as_str()]);
    let reply = array(WAITLIST_LEAVE.run(redis, args).await?, WAITLIST_LEAVE.name)?;
    match integer(reply.first().unwrap_or(&Value::Null), WAITLIST_LEAVE.name)? {
        code::DONE => {
            let order = reply.get(1).and_then(text).and_then(|order| order.parse().ok());
            Ok(LineOutcome::Done(order))
        }
        code::NOT_HELD => Ok(LineOutcome::Done(None)),
        code::FENCED => Ok(LineOutcome::Fenced),
        other => Err(unknown_code(&WAITLIST_LEAVE, other)),
    }
}

/// The units that a script has given to users in line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    pub units: i64,
    /// The orders that got them, without those that cannot be read because another program wrote the line.
    pub orders: Vec<OrderId>,
}

impl Served {
    /// Decodes the number of units and their orders.
    pub fn decode(units: &Value, orders: &[Value], script: &str) -> Result<Self, RedisError> {
        let units = integer(units, script)?;
        if usize::try_from(units) != Ok(orders.len()) {
            return Err(RedisError::Reply(format!("{script}: {} orders for {units} units", orders.len())));
        }
        let orders = orders.iter().filter_map(|order| text(order)?.parse().ok()).collect();
        Ok(Self { units, orders })
    }
}

/// Gives units in stock to the first users in line, at most `WAITLIST_SERVE_MAX_UNITS`. Also returns the number of users
/// who can be served at once by a further call. Safe to repeat.
///
/// # Errors
/// If Redis does not answer or refuses the script.
pub async fn serve(
    redis: &Redis,
    ready: &str,
    coupon: &CouponId,
) -> Result<LineOutcome<(Served, i64)>, RedisError> {
    let most = i64::try_from(config::WAITLIST_SERVE_MAX_UNITS).unwrap_or(i64::MAX);
    let more = [ready.into(), coupon.as_str().into(), Value::from(most)];
    let args = script_args(WAITLIST_SERVE.sha1(), redis.line_keys(coupon), more);
    let reply = array(WAITLIST_SERVE.run(redis, args).await?, WAITLIST_SERVE.name)?;
    Ok(match decode_line(&reply, WAITLIST_SERVE.name)? {
        LineOutcome::Done([units, left, orders @ ..]) => {
            let served = Served::decode(units, orders, WAITLIST_SERVE.name)?;
            LineOutcome::Done((served, integer(left, WAITLIST_SERVE.name)?))
        }
        LineOutcome::Done(_) => return Err(RedisError::Reply("waitlist_serve: not two numbers".into())),
        LineOutcome::Fenced => LineOutcome::Fenced,
        LineOutcome::Inconsistent => LineOutcome::Inconsistent,
    })
}

/// Users in the waiting list.
///
/// # Errors
/// If Redis does not answer, or the key has another type.
pub async fn length(redis: &Redis, coupon: &CouponId) -> Result<i64, RedisError> {
    integer(&redis.call("ZCARD", vec![redis.keys.waitlist(coupon).into()]).await?, "ZCARD")
}

/// The line as Redis has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// In the order of joining.
    pub users: Vec<WaitingUser>,
    /// A key of another type, a user without a readable order, or an order without a user: the line must be written
    /// again.
    pub is_damaged: bool,
}

/// Reads the whole line, page by page. A user who stays in line is read once, also while others join, leave or are served.
///
/// # Errors
/// If Redis does not answer.
pub async fn read(redis: &Redis, coupon: &CouponId) -> Result<Line, RedisError> {
    let mut line = Line::default();
    let most = Value::from(i64::try_from(config::REBUILD_CHUNK_FIELDS).unwrap_or(i64::MAX));
    let mut after = "-inf".to_owned();
    loop {
        let keys = [redis.keys.waitlist(coupon), redis.keys.waitlist_orders(coupon)];
        let args = script_args(LINE_PAGE.source(), keys, [after.into(), most.clone()]);
        let reply = match redis.call("EVAL", args).await {
            Err(RedisError::WrongType(_)) => return Ok(Line { is_damaged: true, ..line }),
            reply => array(reply?, LINE_PAGE.name)?,
        };
        let [users, orders, page @ ..] = &reply[..] else {
            return Err(RedisError::Reply(format!("{}: {} values", LINE_PAGE.name, reply.len())));
        };
        line.is_damaged |= integer(users, LINE_PAGE.name)? != integer(orders, LINE_PAGE.name)?;
        for place in page.chunks_exact(3) {
            let user = text(&place[0]).and_then(|user| user.parse().ok());
            match user.zip(place[2].as_bytes().and_then(decode_value)) {
                Some((user, (order, key))) => line.users.push(WaitingUser { user, order, key }),
                None => line.is_damaged = true,
            }
        }
        let Some(last) = page.chunks_exact(3).next_back().and_then(|place| text(&place[1])) else {
            return Ok(line);
        };
        after = format!("({last}");
    }
}

/// Replaces the line of a coupon whose claims hash is decided; `false` if a newer rebuild has begun. Leaves out users who
/// hold the order already, or who may hold no further unit. `limit` is the number of units that a user may hold.
///
/// # Errors
/// If Redis does not answer or refuses the script.
pub async fn rebuild(
    redis: &Redis,
    building: &str,
    coupon: &CouponId,
    limit: i16,
    users: &[WaitingUser],
) -> Result<bool, RedisError> {
    let mut written = 0;
    // The first part also removes an old line, so it is sent for an empty line too.
    let parts = users.chunks(config::REBUILD_CHUNK_FIELDS).chain(users.is_empty().then_some(users));
    for part in parts {
        let more = [building.into(), Value::from(written)];
        let mut args = script_args(REBUILD_LINE.source(), redis.line_keys(coupon), more);
        for WaitingUser { user, order, key } in part {
            // As the join script writes it: only a limit above 1 needs the key.
            let key = key.as_ref().filter(|_| limit > 1);
            args.extend([user.as_str().into(), encode_value(*order, key).into()]);
        }
        if !decode_done(&redis.call("EVAL", args).await?, &REBUILD_LINE)? {
            return Ok(false);
        }
        written += i64::try_from(part.len()).unwrap_or(i64::MAX);
    }
    Ok(true)
}
