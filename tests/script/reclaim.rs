//! Reclaiming reads page after page to the end of the list, and leaves deleted entries pending.

use std::time::{Duration, Instant};

use seckill::redis::keys::GROUP;
use seckill::redis::order_stream;
use seckill::redis::reclaim::{self, Ages};

use crate::harness::{Reply, TestRedis};

/// Entries `1-0` to `5-0`, delivered to a consumer that is gone. The second and the last one are deleted.
fn start() -> TestRedis {
    let mut redis = TestRedis::start();
    let orders = redis.redis.keys.orders.to_string();
    for number in 1..=5 {
        redis.raw.call(&["XADD", &orders, &format!("{number}-0"), "order", "any"]);
    }
    redis.raw.call(&["XREADGROUP", "GROUP", GROUP, "gone", "STREAMS", &orders, ">"]);
    redis.raw.call(&["XDEL", &orders, "2-0", "5-0"]);
    redis
}

fn reclaim(redis: &TestRedis, min_idle: Duration, from: &str) -> (Vec<String>, Vec<String>, Option<String>) {
    let mut ages = Ages::default();
    let page = reclaim::reclaim(&redis.redis, &mut ages, "heir", min_idle, from);
    let (entries, next) = redis.runtime.block_on(page).unwrap();
    (entries.entries.into_iter().map(|entry| entry.id).collect(), entries.deleted, next)
}

#[test]
fn deleted_entries_are_reported_and_stay_pending_and_all_others_are_taken_over() {
    let redis = start();
    for _ in 0..2 {
        let (taken, deleted, next) = reclaim(&redis, Duration::ZERO, "-");
        assert_eq!(
            (taken, deleted),
            (vec!["1-0".into(), "3-0".into(), "4-0".into()], vec!["2-0".into(), "5-0".into()])
        );
        assert_eq!(reclaim(&redis, Duration::ZERO, &next.unwrap()), (Vec::new(), Vec::new(), None));
    }
    let pending = redis.runtime.block_on(order_stream::pending_ids(&redis.redis, "-")).unwrap();
    assert_eq!(pending, ["1-0", "2-0", "3-0", "4-0", "5-0"]);
    assert_eq!(redis.runtime.block_on(order_stream::delivery_count(&redis.redis, "1-0")).unwrap(), 3);
    let heirs = redis.runtime.block_on(order_stream::read_pending(&redis.redis, "heir", "0")).unwrap();
    assert_eq!(heirs.entries.len(), 3, "the heir has taken them over");
}

#[test]
fn entries_that_are_pending_for_a_shorter_time_stay_with_their_consumer() {
    let redis = start();
    let (taken, deleted, next) = reclaim(&redis, Duration::from_hours(1), "-");
    assert_eq!((taken, deleted), (Vec::new(), Vec::new()));
    assert!(next.is_some(), "an empty page is not the end");
}

#[test]
fn an_absent_group_is_reported_as_no_group() {
    let mut redis = start();
    let orders = redis.redis.keys.orders.to_string();
    redis.raw.call(&["XGROUP", "DESTROY", &orders, GROUP]);
    let mut ages = Ages::default();
    let page = reclaim::reclaim(&redis.redis, &mut ages, "heir", Duration::ZERO, "-");
    let page = redis.runtime.block_on(page);
    assert!(matches!(page, Err(seckill::redis::RedisError::NoGroup(_))), "{page:?}");
}

/// Sets the delivery time of `1-0` ten minutes into the future, as if the clock had been set back.
const DELIVERED_AHEAD: &str = r"
redis.call('XCLAIM', KEYS[1], ARGV[1], 'gone', 0, '1-0', 'TIME', 123456789, 'RETRYCOUNT', 1, 'JUSTID')
local time = redis.call('TIME')
local ahead = struct.pack('<I8', time[1] * 1000 + 600000)
local dump = redis.call('DUMP', KEYS[1])
local from, to = dump:find(struct.pack('<I8', 123456789), 1, true)
redis.call('RESTORE', KEYS[1], 0, dump:sub(1, from - 1) .. ahead .. dump:sub(to + 1), 'REPLACE')
return redis.call('XPENDING', KEYS[1], ARGV[1], '1-0', '1-0', 1)[1][3]
";

#[test]
fn an_entry_with_a_delivery_time_in_the_future_is_taken_over_in_time() {
    const MIN_IDLE: Duration = Duration::from_millis(300);
    let mut redis = start();
    let orders = redis.redis.keys.orders.to_string();
    redis.raw.call(&["DEBUG", "SET-SKIP-CHECKSUM-VALIDATION", "1"]);
    let idle_ms = redis.raw.call(&["EVAL", DELIVERED_AHEAD, "1", &orders, GROUP]);
    assert_eq!(idle_ms, Reply::Integer(0), "Redis knows no idle time below 0");

    let mut ages = Ages::default();
    let began = Instant::now();
    let mut reclaims = || {
        ages.begin_scan();
        let page = reclaim::reclaim(&redis.redis, &mut ages, "heir", MIN_IDLE, "-");
        let (page, _) = redis.runtime.block_on(page).unwrap();
        ages.end_scan();
        page.entries.into_iter().any(|entry| entry.id == "1-0")
    };
    assert!(!reclaims(), "its consumer may still work on it");
    while !reclaims() {
        assert!(began.elapsed() < Duration::from_secs(30), "it is never taken over");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(began.elapsed() >= MIN_IDLE, "its consumer has the whole time");
    // The heir now has the entry, and gets the whole time too.
    assert!(!reclaims());
}
