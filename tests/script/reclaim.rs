//! Taking over what others left: page by page to the end, and nothing that was deleted is forgotten with it.

use std::time::Duration;

use seckill::redis::keys::GROUP;
use seckill::redis::stream;

use crate::harness::TestRedis;

/// Entries `1-0` to `5-0`, delivered to somebody who is gone; the second and the last are deleted.
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
    let page = stream::reclaim(&redis.redis, "heir", min_idle, from);
    let (entries, next) = redis.runtime.block_on(page).unwrap();
    (entries.entries.into_iter().map(|entry| entry.id).collect(), entries.deleted, next)
}

#[test]
fn what_was_deleted_is_told_and_stays_pending_and_the_rest_is_taken_over() {
    let redis = start();
    for _ in 0..2 {
        let (taken, deleted, next) = reclaim(&redis, Duration::ZERO, "-");
        assert_eq!(
            (taken, deleted),
            (vec!["1-0".into(), "3-0".into(), "4-0".into()], vec!["2-0".into(), "5-0".into()])
        );
        assert_eq!(reclaim(&redis, Duration::ZERO, &next.unwrap()), (Vec::new(), Vec::new(), None));
    }
    let pending = redis.runtime.block_on(stream::pending_ids(&redis.redis, "-")).unwrap();
    assert_eq!(pending, ["1-0", "2-0", "3-0", "4-0", "5-0"]);
    assert_eq!(redis.runtime.block_on(stream::delivery_count(&redis.redis, "1-0")).unwrap(), 3);
    let heirs = redis.runtime.block_on(stream::read_pending(&redis.redis, "heir", "0")).unwrap();
    assert_eq!(heirs.entries.len(), 3, "taken over by name");
}

#[test]
fn what_its_consumer_may_still_end_is_left_to_it() {
    let redis = start();
    let (taken, deleted, next) = reclaim(&redis, Duration::from_hours(1), "-");
    assert_eq!((taken, deleted), (Vec::new(), Vec::new()));
    assert!(next.is_some(), "an empty page is not the end");
}

#[test]
fn a_group_that_is_gone_is_told_by_its_name() {
    let mut redis = start();
    let orders = redis.redis.keys.orders.to_string();
    redis.raw.call(&["XGROUP", "DESTROY", &orders, GROUP]);
    let page = redis.runtime.block_on(stream::reclaim(&redis.redis, "heir", Duration::ZERO, "-"));
    assert!(matches!(page, Err(seckill::redis::RedisError::NoGroup(_))), "{page:?}");
}
