//! The take script: removes free units from a share for a move to another partition.

use fred::types::Value;

use crate::domain::CouponId;
use crate::redis::lua::{TAKE, code, unknown_code};
use crate::redis::{Redis, RedisError, array, integer, script_args};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// So many units have left `stock` and `total`; 0 if none is free.
    Units(i64),
    /// The share has another version.
    OtherVersion,
    /// The marker is another one.
    Fenced,
    /// The stream or the coupon is absent, or stock + claims is not the total.
    Inconsistent,
}

/// Takes at most `wanted` free units of the share at this version. Answers the units of an earlier take at the same version,
/// whatever that take wanted.
pub async fn take(
    redis: &Redis,
    ready: &str,
    coupon: &CouponId,
    version: i64,
    wanted: i64,
) -> Result<Taken, RedisError> {
    let more: [Value; 3] = [ready.into(), version.into(), wanted.into()];
    let args = script_args(TAKE.sha1(), redis.coupon_keys(coupon), more);
    let reply = array(TAKE.run(redis, args).await?, "take")?;
    let [code, units] = &reply[..] else {
        return Err(RedisError::Reply("take: the reply is not as expected".into()));
    };
    match integer(code, "take code")? {
        code::DONE => Ok(Taken::Units(integer(units, "units taken")?)),
        code::OTHER_VERSION => Ok(Taken::OtherVersion),
        code::FENCED => Ok(Taken::Fenced),
        code::INCONSISTENT => Ok(Taken::Inconsistent),
        other => Err(unknown_code(&TAKE, other)),
    }
}
