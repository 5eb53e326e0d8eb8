//! The whole waiting list is read page by page, also while users join and leave.

use std::sync::atomic::{AtomicBool, Ordering};

use seckill::domain::{CouponId, Definition, OrderId, WaitingUser};
use seckill::redis::waitlist::{self, Line, LineOutcome};

use crate::harness::{READY, TestRedis, claim, open_coupon};

fn coffee() -> CouponId {
    "coffee".parse().unwrap()
}

/// A sold-out coupon with these users in line.
fn redis_with_line(users: &[WaitingUser]) -> TestRedis {
    let (redis, coffee) = (TestRedis::start(), coffee());
    redis.publish_as(&Definition { waitlist: true, ..open_coupon(&coffee, 1) });
    redis.claim(&[claim(&coffee, "holder")]);
    for users in users.chunks(500) {
        let joined = waitlist::join(&redis.redis, READY, "00000000/00000002", &coffee, users);
        assert!(matches!(redis.runtime.block_on(joined).unwrap(), LineOutcome::Done(_)));
    }
    redis
}

fn waiting(user: &str) -> WaitingUser {
    WaitingUser { user: user.parse().unwrap(), order: OrderId::mint(), key: None }
}

fn read(redis: &TestRedis) -> Line {
    redis.runtime.block_on(waitlist::read(&redis.redis, &coffee())).unwrap()
}

/// The keys of the users in line, and of their orders.
fn keys(redis: &TestRedis) -> [String; 2] {
    [redis.redis.keys.waitlist(&coffee()), redis.redis.keys.waitlist_orders(&coffee())]
}

#[test]
fn a_line_is_read_whole_while_users_join_and_leave() {
    const READS: usize = 100;
    let stay: Vec<WaitingUser> = (0..1_500).map(|number| waiting(&format!("stays-{number}"))).collect();
    let redis = redis_with_line(&[&[waiting("mover")], &stay[..]].concat());
    let [places, orders] = keys(&redis);
    let mut other = redis.another_client();
    let has_ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // As the scripts do it, both keys in one step: the first in line leaves, and joins again.
            let leave = "redis.call('ZREM', KEYS[1], 'mover') redis.call('HDEL', KEYS[2], 'mover')";
            let join =
                "redis.call('ZADD', KEYS[1], 1, 'mover') redis.call('HSET', KEYS[2], 'mover', ARGV[1])";
            let order = OrderId::mint().to_string();
            while !has_ended.load(Ordering::Relaxed) {
                for step in [leave, join] {
                    other.call(&["EVAL", step, "2", &places, &orders, &order]);
                }
            }
        });
        let lines: Vec<Line> = (0..READS).map(|_| read(&redis)).collect();
        has_ended.store(true, Ordering::Relaxed);
        for mut line in lines {
            line.users.retain(|waiting| waiting.user.as_str() != "mover");
            assert_eq!((line.users.len(), line.is_damaged), (stay.len(), false));
            assert_eq!(line.users, stay);
        }
    });
}

#[test]
fn places_that_another_program_has_changed_are_damage_and_no_user_is_left_out() {
    let users: Vec<WaitingUser> = (0..1_200).map(|number| waiting(&format!("waits-{number:04}"))).collect();
    let mut redis = redis_with_line(&users);
    let [places, orders] = keys(&redis);
    // The same score around the end of a page of 1,000 users.
    for number in 995..1_005 {
        redis.raw.call(&["ZADD", &places, "999", &format!("waits-{number:04}")]);
    }
    let line = read(&redis);
    assert_eq!((line.users.len(), line.is_damaged), (users.len(), false));
    redis.raw.call(&["HDEL", &orders, "waits-0003"]);
    assert!(read(&redis).is_damaged, "a place without an order");
    redis.raw.call(&["HSET", &orders, "waits-0003", "nonsense"]);
    assert!(read(&redis).is_damaged, "a value that is no order");
    redis.raw.call(&["ZREM", &places, "waits-0003"]);
    assert!(read(&redis).is_damaged, "an order without a place");
    redis.raw.call(&["SET", &places, "another type"]);
    assert!(read(&redis).is_damaged, "another type");
}
