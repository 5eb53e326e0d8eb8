//! Redis at its memory limit: a claim is refused as a whole, and scripts that free memory still work.

use std::time::Duration;

use seckill::domain::{ClaimOutcome, CouponId, Definition, OrderId, WaitingUser};
use seckill::redis::RedisError;
use seckill::redis::scripts;
use seckill::redis::scripts::claim;
use seckill::redis::scripts::release::Released;
use seckill::redis::waitlist::{self, LineOutcome, Served};
use seckill::redis::{deleted_entries, order_stream};

use crate::harness::{NEVER_MS, READY, Reply, TestRedis, claim, open_coupon, unit};

fn coffee() -> CouponId {
    "coffee".parse().unwrap()
}

/// A Redis with claims of alice and bob, whose memory is full after these claims.
fn full_redis() -> (TestRedis, [seckill::domain::Claim; 2]) {
    let mut redis = TestRedis::start();
    // One entry in each node, so that `XTRIM ~` removes every entry that it may remove.
    redis.raw.call(&["CONFIG", "SET", "stream-node-max-entries", "1"]);
    redis.publish(&coffee(), 5);
    let claims = [claim(&coffee(), "alice"), claim(&coffee(), "bob")];
    assert!(redis.claim(&claims).iter().all(|outcome| matches!(outcome, ClaimOutcome::Accepted { .. })));
    let entries = redis.runtime.block_on(order_stream::read_pending(&redis.redis, "worker-1", ">")).unwrap();
    assert_eq!(entries.entries.len(), 2);
    assert_eq!(redis.raw.call(&["CONFIG", "SET", "maxmemory", "1"]), Reply::Simple("OK".into()));
    (redis, claims)
}

fn is_oom<T>(result: Result<T, RedisError>) -> bool {
    matches!(result, Err(RedisError::Busy(details)) if details.starts_with("OOM"))
}

#[test]
fn a_claim_at_full_memory_is_refused_whole() {
    let (mut redis, _) = full_redis();
    let before = redis.dump();
    let claims = [claim(&coffee(), "carol"), claim(&coffee(), "dave")];
    let reply = claim::claim_batch(&redis.redis, READY, NEVER_MS, &claims, |_| true);
    assert!(is_oom(redis.runtime.block_on(reply)));
    assert_eq!(redis.dump(), before);
}

#[test]
fn a_publication_at_full_memory_is_refused_whole() {
    let (mut redis, _) = full_redis();
    let before = redis.dump();
    let mut edited = open_coupon(&coffee(), 9);
    edited.version = 2;
    let published = scripts::publish(&redis.redis, READY, false, &edited);
    assert!(is_oom(redis.runtime.block_on(published)));
    assert_eq!(redis.dump(), before);
}

#[test]
fn units_go_back_at_full_memory() {
    let (mut redis, claims) = full_redis();
    let coffee = coffee();
    let units = claims.map(|claim| unit(claim.user.as_str(), claim.order));
    assert_eq!(redis.release(&coffee, &units), [Released::Released; 2]);
    assert_eq!(redis.field(&redis.redis.keys.coupon(&coffee), "stock"), "5");
}

#[test]
fn entries_are_acknowledged_and_trimmed_at_full_memory() {
    let (mut redis, _) = full_redis();
    let ids = redis.entry_ids();
    redis.runtime.block_on(deleted_entries::acknowledge_deleted(&redis.redis, &ids)).unwrap();
    assert_eq!(
        redis.runtime.block_on(order_stream::pending_ids(&redis.redis, "-")).unwrap(),
        Vec::<String>::new(),
        "all are acknowledged"
    );

    let trimmed = scripts::trim(&redis.redis, READY, 1, "0-0");
    assert_eq!(redis.runtime.block_on(trimmed).unwrap(), Some(1));
    assert_eq!(redis.entry_ids(), ids[1..]);
    let removed = scripts::remove_consumer(&redis.redis, READY, "worker-1", Duration::ZERO);
    assert!(redis.runtime.block_on(removed).unwrap());
}

#[test]
fn at_full_memory_users_in_line_get_units_and_leave_and_no_user_joins() {
    let mut redis = TestRedis::start();
    let coffee = coffee();
    redis.publish_as(&Definition { waitlist: true, ..open_coupon(&coffee, 1) });
    let alice = claim(&coffee, "alice");
    redis.claim(std::slice::from_ref(&alice));
    let users = ["bob", "carol", "dave", "erin"].map(|user| WaitingUser {
        user: user.parse().unwrap(),
        order: OrderId::mint(),
        key: None,
    });
    let position = "00000000/00000002";
    let joined = waitlist::join(&redis.redis, READY, position, &coffee, &users[..3]);
    assert!(matches!(redis.runtime.block_on(joined).unwrap(), LineOutcome::Done(_)));
    let restocked = Definition { waitlist: true, version: 2, ..open_coupon(&coffee, 2) };
    redis.runtime.block_on(scripts::publish(&redis.redis, READY, false, &restocked)).unwrap();
    redis.raw.call(&["CONFIG", "SET", "maxmemory", "1"]);

    let before = redis.dump();
    let position = "00000000/00000003";
    let joined = waitlist::join(&redis.redis, READY, position, &coffee, &users[3..]);
    assert!(is_oom(redis.runtime.block_on(joined)));
    assert_eq!(redis.dump(), before);

    let served = redis.runtime.block_on(waitlist::serve(&redis.redis, READY, &coffee)).unwrap();
    assert_eq!(served, LineOutcome::Done((Served { units: 1, orders: vec![users[0].order] }, 0)));
    let [bob, carol, dave, _] = users;
    let left = waitlist::leave(&redis.redis, READY, &coffee, &carol.user);
    assert_eq!(redis.runtime.block_on(left).unwrap(), LineOutcome::Done(Some(carol.order)));
    assert_eq!(redis.release(&coffee, &[unit("alice", alice.order)]), [Released::Released]);
    let claims = redis.redis.keys.claims(&coffee);
    for user in [bob, dave] {
        assert_eq!(redis.field(&claims, user.user.as_str()), user.order.to_string());
    }
}
