//! Releases of many units in one call.

use seckill::config::RELEASE_BATCH_MAX_UNITS;
use seckill::domain::{Claim, ClaimOutcome, CouponId};
use seckill::redis::scripts::release::{EndedUnit, Released};
use seckill::redis::scripts::{self, Published};

use crate::harness::{READY, TestRedis, claim, open_coupon, unit};

fn coffee() -> CouponId {
    "coffee".parse().unwrap()
}

#[test]
fn a_full_batch_returns_each_unit_once_and_leaves_those_of_newer_orders() {
    let mut redis = TestRedis::start();
    let coffee = coffee();
    redis.publish(&coffee, i64::try_from(RELEASE_BATCH_MAX_UNITS).unwrap());
    let claims: Vec<Claim> =
        (0..RELEASE_BATCH_MAX_UNITS).map(|number| claim(&coffee, &format!("user-{number}"))).collect();
    for batch in claims.chunks(100) {
        redis.claim(batch);
    }
    let units: Vec<EndedUnit> = claims.iter().map(|claim| unit(claim.user.as_str(), claim.order)).collect();
    assert_eq!(redis.release(&coffee, &units[..10]), [Released::Released; 10]);
    let newer = claim(&coffee, "user-0");
    assert_eq!(redis.claim(std::slice::from_ref(&newer)), [ClaimOutcome::Accepted { stock: 9 }]);

    let released = redis.release(&coffee, &units);
    assert_eq!(released[..10], [Released::NotHeld; 10]);
    assert!(released[10..].iter().all(|released| *released == Released::Released), "{released:?}");
    let total = (RELEASE_BATCH_MAX_UNITS - 1).to_string();
    assert_eq!(redis.field(&redis.redis.keys.coupon(&coffee), "stock"), total);
    assert_eq!(redis.field(&redis.redis.keys.claims(&coffee), "user-0"), newer.order.to_string());
}

#[test]
fn a_unit_that_waits_for_a_version_stays_held_until_the_coupon_has_it() {
    let mut redis = TestRedis::start();
    let coffee = coffee();
    redis.publish(&coffee, 2);
    let claims = ["alice", "bob"].map(|user| claim(&coffee, user));
    redis.claim(&claims);
    let [alice, bob] = claims.map(|claim| unit(claim.user.as_str(), claim.order));
    let alice = EndedUnit { after_version: Some(2), ..alice };
    let both = [alice, bob];
    assert_eq!(redis.release(&coffee, &both), [Released::TooEarly, Released::Released]);
    assert_eq!(redis.field(&redis.redis.keys.coupon(&coffee), "stock"), "1");

    let mut lowered = open_coupon(&coffee, 1);
    lowered.version = 2;
    let published = scripts::publish(&redis.redis, READY, false, &lowered);
    assert_eq!(redis.runtime.block_on(published).unwrap(), Published::Applied);
    assert_eq!(redis.release(&coffee, &both), [Released::Released, Released::NotHeld]);
    assert_eq!(redis.field(&redis.redis.keys.coupon(&coffee), "stock"), "1");
}
