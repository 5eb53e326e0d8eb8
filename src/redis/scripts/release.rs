//! The release script: makes its arguments from units of one coupon whose orders have ended, and decodes its reply.

use fred::types::Value;

use crate::domain::{CouponId, OrderId};
use crate::redis::lua::{RELEASE, code, unknown_code};
use crate::redis::waitlist::Served;
use crate::redis::{Redis, RedisError, array, integer, script_args};

/// The unit of an ended order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedUnit {
    /// The field of the claims hash that may still hold the unit ([`crate::redis::claims_hash::encode_field`]).
    pub field: String,
    pub order: OrderId,
    /// The version that the coupon must have in Redis before the unit returns; `None` for any.
    pub after_version: Option<i64>,
}

/// The result for one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// The unit is in stock again.
    Released,
    /// The field is absent or has another order, so there is nothing to return.
    NotHeld,
    /// The unit stays held, because the coupon's version in Redis is below the one that the unit waits for.
    TooEarly,
}

/// The result of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    Done {
        /// One result for each unit, in the order of the units.
        units: Vec<Released>,
        /// Units that went to users in the waiting list at once.
        served: Served,
    },
    /// The marker is another one.
    Fenced,
    /// The stream or the coupon is absent, or stock + claims is not the total.
    Inconsistent,
}

/// Returns units of one coupon, at most `RELEASE_BATCH_MAX_UNITS`, to its stock in one EVALSHA. Safe to repeat.
///
/// # Errors
/// Where Redis does not answer or refuses the script.
pub async fn release(
    redis: &Redis,
    ready: &str,
    coupon: &CouponId,
    units: &[EndedUnit],
) -> Result<ReleaseOutcome, RedisError> {
    let mut args = script_args(RELEASE.sha1(), redis.line_keys(coupon), [ready, coupon.as_str()]);
    args.reserve(3 * units.len());
    for unit in units {
        args.extend([
            unit.field.as_str().into(),
            unit.order.to_string().into(),
            Value::from(unit.after_version.unwrap_or(0)),
        ]);
    }
    decode(&array(RELEASE.run(redis, args).await?, RELEASE.name)?, units.len())
}

fn decode(reply: &[Value], units: usize) -> Result<ReleaseOutcome, RedisError> {
    let (code, values) = reply.split_first().ok_or_else(|| RedisError::Reply("release: empty".into()))?;
    match integer(code, RELEASE.name)? {
        code::DONE if values.len() > units => {}
        code::DONE => {
            let got = values.len();
            return Err(RedisError::Reply(format!("release: {got} values for {units} units")));
        }
        code::FENCED => return Ok(ReleaseOutcome::Fenced),
        code::INCONSISTENT => return Ok(ReleaseOutcome::Inconsistent),
        other => return Err(unknown_code(&RELEASE, other)),
    }
    let (served, codes) =
        values.split_first().ok_or_else(|| RedisError::Reply("release: no number".into()))?;
    let (codes, orders) = codes.split_at(units);
    let released = codes.iter().map(|code| match integer(code, RELEASE.name)? {
        code::DONE => Ok(Released::Released),
        code::NOT_HELD => Ok(Released::NotHeld),
        code::TOO_EARLY => Ok(Released::TooEarly),
        other => Err(unknown_code(&RELEASE, other)),
    });
    let units = released.collect::<Result<_, RedisError>>()?;
    Ok(ReleaseOutcome::Done { units, served: Served::decode(served, orders, RELEASE.name)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(codes: &[i64], units: usize) -> Result<ReleaseOutcome, RedisError> {
        decode(&codes.iter().map(|&code| Value::from(code)).collect::<Vec<_>>(), units)
    }

    #[test]
    fn a_reply_has_one_result_for_each_unit() {
        use Released::{NotHeld, Released as Back, TooEarly};
        let done = decoded(&[code::DONE, 0, code::DONE, code::NOT_HELD, code::TOO_EARLY], 3);
        let (units, served) = (vec![Back, NotHeld, TooEarly], Served::default());
        assert_eq!(done.unwrap(), ReleaseOutcome::Done { units, served });
        let order = OrderId::mint();
        let reply =
            [code::DONE, 1, code::DONE].map(Value::from).into_iter().chain([order.to_string().into()]);
        let served = Served { units: 1, orders: vec![order] };
        let done = ReleaseOutcome::Done { units: vec![Back], served };
        assert_eq!(decode(&reply.collect::<Vec<_>>(), 1).unwrap(), done);
        assert_eq!(decoded(&[code::FENCED], 3).unwrap(), ReleaseOutcome::Fenced);
        assert_eq!(decoded(&[code::INCONSISTENT], 3).unwrap(), ReleaseOutcome::Inconsistent);
        for wrong in [
            &[][..],
            &[code::DONE, 0],
            &[code::DONE, 1, code::DONE],
            &[code::DONE, 0, code::DONE, 7],
            &[code::LATE],
            &[code::DONE, 0, code::LATE],
        ] {
            assert!(matches!(decoded(wrong, 1), Err(RedisError::Reply(_))), "{wrong:?}");
        }
    }
}
