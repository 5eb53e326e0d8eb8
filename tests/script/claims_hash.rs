//! Coupons of which a user may hold several units: slots, Idempotency-Keys, and the fields and events that scripts
//! write.

use seckill::domain::{Claim, ClaimOutcome, CouponId, Definition, OrderEvent, OrderId, Refusal};
use seckill::redis::claims_hash::{ClaimField, ClaimsHash, StoredClaim};
use seckill::redis::order_stream;
use seckill::redis::scripts;
use seckill::redis::scripts::release::{EndedUnit, Released};

use crate::harness::{READY, TestRedis, claim, claim_with_key, open_coupon};

fn coffee() -> CouponId {
    "coffee".parse().unwrap()
}

/// A coupon of `total` units, of which a user may hold three.
fn start(total: i64) -> TestRedis {
    let redis = TestRedis::start();
    redis.publish_as(&Definition { per_user_limit: 3, ..open_coupon(&coffee(), total) });
    redis
}

fn field(user: &str, slot: i16) -> ClaimField {
    ClaimField::new(&user.parse().unwrap(), slot)
}

fn stored(claim: &Claim, slot: i16) -> StoredClaim {
    StoredClaim { field: ClaimField::new(&claim.user, slot), order: claim.order, key: claim.key.clone() }
}

/// All claims of coffee in Redis, by slot.
fn claims(redis: &mut TestRedis) -> Vec<StoredClaim> {
    let key = redis.redis.keys.claims(&coffee());
    let pairs = redis.raw.call(&["HGETALL", &key]).pairs();
    let decode = |(field, value): &(String, String)| StoredClaim::decode(field.as_bytes(), value.as_bytes());
    let mut claims: Vec<StoredClaim> = pairs.iter().map(|pair| decode(pair).unwrap()).collect();
    claims.sort_by_key(|claim| claim.field.as_str().to_owned());
    claims
}

fn events(redis: &TestRedis) -> Vec<OrderEvent> {
    let entries = redis.runtime.block_on(order_stream::range(&redis.redis, "-", "+")).unwrap();
    entries.iter().map(|entry| OrderEvent::read(&entry.fields).unwrap()).collect()
}

fn release(redis: &TestRedis, field: &ClaimField, order: OrderId) -> Released {
    let coffee = coffee();
    let unit = EndedUnit { field: field.as_str().to_owned(), order, after_version: None };
    redis.release(&coffee, &[unit])[0]
}

#[test]
fn claims_of_one_user_in_one_batch_see_each_other() {
    let mut redis = start(9);
    let keys = ["a", "b", "a", "c", "d", "b"];
    let batch = keys.map(|key| claim_with_key(&coffee(), "дейв smith", key));
    let outcomes = redis.claim(&batch);
    let held = |number: usize| ClaimOutcome::Held { order: batch[number].order, stock: 6 };
    assert_eq!(
        outcomes,
        [
            ClaimOutcome::Accepted { stock: 8 },
            ClaimOutcome::Accepted { stock: 7 },
            held(0),
            ClaimOutcome::Accepted { stock: 6 },
            ClaimOutcome::Refused(Refusal::LimitReached),
            held(1),
        ]
    );
    let accepted = [(&batch[0], 1), (&batch[1], 2), (&batch[3], 3)];
    assert_eq!(claims(&mut redis), accepted.map(|(claim, slot)| stored(claim, slot)));
    let expected = accepted.map(|(claim, slot)| OrderEvent {
        order: claim.order,
        coupon: coffee(),
        user: claim.user.clone(),
        slot,
        key: claim.key.clone(),
    });
    assert_eq!(events(&redis), expected);
    assert_eq!(redis.claim(&batch[..1]), [held(0)], "a batch sent twice claims once");
}

#[test]
fn a_claim_gets_the_first_refusal_that_applies() {
    let mut redis = start(3);
    let hash = redis.redis.keys.coupon(&coffee());
    let first = claim_with_key(&coffee(), "alice", "a");
    redis.claim(std::slice::from_ref(&first));
    let refusal = |redis: &TestRedis, claim: &Claim| redis.claim(std::slice::from_ref(claim)).remove(0);
    let refused = ClaimOutcome::Refused;
    assert_eq!(refusal(&redis, &claim(&coffee(), "alice")), refused(Refusal::KeyRequired), "before held");
    let more = ["b", "c"].map(|key| claim_with_key(&coffee(), "alice", key));
    assert!(more.iter().all(|claim| matches!(refusal(&redis, claim), ClaimOutcome::Accepted { .. })));
    let fourth = claim_with_key(&coffee(), "alice", "d");
    assert_eq!(refusal(&redis, &fourth), refused(Refusal::LimitReached), "before sold out");
    assert_eq!(refusal(&redis, &claim_with_key(&coffee(), "bob", "a")), refused(Refusal::SoldOut));
    redis.raw.call(&["HSET", &hash, "paused", "1"]);
    assert_eq!(refusal(&redis, &fourth), refused(Refusal::Paused), "before limit reached");
    assert_eq!(
        refusal(&redis, &first),
        ClaimOutcome::Held { order: first.order, stock: 0 },
        "held before paused"
    );
    assert_eq!(refusal(&redis, &claim(&coffee(), "bob")), refused(Refusal::KeyRequired), "before paused");
}

#[test]
fn a_batch_mixes_coupons_with_and_without_slots_and_a_limit_of_1_ignores_the_key() {
    let mut redis = start(2);
    let tea: CouponId = "tea".parse().unwrap();
    redis.publish(&tea, 2);
    let batch = [
        claim_with_key(&tea, "alice", "a"),
        claim_with_key(&coffee(), "alice", "a"),
        claim_with_key(&tea, "alice", "b"),
        claim(&tea, "bob"),
        claim(&coffee(), "bob"),
    ];
    let outcomes = redis.claim(&batch);
    assert_eq!(
        outcomes,
        [
            ClaimOutcome::Accepted { stock: 1 },
            ClaimOutcome::Accepted { stock: 1 },
            ClaimOutcome::Held { order: batch[0].order, stock: 0 },
            ClaimOutcome::Accepted { stock: 0 },
            ClaimOutcome::Refused(Refusal::KeyRequired),
        ]
    );
    let of_tea = redis.redis.keys.claims(&tea);
    assert_eq!(redis.field(&of_tea, "alice"), batch[0].order.to_string());
    let keys: Vec<Option<&str>> =
        events(&redis).iter().map(|event| event.key.as_ref().map(|_| "a key")).collect();
    assert_eq!(keys, [None, None, Some("a key")], "tea's events, then coffee's");
}

#[test]
fn a_slot_that_is_released_is_the_next_one_taken() {
    let mut redis = start(9);
    let held = ["a", "b", "c"].map(|key| claim_with_key(&coffee(), "alice", key));
    redis.claim(&held);
    assert_eq!(
        release(&redis, &field("alice", 2), held[0].order),
        Released::NotHeld,
        "slot 1 holds this order"
    );
    assert_eq!(release(&redis, &field("alice", 2), held[1].order), Released::Released);
    assert_eq!(release(&redis, &field("alice", 2), held[1].order), Released::NotHeld);
    let next = claim_with_key(&coffee(), "alice", "d");
    assert_eq!(redis.claim(std::slice::from_ref(&next)), [ClaimOutcome::Accepted { stock: 6 }]);
    let expected = [stored(&held[0], 1), stored(&next, 2), stored(&held[2], 3)];
    assert_eq!(claims(&mut redis), expected);
}

#[test]
fn a_lost_event_is_sent_again_with_its_slot_and_key_while_its_claim_stands() {
    let mut redis = start(9);
    let held = ["a", "b"].map(|key| claim_with_key(&coffee(), "alice", key));
    redis.claim(&held);
    let sent = events(&redis);
    let other_key = StoredClaim { key: Some("z".parse().unwrap()), ..stored(&held[0], 1) };
    let lost = [stored(&held[0], 1), stored(&held[1], 2), other_key, stored(&held[0], 3)];
    let coffee = coffee();
    let requeued = scripts::requeue(&redis.redis, READY, &coffee, &lost);
    assert_eq!(redis.runtime.block_on(requeued).unwrap(), Some(2));
    assert_eq!(events(&redis), [&sent[..], &sent].concat());
    assert_eq!(claims(&mut redis).len(), 2);
}

#[test]
fn a_limit_that_was_edited_by_hand_opens_no_more_than_16_slots() {
    let mut redis = start(1_000);
    let hash = redis.redis.keys.coupon(&coffee());
    for (limit, slots) in [("1000000000", 16), ("many", 16), ("-1", 16), ("17", 16)] {
        redis.raw.call(&["HSET", &hash, "per_user_limit", limit]);
        let batch: Vec<Claim> =
            (0..20).map(|number| claim_with_key(&coffee(), "alice", &format!("key-{number}"))).collect();
        redis.claim(&batch);
        assert_eq!(claims(&mut redis).len(), slots, "{limit}");
    }
}

#[test]
fn a_reader_takes_no_claim_with_a_key_for_a_foreign_field() {
    let redis = start(9);
    let held = ["a", "b"].map(|key| claim_with_key(&coffee(), "alice", key));
    redis.claim(&held);
    let hash = redis.runtime.block_on(ClaimsHash::read(&redis.redis, &coffee())).unwrap();
    assert_eq!((hash.claims.len(), hash.keys.len(), hash.foreign_fields.len()), (2, 2, 0));
}
