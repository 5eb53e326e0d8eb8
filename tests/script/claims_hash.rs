//! Claims with a slot above 1 or with an Idempotency-Key: the scripts and the decoder read them as claims.

use seckill::domain::{ClaimOutcome, CouponId, OrderId};
use seckill::redis::claims_hash::{ClaimField, ClaimsHash, StoredClaim};
use seckill::redis::scripts::{self, Released};

use crate::harness::{READY, Reply, TestRedis, claim};

/// A coupon of five units. Alice holds two of them, each claimed with a key.
fn start(coffee: &CouponId, orders: [OrderId; 2]) -> TestRedis {
    let mut redis = TestRedis::start();
    redis.publish(coffee, 5);
    let keys = &redis.redis.keys;
    let (coupon, claims) = (keys.coupon(coffee), keys.claims(coffee));
    for (slot, order) in [1, 2].into_iter().zip(orders) {
        let field = ClaimField { user: "alice".parse().unwrap(), slot };
        let (field, value) = StoredClaim { field, order, key: Some("key-1") }.encode();
        assert_eq!(redis.raw.call(&["HSET", &claims, &field, &value]), Reply::Integer(1));
        redis.raw.call(&["HINCRBY", &coupon, "stock", "-1"]);
    }
    redis
}

#[test]
fn a_unit_of_a_slot_above_1_is_released_by_its_field_and_order() {
    let coffee: CouponId = "coffee".parse().unwrap();
    let [first, second] = [OrderId::mint(), OrderId::mint()];
    let mut redis = start(&coffee, [first, second]);
    let release = |redis: &TestRedis, order| {
        let released = scripts::release(&redis.redis, READY, &coffee, "alice\u{1f}2", order);
        redis.runtime.block_on(released).unwrap()
    };
    assert_eq!(release(&redis, first), Released::NotHeld, "slot 1 holds this order");
    assert_eq!(release(&redis, second), Released::Released);
    assert_eq!(release(&redis, second), Released::NotHeld);
    let claims = redis.redis.keys.claims(&coffee);
    let left = redis.raw.call(&["HGETALL", &claims]).pairs();
    assert_eq!(left, [("alice".to_owned(), format!("{first} key-1"))]);
    assert_eq!(redis.field(&redis.redis.keys.coupon(&coffee), "stock"), "4");
}

#[test]
fn every_reader_reads_a_claim_with_a_key_as_a_claim() {
    let coffee: CouponId = "coffee".parse().unwrap();
    let orders = [OrderId::mint(), OrderId::mint()];
    let redis = start(&coffee, orders);
    let held = redis.claim(&[claim(&coffee, "alice")]);
    assert_eq!(held, [ClaimOutcome::Held { order: orders[0], stock: 3 }]);

    let hash = redis.runtime.block_on(ClaimsHash::read(&redis.redis, &coffee)).unwrap();
    assert_eq!(hash.claims.into_iter().collect::<Vec<_>>(), [("alice".parse().unwrap(), orders[0])]);
    assert_eq!(hash.in_higher_slots.len(), 1);
    assert!(hash.foreign_fields.is_empty());
}
