//! An acknowledgement records Postgres's WAL position, and does nothing under another marker.

use seckill::redis::keys::GROUP;
use seckill::redis::{order_stream, scripts};

use crate::harness::{READY, Reply, TestRedis};

const LOWER: &str = "00000000/0000000A";
const HIGHER: &str = "00000001/00000000";

#[test]
fn entries_are_acknowledged_with_the_highest_position_and_only_in_their_epoch() {
    let mut redis = TestRedis::start();
    let orders = redis.redis.keys.orders.to_string();
    let ids: Vec<String> = (1..=3).map(|number| format!("{number}-0")).collect();
    for id in &ids {
        redis.raw.call(&["XADD", &orders, id, "order", "any"]);
    }
    redis.raw.call(&["XREADGROUP", "GROUP", GROUP, "reader", "STREAMS", &orders, ">"]);
    let acknowledge = |redis: &TestRedis, marker: &str, lsn: &str, ids: &[String]| {
        redis
            .runtime
            .block_on(scripts::acknowledge(&redis.redis, marker, lsn, ids.iter().map(String::as_str)))
            .unwrap()
    };
    let recorded = |lsn: &str| Reply::Bulk(Some(lsn.to_owned()));
    let state = |redis: &mut TestRedis| {
        let pending = redis.runtime.block_on(order_stream::pending_ids(&redis.redis, "-")).unwrap();
        (pending, redis.raw.call(&["GET", &redis.redis.keys.postgres_lsn]))
    };

    assert_eq!(acknowledge(&redis, "ready:0-00000000", HIGHER, &ids), None);
    assert_eq!(state(&mut redis), (ids.clone(), Reply::Bulk(None)), "nothing is written");

    assert_eq!(acknowledge(&redis, READY, HIGHER, &ids[..2]), Some(2));
    assert_eq!(state(&mut redis), (ids[2..].to_vec(), recorded(HIGHER)));

    assert_eq!(acknowledge(&redis, READY, LOWER, &ids), Some(1), "two of them were acknowledged before");
    assert_eq!(state(&mut redis), (Vec::new(), recorded(HIGHER)), "a position never goes back");
}
