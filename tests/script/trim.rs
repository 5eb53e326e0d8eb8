//! Trims of the stream and removals of consumers never remove what a group or a consumer still needs.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use seckill::redis::keys::GROUP;
use seckill::redis::{order_stream, scripts};

use crate::harness::{READY, Raw, Reply, TestRedis, reset};

const OTHER_GROUP: &str = "analytics";

/// One entry in each node, so that `XTRIM ~` removes every entry that it may remove.
fn start() -> TestRedis {
    let mut redis = TestRedis::start();
    redis.raw.call(&["CONFIG", "SET", "stream-node-max-entries", "1"]);
    redis
}

/// Appends the entries `1-0`, `2-0`, … up to `count`.
fn append(raw: &mut Raw, orders: &str, count: usize) {
    for number in 1..=count {
        raw.call(&["XADD", orders, &format!("{number}-0"), "order", "any"]);
    }
}

/// Delivers the next `count` entries to the group's only consumer.
fn deliver(raw: &mut Raw, orders: &str, group: &str, count: usize) {
    let count = count.to_string();
    raw.call(&["XREADGROUP", "GROUP", group, "reader", "COUNT", &count, "STREAMS", orders, ">"]);
}

#[derive(Clone, Debug)]
struct Group {
    /// How many entries were delivered, from the first one on.
    delivered: usize,
    /// Whether each of the delivered entries is acknowledged.
    acknowledged: Vec<bool>,
}

impl Group {
    /// The lowest entry that must stay, counted from 1: the first pending one, else the last delivered one.
    fn lowest_kept(&self) -> usize {
        let pending = (0..self.delivered).find(|&index| !self.acknowledged[index]);
        pending.map_or(self.delivered, |index| index + 1)
    }

    /// Whether the group has not acknowledged this entry yet.
    fn needs(&self, number: usize) -> bool {
        number > self.delivered || !self.acknowledged[number - 1]
    }
}

#[derive(Clone, Debug)]
struct Stream {
    entries: usize,
    tail: u64,
    /// The lowest entry that is kept for other groups.
    keep_from: usize,
    ours: Group,
    other: Option<Group>,
}

fn any_group(entries: usize) -> impl Strategy<Value = Group> {
    // Most entries are acknowledged: otherwise almost nothing is trimmed.
    let acknowledged = prop::collection::vec(prop::bool::weighted(0.9), entries);
    (0..=entries, acknowledged).prop_map(|(delivered, acknowledged)| Group { delivered, acknowledged })
}

fn any_stream() -> impl Strategy<Value = Stream> {
    (1_usize..30).prop_flat_map(|entries| {
        let other = prop::option::of(any_group(entries));
        (1_u64..8, 0..=entries, any_group(entries), other)
            .prop_map(move |(tail, keep_from, ours, other)| Stream { entries, tail, keep_from, ours, other })
    })
}

fn set_up(redis: &mut TestRedis, stream: &Stream) {
    let orders = redis.redis.keys.orders.to_string();
    reset(&mut redis.raw, &redis.redis);
    append(&mut redis.raw, &orders, stream.entries);
    for (name, group) in
        std::iter::once((GROUP, &stream.ours)).chain(stream.other.iter().map(|g| (OTHER_GROUP, g)))
    {
        if name == OTHER_GROUP {
            redis.raw.call(&["XGROUP", "CREATE", &orders, name, "0"]);
        }
        if group.delivered > 0 {
            deliver(&mut redis.raw, &orders, name, group.delivered);
        }
        for number in (1..=group.delivered).filter(|number| group.acknowledged[number - 1]) {
            assert_eq!(redis.raw.call(&["XACK", &orders, name, &format!("{number}-0")]), Reply::Integer(1));
        }
    }
}

#[test]
fn a_trim_keeps_every_unacknowledged_entry_and_the_tail_and_removes_the_rest() {
    let redis = std::cell::RefCell::new(start());
    let removed_at_all = std::cell::Cell::new(0);
    let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&any_stream(), |stream| {
        let mut redis = redis.borrow_mut();
        set_up(&mut redis, &stream);
        let keep_from = format!("{}-0", stream.keep_from);
        let trimmed = scripts::trim(&redis.redis, READY, stream.tail, &keep_from);
        let removed = redis.runtime.block_on(trimmed).unwrap();
        let left: Vec<usize> =
            redis.entry_ids().iter().map(|id| id.split('-').next().unwrap().parse().unwrap()).collect();

        let tail = usize::try_from(stream.tail).unwrap();
        let first_of_tail = (stream.entries + 1).saturating_sub(tail).max(1);
        for number in 1..=stream.entries {
            let needed = stream.ours.needs(number)
                || number >= first_of_tail
                || stream
                    .other
                    .as_ref()
                    .is_some_and(|other| number >= stream.keep_from && other.needs(number));
            prop_assert!(left.contains(&number) || !needed, "{number} was removed: {left:?}");
        }
        let others = stream.other.iter().map(|other| other.lowest_kept().max(stream.keep_from));
        let floor = others.chain([stream.ours.lowest_kept(), first_of_tail]).min().unwrap().max(1);
        prop_assert_eq!(&left, &(floor..=stream.entries).collect::<Vec<_>>());
        prop_assert_eq!(removed, Some(i64::try_from(floor - 1).unwrap()));
        removed_at_all.set(removed_at_all.get() + floor - 1);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(removed_at_all.get() > 100, "almost nothing was trimmed");
}

#[test]
fn a_trim_behind_a_fence_or_without_the_group_removes_nothing() {
    let mut redis = start();
    let orders = redis.redis.keys.orders.to_string();
    append(&mut redis.raw, &orders, 5);
    deliver(&mut redis.raw, &orders, GROUP, 5);
    for number in 1..=5 {
        redis.raw.call(&["XACK", &orders, GROUP, &format!("{number}-0")]);
    }
    let fenced = scripts::trim(&redis.redis, "ready:8-c0ffee", 1, "0-0");
    assert_eq!(redis.runtime.block_on(fenced).unwrap(), None);

    redis.raw.call(&["XGROUP", "DESTROY", &orders, GROUP]);
    let headless = scripts::trim(&redis.redis, READY, 1, "0-0");
    assert_eq!(redis.runtime.block_on(headless).unwrap(), None);
    assert_eq!(redis.entry_ids().len(), 5);

    redis.raw.call(&["DEL", &orders]);
    let gone = scripts::trim(&redis.redis, READY, 1, "0-0");
    assert_eq!(redis.runtime.block_on(gone).unwrap(), None);
    assert_eq!(redis.raw.call(&["EXISTS", &orders]), Reply::Integer(0), "only a rebuild makes the stream");
}

/// Removes the consumer if it has been idle for `gone_after`.
fn remove(redis: &TestRedis, ready: &str, consumer: &str, gone_after: Duration) -> bool {
    let removed = scripts::remove_consumer(&redis.redis, ready, consumer, gone_after);
    redis.runtime.block_on(removed).unwrap()
}

fn consumers(redis: &TestRedis) -> Vec<String> {
    let consumers = redis.runtime.block_on(order_stream::consumers(&redis.redis)).unwrap();
    consumers.into_iter().map(|consumer| consumer.name).collect()
}

#[test]
fn a_consumer_that_holds_an_entry_is_never_removed() {
    let mut redis = start();
    let orders = redis.redis.keys.orders.to_string();
    append(&mut redis.raw, &orders, 2);
    deliver(&mut redis.raw, &orders, GROUP, 2);
    redis.raw.call(&["XACK", &orders, GROUP, "1-0"]);

    assert!(!remove(&redis, READY, "reader", Duration::ZERO));
    assert_eq!(consumers(&redis), ["reader"]);
    let pending = redis.runtime.block_on(order_stream::pending_ids(&redis.redis, "-")).unwrap();
    assert_eq!(pending, ["2-0"], "what it holds is still pending");

    redis.raw.call(&["XACK", &orders, GROUP, "2-0"]);
    assert!(remove(&redis, READY, "reader", Duration::ZERO));
    assert_eq!(consumers(&redis), Vec::<String>::new());
}

#[test]
fn a_consumer_seen_lately_is_kept() {
    let mut redis = start();
    let orders = redis.redis.keys.orders.to_string();
    redis.raw.call(&["XGROUP", "CREATECONSUMER", &orders, GROUP, "reader"]);
    assert!(!remove(&redis, READY, "reader", Duration::from_hours(1)));
    assert_eq!(consumers(&redis), ["reader"]);
}

#[test]
fn no_consumer_is_removed_behind_a_fence_or_by_another_name() {
    let mut redis = start();
    let orders = redis.redis.keys.orders.to_string();
    redis.raw.call(&["XGROUP", "CREATECONSUMER", &orders, GROUP, "reader"]);
    assert!(!remove(&redis, "ready:8-c0ffee", "reader", Duration::ZERO));
    assert!(!remove(&redis, READY, "read", Duration::ZERO));
    assert_eq!(consumers(&redis), ["reader"]);
}
