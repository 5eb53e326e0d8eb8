//! Batches at their limit: the reply is complete for one coupon and for many.

use seckill::config::CLAIM_BATCH_MAX_CLAIMS;
use seckill::domain::{Claim, ClaimOutcome, CouponId, Refusal};
use seckill::redis::scripts::claim::{self, BatchOutcome};
use seckill::redis::scripts::release::Released;
use seckill::redis::scripts::{self, Published};

use crate::harness::{NEVER_MS, READY, TestRedis, claim, open_coupon, unit};

fn coupon(number: usize) -> CouponId {
    format!("coupon-{number}").parse().unwrap()
}

#[test]
fn a_full_batch_with_a_different_coupon_for_each_claim_is_answered_completely() {
    let mut redis = TestRedis::start();
    for number in 0..CLAIM_BATCH_MAX_CLAIMS {
        redis.publish(&coupon(number), 3);
    }
    let claims: Vec<Claim> =
        (0..CLAIM_BATCH_MAX_CLAIMS).map(|number| claim(&coupon(number), "alice")).collect();

    assert_eq!(redis.claim(&claims), vec![ClaimOutcome::Accepted { stock: 2 }; CLAIM_BATCH_MAX_CLAIMS]);

    assert_eq!(redis.entry_ids().len(), CLAIM_BATCH_MAX_CLAIMS);
    let again: Vec<ClaimOutcome> =
        claims.iter().map(|claim| ClaimOutcome::Held { order: claim.order, stock: 2 }).collect();
    assert_eq!(redis.claim(&claims), again);
    assert_eq!(redis.entry_ids().len(), CLAIM_BATCH_MAX_CLAIMS, "a batch sent twice claims once");
}

#[test]
fn a_full_batch_of_one_coupon_sells_it_out_in_the_order_of_arrival() {
    const TOTAL: usize = 200;
    let mut redis = TestRedis::start();
    let coffee = coupon(0);
    redis.publish(&coffee, i64::try_from(TOTAL).unwrap());
    let claims: Vec<Claim> =
        (0..CLAIM_BATCH_MAX_CLAIMS).map(|number| claim(&coffee, &format!("user-{number}"))).collect();

    let outcomes = redis.claim(&claims);

    let expected: Vec<ClaimOutcome> = (0..CLAIM_BATCH_MAX_CLAIMS)
        .map(|number| match TOTAL.checked_sub(number + 1) {
            Some(left) => ClaimOutcome::Accepted { stock: i64::try_from(left).unwrap() },
            None => ClaimOutcome::Refused(Refusal::SoldOut),
        })
        .collect();
    assert_eq!(outcomes, expected);
    assert_eq!(redis.field(&redis.redis.keys.coupon(&coffee), "stock"), "0");
    assert_eq!(redis.entry_ids().len(), TOTAL);
}

#[test]
fn a_batch_of_mixed_coupons_is_answered_in_the_order_of_the_batch() {
    let redis = TestRedis::start();
    let (coffee, tea, nothing) = (coupon(1), coupon(2), coupon(3));
    redis.publish(&coffee, 2);
    redis.publish(&tea, 1);
    let claims = [
        claim(&coffee, "alice"),
        claim(&tea, "bob"),
        claim(&nothing, "alice"),
        claim(&coffee, "bob"),
        claim(&tea, "alice"),
        claim(&coffee, "alice"),
    ];
    let reply = claim::claim_batch(&redis.redis, READY, NEVER_MS, &claims, |id| *id != nothing);
    let BatchOutcome::Done(outcomes) = redis.runtime.block_on(reply).unwrap().outcome else {
        panic!("the batch was not decided");
    };
    assert_eq!(
        outcomes,
        [
            ClaimOutcome::Accepted { stock: 1 },
            ClaimOutcome::Accepted { stock: 0 },
            ClaimOutcome::Refused(Refusal::UnknownCoupon),
            ClaimOutcome::Accepted { stock: 0 },
            ClaimOutcome::Refused(Refusal::SoldOut),
            ClaimOutcome::Held { order: claims[0].order, stock: 0 },
        ]
    );
}

#[test]
fn numbers_that_redis_cannot_count_with_are_refused_before_anything_is_written() {
    let mut redis = TestRedis::start();
    let (coffee, tea) = (coupon(0), coupon(1));
    redis.publish(&tea, 1);
    // With Lua's numbers the sum holds, but HINCRBY would refuse the second coupon after the first was written.
    for number in ["99999999999999999999", "1e3", "0x10", "007", "10.0", ""] {
        redis.raw.call(&["HSET", &redis.redis.keys.coupon(&coffee), "stock", number, "total", number]);
        let before = redis.dump();
        let claims = [claim(&tea, "alice"), claim(&coffee, "alice")];
        let reply = claim::claim_batch(&redis.redis, READY, NEVER_MS, &claims, |_| true);
        let outcome = redis.runtime.block_on(reply).unwrap().outcome;
        assert!(matches!(outcome, BatchOutcome::Inconsistent(_)), "{number}: {outcome:?}");
        assert_eq!(redis.dump(), before, "{number}");
    }
}

#[test]
fn a_total_below_what_is_held_sells_nothing_until_units_come_back() {
    let mut redis = TestRedis::start();
    let coffee = coupon(0);
    let key = redis.redis.keys.coupon(&coffee);
    redis.publish(&coffee, 3);
    let holders = ["alice", "bob", "carol"].map(|user| claim(&coffee, user));
    redis.claim(&holders);

    let mut lowered = open_coupon(&coffee, 1);
    lowered.version = 2;
    let published = scripts::publish(&redis.redis, READY, false, &lowered);
    assert_eq!(redis.runtime.block_on(published).unwrap(), Published::Applied);
    assert_eq!(redis.field(&key, "stock"), "-2", "the stock may be below 0");

    for (holder, stock) in holders.iter().zip(["-1", "0", "1"]) {
        assert_eq!(
            redis.claim(&[claim(&coffee, "dave")]),
            [ClaimOutcome::Refused(Refusal::SoldOut)],
            "not yet at {stock}"
        );
        let released = redis.release(&coffee, &[unit(holder.user.as_str(), holder.order)]);
        assert_eq!(released, [Released::Released]);
        assert_eq!(redis.field(&key, "stock"), stock);
    }
    assert_eq!(redis.claim(&[claim(&coffee, "dave")]), [ClaimOutcome::Accepted { stock: 0 }]);
}
