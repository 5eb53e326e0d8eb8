//! Coupons of which a user may hold several units. A claim with a used Idempotency-Key is a repeat, also if the stores
//! fail between the two claims.

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use crate::deleted_entries::delete_unnoticed;
use crate::lost_commits::scene::{RedisFault, Scene};
use support::{Answer, Sale, signal, until};

const COUPON: &str = "seckill:{0}:coupon:coffee";
const CLAIMS: &str = "seckill:{0}:claims:coffee";
const ORDERS: &str = "seckill:{0}:orders";
const NO_WORKERS: (&str, &str) = ("SECKILL_WORKERS", "0");
const ONE_WORKER: (&str, &str) = ("SECKILL_WORKERS", "1");
const QUICK_RECLAIM: (&str, &str) = ("SECKILL_RECLAIM_AFTER", "200ms");
/// Users with characters that are special in fields, statements or patterns.
const USERS: [&str; 3] = ["alice", "дейв smith", "a*[x]?'\"\\{e}"];
const KEYS: [&str; 3] = ["key-1", "!", "'\"\\~:{}[]*"];

/// Makes coffee, of which a user may hold `limit` units.
async fn create(sale: &Sale, total: i64, limit: i64) {
    sale.create_with("coffee", json!({"total": total, "per_user_limit": limit})).await;
}

async fn claim(sale: &Sale, user: &str, key: &str) -> Answer {
    sale.claim_with("coffee", user, &[("idempotency-key", key)]).await
}

fn order_of(answer: &Answer) -> String {
    assert!([200, 201, 202].contains(&answer.status), "{}", answer.text);
    answer.body["order"].as_str().unwrap().to_owned()
}

/// Claims with each key for each user; returns the orders.
async fn claim_all(sale: &Sale) -> Vec<String> {
    let mut orders = Vec::new();
    for user in USERS {
        for key in KEYS {
            orders.push(order_of(&claim(sale, user, key).await));
        }
    }
    orders
}

/// Repeats each claim until it is answered, and checks that the answer is the order of its key.
async fn assert_remembered(sale: &Sale, orders: &[String], after: &str) {
    let claims = USERS.into_iter().flat_map(|user| KEYS.map(|key| (user, key)));
    for ((user, key), order) in claims.zip(orders) {
        let again = until("the repeat is answered", async || {
            let again = claim(sale, user, key).await;
            (![0, 503].contains(&again.status)).then_some(again)
        })
        .await;
        assert_eq!((again.status, &order_of(&again)), (200, order), "{after}: {user}, {key}: {}", again.text);
        let more = claim(sale, user, "one-more").await;
        assert!(more.status == 503 || more.code() == "limit-reached", "{after}: {user}: {}", more.text);
    }
}

/// Ids of the nine entries, oldest first.
fn entry_ids(sale: &Sale) -> Vec<String> {
    let entries = sale.redis_cli(&["XRANGE", ORDERS, "-", "+"]);
    let is_id = |line: &&str| line.starts_with('1') && line.contains('-') && line.len() < 25;
    let ids: Vec<String> = entries.lines().filter(is_id).map(str::to_owned).collect();
    assert_eq!(ids.len(), 9, "{entries}");
    ids
}

/// User, slot, key and order of each live order.
fn rows(sale: &Sale) -> String {
    sale.psql(
        "select user_id, slot, idempotency_key, id from orders where status in ('reserved', 'confirmed') order by id",
    )
}

/// The expected result of `rows`: each user has each key of `KEYS`, in slots from 1 on.
fn expected_rows(orders: &[String]) -> String {
    let claims = USERS.into_iter().flat_map(|user| (1..).zip(KEYS).map(move |(slot, key)| (user, slot, key)));
    let rows = claims.zip(orders).map(|((user, slot, key), order)| format!("{user}|{slot}|{key}|{order}"));
    rows.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_key_gets_one_order_and_a_user_as_many_as_the_limit_allows() {
    let sale = Sale::start().await;
    create(&sale, 100, 3).await;
    sale.claim("coffee", "alice").await.assert_problem(400, "idempotency-key-required");
    let orders = claim_all(&sale).await;
    sale.claim("coffee", "alice").await.assert_problem(400, "idempotency-key-required");
    assert_remembered(&sale, &orders, "at once").await;
    claim(&sale, "alice", "fourth").await.assert_problem(409, "limit-reached");
    sale.assert_in_agreement("coffee").await;
    assert_eq!(rows(&sale), expected_rows(&orders));
    assert_eq!(sale.redis_stock("coffee"), 91);

    let held = sale.get_as(&sale.token("alice"), "/v1/coupons/coffee/claims").await;
    let items = held.body["items"].as_array().unwrap();
    let ids: Vec<&str> = items.iter().map(|item| item["order"].as_str().unwrap()).collect();
    assert_eq!(ids, orders[..3], "{}", held.text);
    for order in &orders[..3] {
        let path = format!("/v1/coupons/coffee/claims/{order}");
        assert_eq!(sale.get_as(&sale.token("alice"), &path).await.status, 200);
        assert_eq!(sale.get_as(&sale.token("bob"), &path).await.status, 404);
    }
    let none = sale.get_as(&sale.token("bob"), "/v1/coupons/coffee/claims").await;
    assert_eq!((none.status, &none.body["items"]), (200, &json!([])), "{}", none.text);
    let shown = sale.get("/v1/coupons/coffee").await;
    assert_eq!(shown.body["per_user_limit"], 3, "{}", shown.text);
}

#[tokio::test]
async fn the_admin_claims_for_a_user_by_the_same_rules() {
    let sale = Sale::start().await;
    create(&sale, 100, 2).await;
    let path = "/v1/admin/coupons/coffee/claims";
    let keyless = sale.admin(Method::POST, path, Some(json!({"user": "alice"}))).await;
    keyless.assert_problem(400, "idempotency-key-required");
    let first = order_of(&claim(&sale, "alice", "a").await);
    let run = |key: &str| {
        let mut command = sale.command();
        command.args(["claim", "coffee", "--user", "alice", "--json", "--key", key]).output().unwrap()
    };
    let order = |output: std::process::Output| {
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["order"].as_str().unwrap().to_owned()
    };
    assert_eq!(order(run("a")), first, "the user's own key");
    assert_ne!(order(run("b")), first);
    let refused = run("c");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("as one user may hold"), "{refused:?}");
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_claims_at_once_get_one_order_for_a_key_and_a_slot_for_each_of_many() {
    let sale = Sale::start().await;
    create(&sale, 100, 16).await;
    let of_one_key = futures_util::future::join_all((0..50).map(|_| claim(&sale, "alice", "key"))).await;
    let mut orders: Vec<String> = of_one_key.iter().map(order_of).collect();
    orders.dedup();
    assert_eq!(orders.len(), 1, "{orders:?}");
    assert_eq!(of_one_key.iter().filter(|answer| answer.status == 202).count(), 1);

    let keys: Vec<String> = (0..50).map(|number| format!("key-{number}")).collect();
    let of_many = futures_util::future::join_all(keys.iter().map(|key| claim(&sale, "alice", key))).await;
    assert_eq!(of_many.iter().filter(|answer| answer.status == 202).count(), 15);
    assert_eq!(
        of_many.iter().filter(|answer| answer.status == 409 && answer.code() == "limit-reached").count(),
        35
    );
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.psql("select count(*), count(distinct slot), max(slot) from orders"), "16|16|16");
}

#[tokio::test]
async fn a_slot_whose_unit_was_returned_can_be_claimed_at_once() {
    let sale = Sale::start().await;
    create(&sale, 100, 3).await;
    let orders = claim_all(&sale).await;
    sale.until_quiet().await;
    sale.cancel_order(&orders[1]);
    sale.assert_in_agreement("coffee").await;
    let next = order_of(&claim(&sale, "alice", "next").await);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.psql(&format!("select slot from orders where id = '{next}'")), "2");
    // After an order has ended, a claim with its key is a new claim.
    sale.cancel_order(&orders[0]);
    let again = order_of(&claim(&sale, "alice", KEYS[0]).await);
    assert_ne!(again, orders[0]);
    sale.assert_in_agreement("coffee").await;
    let expected: Vec<String> = [&again, &next].into_iter().chain(&orders[2..]).cloned().collect();
    sale.assert_recorded(&expected);
}

#[tokio::test]
async fn a_repeat_whose_order_has_ended_is_a_new_claim_of_a_free_slot() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    create(&sale, 9, 3).await;
    let orders = claim_all(&sale).await;
    let worker = sale.spawn("worker", &[ONE_WORKER]);
    sale.until_quiet().await;
    assert!(worker.stop().success());
    // No worker returns the unit: the coupon is sold out, and alice holds all her slots.
    sale.cancel_order(&orders[1]);
    let again = claim(&sale, "alice", KEYS[1]).await;
    assert_eq!(again.status, 202, "{}", again.text);
    claim(&sale, "alice", "one-more").await.assert_problem(409, "limit-reached");
    let held = sale.redis_cli(&["HGET", CLAIMS, "alice\u{1f}2"]);
    assert_eq!(held, format!("{} {}", order_of(&again), KEYS[1]));

    let _worker = sale.spawn("worker", &[ONE_WORKER]);
    sale.assert_in_agreement("coffee").await;
    let mut expected = orders;
    expected[1] = order_of(&again);
    sale.assert_recorded(&expected);
}

#[tokio::test]
async fn keys_are_remembered_after_any_damage_to_redis_and_a_crash_of_either_store() {
    let sale = Sale::start().await;
    create(&sale, 100, 3).await;
    let orders = claim_all(&sale).await;
    sale.assert_in_agreement("coffee").await;
    let second = "alice\u{1f}2";
    let other_key = format!("{} other", orders[1]);
    let damages: &[&[&[&str]]] = &[
        &[&["FLUSHALL"]],
        &[&["SCRIPT", "FLUSH"]],
        &[&["DEL", ORDERS]],
        &[&["DEL", COUPON]],
        &[&["DEL", CLAIMS]],
        &[&["DEL", COUPON, CLAIMS]],
        &[&["HDEL", CLAIMS, second]],
        &[&["HDEL", CLAIMS, "alice", second], &["HSET", CLAIMS, second, "nonsense"]],
    ];
    for damage in damages {
        for command in *damage {
            sale.redis_cli(command);
        }
        assert_remembered(&sale, &orders, &format!("{damage:?}")).await;
        sale.assert_in_agreement("coffee").await;
    }
    // Edits that keep the sum are found by a comparison.
    let edits: [&[&str]; 4] = [
        &["HSET", CLAIMS, second, &other_key],
        &["HSET", CLAIMS, second, &orders[1]],
        &["HSET", CLAIMS, "alice", &other_key],
        &[
            "EVAL",
            "redis.call('HDEL', KEYS[1], ARGV[1]) redis.call('HINCRBY', KEYS[2], 'stock', 1)",
            "2",
            CLAIMS,
            COUPON,
            second,
        ],
    ];
    for edit in edits {
        let epoch = sale.epoch();
        sale.redis_cli(edit);
        let compared = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"fix": true}))).await;
        assert_eq!((compared.status, &compared.body["fenced"]), (200, &json!(true)), "{}", compared.text);
        until("Redis is rebuilt", async || (sale.epoch() != epoch).then_some(())).await;
        sale.until_ready().await;
        assert_remembered(&sale, &orders, &format!("{edit:?}")).await;
        sale.assert_in_agreement("coffee").await;
    }
    signal(sale.redis_pid(), Signal::SIGKILL);
    assert_remembered(&sale, &orders, "Redis was killed").await;
    support::signal_all(&sale.postgres_pids(), Signal::SIGKILL);
    assert_remembered(&sale, &orders, "Postgres was killed").await;
    sale.assert_in_agreement("coffee").await;
    assert_eq!(rows(&sale), expected_rows(&orders), "no slot or key has changed");
    let kept = sale.redis_cli(&["HGET", CLAIMS, second]);
    assert_eq!(kept, format!("{} {}", orders[1], KEYS[1]));
}

#[tokio::test]
async fn keys_of_unrecorded_claims_are_restored_from_what_redis_still_has() {
    for damage in [&["DEL", CLAIMS][..], &["DEL", ORDERS], &["DEL", COUPON], &["DEL", CLAIMS, COUPON]] {
        let sale = Sale::start_with(&[NO_WORKERS]).await;
        create(&sale, 100, 3).await;
        let orders = claim_all(&sale).await;
        sale.redis_cli(damage);
        assert_remembered(&sale, &orders, &format!("{damage:?}")).await;
        let _worker = sale.spawn("worker", &[ONE_WORKER]);
        sale.assert_in_agreement("coffee").await;
        assert_eq!(rows(&sale), expected_rows(&orders), "{damage:?}");
        assert_eq!(sale.psql_number("select count(*) from dead_letters"), 0, "{damage:?}");
    }
}

#[tokio::test]
async fn a_reclaimed_event_and_one_that_is_sent_again_keep_their_slots_and_keys() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    create(&sale, 100, 3).await;
    let orders = claim_all(&sale).await;
    let ids = entry_ids(&sale);
    // A dead consumer has read all entries; then three entries were deleted.
    sale.redis_cli(&["XREADGROUP", "GROUP", "order-writers", "gone", "STREAMS", ORDERS, ">"]);
    delete_unnoticed(&sale, &[&ids[1], &ids[4], &ids[8]]);
    let fixed = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"fix": true}))).await;
    assert_eq!(fixed.body["fixed"], 3, "{}", fixed.text);
    let _worker = sale.spawn("worker", &[ONE_WORKER, QUICK_RECLAIM]);
    until("all orders are recorded", async || (rows(&sale) == expected_rows(&orders)).then_some(())).await;
    sale.assert_in_agreement("coffee").await;
    assert_remembered(&sale, &orders, "reclaimed").await;
}

#[tokio::test]
async fn an_event_whose_slot_or_key_cannot_be_read_is_a_dead_letter_and_its_claim_becomes_an_order() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    create(&sale, 100, 3).await;
    let orders = claim_all(&sale).await;
    let ids = entry_ids(&sale);
    delete_unnoticed(&sale, &[&ids[1], &ids[2]]);
    let event = |order: &'static str, more: [&'static str; 4]| {
        [&["XADD", ORDERS, "*", "coupon", "coffee", "user", "alice", "order"], &[order][..], &more].concat()
    };
    let [second, third] = [1, 2].map(|number: usize| -> &'static str { orders[number].clone().leak() });
    sale.redis_cli(&event(second, ["slot", "17", "key", "k"]));
    sale.redis_cli(&event(third, ["slot", "3", "key", "two words"]));
    let _worker = sale.spawn("worker", &[ONE_WORKER]);
    sale.until_quiet().await;
    assert_eq!(
        sale.psql_number("select count(*) from dead_letters where error like '%slot%' or error like '%Key%'"),
        2
    );
    // The claims of the dead letters have neither row nor entry, so a comparison sends their events again.
    let fixed = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"fix": true}))).await;
    assert_eq!(fixed.status, 200, "{}", fixed.text);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(rows(&sale), expected_rows(&orders));
}

#[tokio::test]
async fn a_replayed_dead_letter_has_the_key_of_its_claim() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    create(&sale, 100, 3).await;
    let rejected = order_of(&claim(&sale, "alice", "a").await);
    let kept = order_of(&claim(&sale, "alice", "b").await);
    sale.psql("update coupons set stock = 0");
    let _worker = sale.spawn("worker", &[ONE_WORKER]);
    until("both are rejected", async || {
        (sale.psql_number("select count(*) from orders where status = 'rejected'") == 2).then_some(())
    })
    .await;
    sale.psql("update coupons set stock = 100");
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.psql("select slot, idempotency_key from orders order by id"), "1|a\n2|b");
    let letters = sale.admin(Method::GET, "/v1/admin/dead", None).await;
    let letter_of = |order: &str| {
        let letters = letters.body["items"].as_array().unwrap();
        letters.iter().find(|letter| letter["order"] == order).unwrap()["id"].clone()
    };
    let path = format!("/v1/admin/dead/{}/replay", letter_of(&rejected));
    let replayed = sale.admin(Method::POST, &path, None).await;
    assert_eq!(replayed.status, 202, "{}", replayed.text);
    let again = claim(&sale, "alice", "a").await;
    assert_eq!((again.status, order_of(&again)), (200, order_of(&replayed)));
    // Here the user's own repeat comes before the replay.
    let own = claim(&sale, "alice", "b").await;
    let path = format!("/v1/admin/dead/{}/replay", letter_of(&kept));
    assert_eq!(order_of(&sale.admin(Method::POST, &path, None).await), order_of(&own));
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_newer_claim_with_the_same_key_ends_an_order_that_is_live_in_an_older_copy() {
    let mut scene = Scene::start().await;
    create(&scene.sale, 100, 3).await;
    let first = order_of(&claim(&scene.sale, "alice", "first").await);
    let ended = order_of(&claim(&scene.sale, "alice", "key").await);
    scene.copy().await;
    for order in [&first, &ended] {
        scene.sale.cancel_order(order);
    }
    scene.sale.until_quiet().await;
    // The key of the order in slot 2 comes again in slot 1.
    let next = until("the claim is accepted", async || {
        let next = claim(&scene.sale, "alice", "key").await;
        (next.status != 503).then_some(next)
    })
    .await;
    scene.lose().await;
    // A restarted Redis may be older than Postgres, so the rebuild cancels only orders that a newer claim proves ended.
    scene.inject(RedisFault::Restart).await;
    scene.until_it_waits().await;
    let report = scene.rebuild().await;
    let mut cancelled = vec![first, ended];
    cancelled.sort();
    assert_eq!((&report["cancelled"], &report["unheld"]), (&json!(cancelled), &json!([])), "{report:#}");
    assert_eq!(report["rejected"], 0, "{report:#}");
    scene.sale.assert_in_agreement("coffee").await;
    scene.sale.assert_recorded(&[order_of(&next)]);
}
