//! Redis loses data, or an operator edits data by hand: claims stop until the program has made both stores agree again.

use crate::deleted_entries::delete_unnoticed;
use support::{Sale, until};

const COUPON: &str = "seckill:{0}:coupon:coffee";
const CLAIMS: &str = "seckill:{0}:claims:coffee";
const ORDERS: &str = "seckill:{0}:orders";
const EPOCH: &str = "seckill:{0}:epoch";

/// Does the damage to a sale with recorded orders, then claims until a claim is accepted. Checks that both stores agree
/// afterwards, and that each accepted claim has its order.
async fn survives(sale: &Sale, damage: &[&[&str]]) {
    let before = sale.psql_number("select count(*) from orders where status = 'confirmed'");
    let next = sale.psql_number("select count(*) from orders");
    for command in damage {
        sale.redis_cli(command);
    }
    let user = format!("user-{next}");
    let order = until("the next claim is answered", async || {
        let answer = sale.claim("coffee", &user).await;
        assert!([200, 202, 503].contains(&answer.status), "{damage:?}: {}", answer.text);
        (answer.status != 503).then(|| answer.body["order"].as_str().unwrap().to_owned())
    })
    .await;
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.psql(&format!("select id from orders where user_id = '{user}'")), order, "{damage:?}");
    assert_eq!(sale.psql_number("select count(*) from orders where status = 'confirmed'"), before + 1);
}

#[tokio::test]
async fn both_stores_agree_again_after_any_deletion_flush_or_edit_by_hand() {
    let sale = Sale::start().await;
    sale.create("coffee", 1_000).await;
    for n in 0..5 {
        assert_eq!(sale.claim("coffee", &format!("user-{n}")).await.status, 202);
    }
    sale.until_quiet().await;
    let damages: &[&[&[&str]]] = &[
        &[&["FLUSHALL"]],
        &[&["SCRIPT", "FLUSH"]],
        &[&["DEL", EPOCH]],
        &[&["DEL", ORDERS]],
        &[&["DEL", COUPON]],
        &[&["DEL", CLAIMS]],
        &[&["DEL", COUPON, CLAIMS]],
        &[&["XGROUP", "DESTROY", ORDERS, "order-writers"]],
        &[&["HSET", COUPON, "stock", "17"]],
        &[&["HSET", COUPON, "stock", "3.5"]],
        &[&["HDEL", COUPON, "total"]],
        &[&["HDEL", CLAIMS, "user-0"]],
        &[&["HSET", CLAIMS, "stranger", "nonsense"]],
        &[&["DEL", EPOCH], &["LPUSH", EPOCH, "x"]],
        &[&["DEL", ORDERS], &["SET", ORDERS, "x"]],
        &[&["DEL", COUPON], &["SET", COUPON, "x"]],
        &[&["DEL", CLAIMS], &["SADD", CLAIMS, "x"]],
        &[&["DEL", "seckill:{0}:postgres_lsn"], &["SADD", "seckill:{0}:postgres_lsn", "x"]],
        &[&["SET", EPOCH, "ready:0-0badc0de"], &["DEL", CLAIMS]],
    ];
    for damage in damages {
        survives(&sale, damage).await;
    }
    // The owners still have their orders.
    let order = sale.psql("select id from orders where user_id = 'user-0'");
    let again = sale.claim("coffee", "user-0").await;
    assert_eq!((again.status, again.body["order"].as_str()), (200, Some(order.as_str())));
}

#[tokio::test]
async fn entries_trimmed_before_they_were_recorded_are_requeued() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0"), ("SECKILL_RECLAIM_AFTER", "200ms")]).await;
    sale.create("coffee", 100).await;
    for n in 0..20 {
        assert_eq!(sale.claim("coffee", &format!("user-{n}")).await.status, 202);
    }
    // Ten entries are delivered to a consumer that is gone, ten are not delivered; then all are trimmed.
    let group = ["GROUP", "order-writers", "gone"];
    sale.redis_cli(&[&["XREADGROUP"], &group[..], &["COUNT", "10", "STREAMS", ORDERS, ">"]].concat());
    sale.redis_cli(&["XTRIM", ORDERS, "MAXLEN", "0"]);
    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    until("the trimmed entries are noticed", async || {
        (sale.psql_number("select count(*) from orders") == 20).then_some(())
    })
    .await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_full_redis_refuses_claims_as_a_whole_and_accepts_them_again_when_there_is_room() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    let epoch = sale.epoch();
    sale.redis_cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = sale.claim("coffee", "alice").await;
    assert_eq!((refused.status, refused.code()), (503, "unavailable"), "{}", refused.text);
    assert_eq!(sale.redis_cli(&["HLEN", CLAIMS]), "0");
    sale.redis_cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.epoch(), epoch, "a full Redis causes no rebuild");
}

/// Flushes Redis with that many recorded orders in Postgres, and waits for the rebuild.
async fn rebuild_live_claims(claims: i64) {
    let sale = Sale::start().await;
    sale.create("coffee", claims + 50_000).await;
    sale.psql(&format!(
        "set statement_timeout = 0;
         insert into orders (id, coupon_id, user_id, status, claimed_at)
         select gen_random_uuid(), 'coffee', 'user-' || n, 'confirmed', now() from generate_series(1, {claims}) n;
         update coupons set stock = stock - {claims}",
    ));
    let before = sale.epoch();
    sale.redis_cli(&["FLUSHALL"]);
    until("a rebuild begins", async || (sale.epoch() != before).then_some(())).await;
    let all = claims.to_string();
    until("the claims are back", async || (sale.redis_cli(&["HLEN", CLAIMS]) == all).then_some(())).await;
    sale.until_ready().await;
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.claim("coffee", "user-77777").await.status, 200);
    let log = sale.log();
    println!("{}", log.lines().rfind(|line| line.contains("rebuild of epoch")).unwrap());
}

#[tokio::test]
async fn a_hundred_thousand_live_claims_are_rebuilt_after_a_flush() {
    rebuild_live_claims(100_000).await;
}

#[tokio::test]
#[ignore = "long"]
async fn a_million_live_claims_are_rebuilt_after_a_flush() {
    rebuild_live_claims(1_000_000).await;
}

#[tokio::test]
async fn events_that_cannot_be_recorded_become_dead_letters_and_block_no_other_event() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    assert_eq!(sale.claim_with("coffee", "alice", &[("prefer", "wait=10")]).await.status, 201);
    let order = |n: u8| format!("01a20dfc-6229-756f-bc31-2593204e67{n:02x}");
    let add = |fields: &[&str]| sale.redis_cli(&[&["XADD", ORDERS, "*"], fields].concat());
    add(&["foo", "bar"]);
    add(&["order", "nonsense", "coupon", "coffee", "user", "bob"]);
    add(&["order", &order(1), "coupon", "coffee"]);
    add(&["order", &order(2), "coupon", "no-such-coupon", "user", "bob"]);
    add(&["order", &order(3), "coupon", "coffee", "user", &"x".repeat(100_000)]);
    add(&["order", &order(4), "coupon", "coffee", "user", "alice"]);
    assert_eq!(sale.claim_with("coffee", "carol", &[("prefer", "wait=10")]).await.status, 201);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.psql_number("select count(*) from dead_letters"), 6);
    let rejected = sale.psql("select id from orders where status = 'rejected' order by id");
    assert_eq!(rejected, format!("{}\n{}", order(2), order(4)));

    let listed = sale.admin(reqwest::Method::GET, "/v1/admin/dead?limit=200", None).await;
    let items = listed.body["items"].as_array().unwrap();
    assert_eq!(items.len(), 6);
    let alices = items.iter().find(|letter| letter["order"] == order(4).as_str()).unwrap();
    let replay = format!("/v1/admin/dead/{}/replay", alices["id"]);
    let replayed = sale.admin(reqwest::Method::POST, &replay, None).await;
    assert_eq!(replayed.status, 200, "alice still has her unit: {}", replayed.text);
}

#[tokio::test]
async fn a_starting_process_joins_the_epoch_in_force_and_only_one_process_rebuilds_after_a_flush() {
    let sale = Sale::start().await;
    sale.create("coffee", 1_000).await;
    let epoch = sale.epoch();
    let workers: Vec<_> = (0..3).map(|_| sale.spawn("worker", &[("SECKILL_WORKERS", "1")])).collect();
    for worker in &workers {
        until("the worker has joined", async || worker.log().contains("fence up").then_some(())).await;
    }
    assert_eq!(sale.epoch(), epoch, "joining makes no new epoch");
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    sale.until_quiet().await;

    let counter = |epoch: &str| epoch.split('-').next().unwrap().parse::<u64>().unwrap();
    sale.redis_cli(&["FLUSHALL"]);
    until("a new epoch is in force", async || (sale.epoch() != epoch).then_some(())).await;
    sale.assert_in_agreement("coffee").await;
    for worker in &workers {
        let after = sale.epoch();
        until("the worker has joined again", async || {
            worker.log().contains(&format!("epoch {after}")).then_some(())
        })
        .await;
    }
    assert_eq!(counter(&sale.epoch()), counter(&epoch) + 1);
}

/// Renames a folder of Postgres's files while the program is stopped.
fn rename_cluster(sale: &Sale, from: &str, to: &str) {
    let folder = sale.data_dir().join("postgres");
    std::fs::rename(folder.join(from), folder.join(to)).unwrap();
}

#[tokio::test]
async fn an_ordered_rebuild_restores_orders_that_a_restored_postgres_lost() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 100).await;
    assert_eq!(sale.claim("coffee", "early").await.status, 202);
    sale.until_quiet().await;
    assert!(sale.stop().success());
    let folder = sale.data_dir().join("postgres");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(folder.join("cluster"))
        .arg(folder.join("copy"))
        .status();
    assert!(copied.unwrap().success());
    sale.start_server().await;
    sale.create("tea", 10).await;
    let mut orders = Vec::new();
    for n in 0..20 {
        let coupon = if n % 2 == 0 { "coffee" } else { "tea" };
        orders
            .push(sale.claim(coupon, &format!("user-{n}")).await.body["order"].as_str().unwrap().to_owned());
    }
    sale.until_quiet().await;
    assert!(sale.stop().success());
    rename_cluster(&sale, "cluster", "lost");
    rename_cluster(&sale, "copy", "cluster");

    sale.start_server_unready().await;
    let why = until("the loss is noticed", async || {
        let ready = sale.get("/readyz").await;
        let detail = ready.body["detail"].as_str().unwrap_or_default().to_owned();
        detail.contains("reconcile --rebuild").then_some(detail)
    })
    .await;
    assert!(why.contains("lost commits"), "{why}");
    assert_eq!(sale.claim("coffee", "late").await.status, 503);
    // Only the operator can end this state; another start does not end it.
    sale.kill_9();
    sale.start_server_unready().await;
    until("the loss is still reported", async || {
        let ready = sale.get("/readyz").await;
        (ready.status == 503 && ready.text.contains("lost commits")).then_some(())
    })
    .await;

    let rebuilt = sale.command().args(["reconcile", "--rebuild"]).output().unwrap();
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    assert!(String::from_utf8_lossy(&rebuilt.stdout).contains("adopted  tea"));
    sale.until_ready().await;
    sale.assert_in_agreement("coffee").await;
    sale.assert_in_agreement("tea").await;
    for order in orders {
        let row = sale.psql_number(&format!(
            "select count(*) from orders where id = '{order}' and status = 'confirmed'"
        ));
        assert_eq!(row, 1, "{order}");
    }
    assert_eq!(sale.claim("coffee", "late").await.status, 202);
}

async fn reconcile(sale: &Sale, fix: bool) -> serde_json::Value {
    let body = serde_json::json!({ "fix": fix });
    let answer = sale.admin(reqwest::Method::POST, "/v1/admin/reconcile", Some(body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body
}

#[tokio::test]
async fn reconcile_requeues_lost_events_but_no_event_in_flight_while_claims_go_on() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 100).await;
    let mut orders = Vec::new();
    for n in 0..6 {
        orders.push(
            sale.claim("coffee", &format!("user-{n}")).await.body["order"].as_str().unwrap().to_owned(),
        );
    }
    let clean = reconcile(&sale, false).await;
    assert_eq!(
        (&clean["claims"], &clean["in_flight"], &clean["lost_events"]),
        (&6.into(), &6.into(), &0.into())
    );
    // Deletes three of the entries before a worker has read them: only a comparison can find these events.
    let entries = sale.redis_cli(&["XRANGE", ORDERS, "-", "+"]);
    let ids: Vec<&str> = entries.lines().filter(|line| line.starts_with('1') && line.len() < 25).collect();
    assert_eq!(ids.len(), 6);
    delete_unnoticed(&sale, &[ids[1], ids[3], ids[5]]);
    let report = reconcile(&sale, false).await;
    assert_eq!(
        (&report["in_flight"], &report["lost_events"], &report["fixed"]),
        (&3.into(), &3.into(), &0.into())
    );
    let epoch = sale.epoch();
    let fixed = reconcile(&sale, true).await;
    assert_eq!((&fixed["lost_events"], &fixed["fixed"]), (&3.into(), &3.into()));
    assert_eq!(sale.epoch(), epoch, "repaired while claims go on");

    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    until("all are recorded", async || (sale.psql_number("select count(*) from orders") == 6).then_some(()))
        .await;
    sale.assert_in_agreement("coffee").await;
    assert_eq!(reconcile(&sale, false).await["in_flight"], 0);
}

#[tokio::test]
async fn reconcile_returns_missed_units_and_stops_claims_for_missing_ones() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    for user in ["alice", "bob", "carol"] {
        assert_eq!(sale.claim("coffee", user).await.status, 202);
    }
    sale.until_quiet().await;
    // Ends Alice's order by hand, without the outbox row that would return her unit.
    sale.psql("update orders set status = 'cancelled' where user_id = 'alice'; update coupons set stock = stock + 1");
    let report = reconcile(&sale, false).await;
    assert_eq!((&report["missed_releases"], &report["missing_claims"]), (&1.into(), &0.into()), "{report}");
    assert_eq!(reconcile(&sale, true).await["fixed"], 1);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 8);

    // Deletes Bob's claim but keeps the coupon consistent: only a comparison can find this.
    sale.redis_cli(&["HDEL", CLAIMS, "bob"]);
    sale.redis_cli(&["HINCRBY", COUPON, "stock", "1"]);
    let epoch = sale.epoch();
    let report = reconcile(&sale, true).await;
    assert_eq!((&report["missing_claims"], &report["fenced"]), (&1.into(), &true.into()), "{report}");
    until("a new epoch is in force", async || (sale.epoch() != epoch).then_some(())).await;
    sale.until_ready().await;
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.claim("coffee", "bob").await.status, 200);
}
