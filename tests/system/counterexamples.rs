//! The failures that the model finds without one of its rules (`model`), tried with the real program: a test stops the
//! program at the same moment, and no promise may break. Some of these tests are in the files of their subject.

mod older_copy;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use crate::deleted_entries::delete_unnoticed;
use support::external_store::{ExternalStore, folder};
use support::proxy::{EVALSHA, Proxy};
use support::{Process, Sale, until};

use self::older_copy::OlderCopy;

const COUPON: &str = "seckill:{0}:coupon:coffee";
const CLAIMS: &str = "seckill:{0}:claims:coffee";
const ORDERS: &str = "seckill:{0}:orders";
const EPOCH: &str = "seckill:{0}:epoch";
const NO_WORKERS: (&str, &str) = ("SECKILL_WORKERS", "0");
const ONE_WORKER: (&str, &str) = ("SECKILL_WORKERS", "1");
pub const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
const SECRET: &str = "a secret of at least thirty-two bytes";
const QUICK_RECLAIM: (&str, &str) = ("SECKILL_RECLAIM_AFTER", "200ms");

async fn order_of(sale: &Sale, user: &str) -> String {
    until("the claim is accepted", async || {
        let answer = sale.claim("coffee", user).await;
        assert!([200, 202, 503].contains(&answer.status), "{}", answer.text);
        (answer.status != 503).then(|| answer.body["order"].as_str().unwrap().to_owned())
    })
    .await
}

fn status_of(sale: &Sale, order: &str) -> String {
    sale.psql(&format!("select status from orders where id = '{order}'"))
}

async fn until_recorded(sale: &Sale, orders: i64) {
    until("the orders are rows", async || {
        (sale.psql_number("select count(*) from orders") == orders).then_some(())
    })
    .await;
}

/// Starts a second server on the same stores, behind a proxy, and sends all later requests to it.
async fn switch_to_server_behind_a_proxy(
    sale: &mut Sale,
    environment: &[(&str, &str)],
) -> (Proxy, Process, String) {
    let proxy = Proxy::before(&sale.redis_socket());
    let server = sale.spawn_by_address("serve", &[&proxy], environment);
    let home = std::mem::replace(&mut sale.url, server.url_when_up().await);
    (proxy, server, home)
}

#[tokio::test]
async fn a_repeat_whose_order_has_ended_is_a_new_claim_and_costs_one_unit() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 1).await;
    let first = order_of(&sale, "alice").await;
    let worker = sale.spawn("worker", &[ONE_WORKER]);
    until_recorded(&sale, 1).await;
    sale.until_quiet().await;
    assert!(worker.stop().success());
    assert_eq!(
        sale.claim("coffee", "alice").await.body["order"],
        first.as_str(),
        "a repeat gets the live order"
    );
    // There is no worker that could return the unit.
    sale.cancel_order(&first);
    let again = sale.claim("coffee", "alice").await;
    assert_eq!(again.status, 202, "{}", again.text);
    let second = again.body["order"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    assert_eq!(sale.claim("coffee", "bob").await.code(), "sold-out", "alice holds the unit again");

    let _worker = sale.spawn("worker", &[ONE_WORKER]);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(
        (status_of(&sale, &first), status_of(&sale, &second)),
        ("cancelled".into(), "confirmed".into())
    );
}

#[tokio::test]
async fn without_postgres_a_held_order_is_shown_only_if_no_order_can_have_ended() {
    let sale = Sale::start().await;
    sale.create("coffee", 1).await;
    sale.create_with("tea", json!({"total": 1, "reserve_seconds": 3600})).await;
    sale.create("mug", 2).await;
    for coupon in ["coffee", "tea", "mug"] {
        assert_eq!(sale.claim_with(coupon, "alice", &[("prefer", "wait=10")]).await.status, 201);
    }
    let revoked = sale.claim_with("mug", "bob", &[("prefer", "wait=10")]).await.body["order"].clone();
    let path = format!("/v1/admin/orders/{}/revoke", revoked.as_str().unwrap());
    let reason = json!({"reason": "paid with a stolen card", "return_unit": true});
    assert_eq!(sale.admin(Method::POST, &path, Some(reason)).await.status, 200);
    sale.create("last", 1).await;
    until("the server knows every change so far", async || {
        sale.get("/v1/coupons").await.text.contains("last").then_some(())
    })
    .await;
    let pids = sale.postgres_pids();
    support::signal_all(&pids, Signal::SIGSTOP);
    let coffee = sale.claim("coffee", "alice").await;
    let (tea, mug) = (sale.claim("tea", "alice").await, sale.claim("mug", "alice").await);
    let token = sale.token("alice");
    let held = |coupon: &str| format!("/v1/coupons/{coupon}/claims");
    let coffees = sale.get_as(&token, &held("coffee")).await;
    let teas = sale.get_as(&token, &held("tea")).await;
    support::signal_all(&pids, Signal::SIGCONT);
    assert_eq!(coffee.status, 200, "{}", coffee.text);
    tea.assert_problem(503, "unavailable");
    mug.assert_problem(503, "unavailable");
    assert_eq!((coffees.status, &coffees.body["items"][0]["status"]), (200, &json!("accepted")));
    teas.assert_problem(503, "unavailable");
    assert_eq!(sale.claim("tea", "alice").await.status, 200);
}

#[tokio::test]
async fn a_late_release_does_not_take_the_unit_of_the_users_next_order() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    let first = order_of(&sale, "alice").await;
    let proxy = Proxy::before(&sale.redis_socket());
    let worker = sale.spawn_by_address("worker", &[&proxy], &[ONE_WORKER]);
    until_recorded(&sale, 1).await;
    sale.until_quiet().await;
    let trap = proxy.hold(&[EVALSHA, "claims:coffee", &first]);
    sale.cancel_order(&first);
    trap.until_taken().await;
    let second = order_of(&sale, "alice").await;
    assert_ne!(first, second);
    trap.release();
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_cli(&["HGET", CLAIMS, "alice"]), second);
    assert_eq!(status_of(&sale, &second), "confirmed");
    assert!(worker.stop().success());
}

#[tokio::test]
async fn claims_deleted_during_a_rebuild_do_not_count_as_free_units() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 3).await;
    let mut orders = vec![order_of(&sale, "alice").await, order_of(&sale, "bob").await];
    sale.until_quiet().await;
    sale.server().signal(Signal::SIGSTOP);
    let (proxy, rebuilder, home) = switch_to_server_behind_a_proxy(&mut sale, &[NO_WORKERS]).await;
    for step in ["Sets a coupon to Postgres's definition", "Ends a rebuild"] {
        let trap = proxy.hold(&[step]);
        sale.redis_cli(&["DEL", CLAIMS, COUPON]);
        sale.claim("coffee", "late").await.assert_problem(503, "unavailable");
        trap.until_taken().await;
        sale.redis_cli(&["DEL", CLAIMS]);
        trap.release();
        orders.push(order_of(&sale, step).await);
        assert_eq!(sale.claim("coffee", "late").await.code(), "sold-out", "{step}");
        sale.server().signal(Signal::SIGCONT);
        sale.assert_in_agreement("coffee").await;
        let more = Some(json!({"total": orders.len() + 1}));
        assert_eq!(sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", more).await.status, 200);
        sale.server().signal(Signal::SIGSTOP);
    }
    sale.server().signal(Signal::SIGCONT);
    assert!(rebuilder.stop().success());
    sale.url = home;
    sale.assert_recorded(&orders);
}

#[tokio::test]
async fn a_flush_during_an_ordered_rebuild_cancels_no_order() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 10).await;
    let orders = [order_of(&sale, "alice").await, order_of(&sale, "bob").await];
    sale.until_quiet().await;
    sale.server().signal(Signal::SIGSTOP);
    let (proxy, rebuilder, home) = switch_to_server_behind_a_proxy(&mut sale, &[NO_WORKERS]).await;
    for damage in [&["FLUSHALL"][..], &["DEL", CLAIMS], &["DEL", CLAIMS, COUPON]] {
        // Sets what a probe records when it finds another Postgres and a consistent Redis.
        sale.psql("update fence set postgres_lost = true");
        until("claims wait for the operator", async || {
            let ready = sale.get("/readyz").await;
            ready.text.contains("reconcile --rebuild").then_some(())
        })
        .await;
        let trap = proxy.hold(&["Removes those of our keys"]);
        let rebuilding = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"rebuild": true})));
        let damaging = async {
            trap.until_taken().await;
            sale.redis_cli(damage);
            trap.release();
        };
        let (answer, ()) = tokio::join!(rebuilding, damaging);
        assert!([200, 503].contains(&answer.status), "{damage:?}: {}", answer.text);
        // The loss still waits for the operator, who orders the rebuild again.
        until("the rebuild is done", async || {
            let rebuild = Some(json!({"rebuild": true}));
            (sale.admin(Method::POST, "/v1/admin/reconcile", rebuild).await.status == 200).then_some(())
        })
        .await;
        until("claims are accepted", async || (sale.get("/readyz").await.status == 200).then_some(())).await;
        sale.assert_recorded(&orders);
        sale.assert_in_agreement("coffee").await;
    }
    assert!(rebuilder.stop().success());
    sale.url = home;
    sale.server().signal(Signal::SIGCONT);
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_rebuild_by_another_process_ends_an_idle_session() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    let other = sale.spawn("worker", &[ONE_WORKER]);
    other.until_logged("fence up").await;
    for _ in 0..3 {
        let rebuilt = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"rebuild": true}))).await;
        assert_eq!(rebuilt.status, 200, "{}", rebuilt.text);
        other.until_logged(&format!("accepted in epoch {}", sale.epoch())).await;
    }
}

#[tokio::test]
async fn a_deleted_entry_is_a_loss_of_the_epoch_in_which_it_is_found() {
    let mut sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    let order = order_of(&sale, "alice").await;
    let group = ["XREADGROUP", "GROUP", "order-writers", "gone", "STREAMS", ORDERS, ">"];
    let entry =
        sale.redis_cli(&group).lines().find(|line| line.contains('-') && line.len() < 25).unwrap().to_owned();
    let proxy = Proxy::before(&sale.redis_socket());
    // The proxy holds the worker, which reclaims entries, after the read of the marker and before the read of the
    // entries.
    let trap = proxy.hold(&["Takes over pending entries"]);
    let _worker = sale.spawn_by_address("worker", &[&proxy], &[ONE_WORKER, QUICK_RECLAIM]);
    trap.until_taken().await;
    let before = sale.epoch();
    sale.redis_cli(&["DEL", EPOCH]);
    until("another epoch has begun", async || (sale.epoch() != before).then_some(())).await;
    sale.until_ready().await;
    // Stops the server: its comparison at the start and its check each minute would find the deleted entry too.
    sale.server().signal(Signal::SIGSTOP);
    // Deletes the entry so that no probe notices it.
    delete_unnoticed(&sale, &[&entry]);
    trap.release();
    until_recorded(&sale, 1).await;
    sale.server().signal(Signal::SIGCONT);
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&[order]);
}

#[tokio::test]
async fn a_group_that_is_created_again_skips_no_event_that_only_the_stream_has() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    let mut orders = Vec::new();
    for user in ["alice", "bob", "carol"] {
        orders.push(order_of(&sale, user).await);
    }
    sale.redis_cli(&[
        "EVAL",
        "redis.call('XGROUP', 'DESTROY', KEYS[1], 'order-writers') redis.call('DEL', KEYS[2])",
        "2",
        ORDERS,
        CLAIMS,
    ]);
    let _worker = sale.spawn("worker", &[ONE_WORKER]);
    until_recorded(&sale, 3).await;
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&orders);
}

#[tokio::test]
async fn an_entry_of_an_older_epoch_is_not_recorded_beside_the_users_next_order() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    let lost = order_of(&sale, "alice").await;
    let proxy = Proxy::before(&sale.postgres_socket());
    let trap = proxy.hold(&["pg_advisory_xact_lock_shared"]);
    let _worker = sale.spawn_by_address("worker", &[&proxy], &[ONE_WORKER]);
    trap.until_taken().await;
    let before = sale.epoch();
    sale.redis_cli(&["FLUSHALL"]);
    until("another epoch has begun", async || (sale.epoch() != before).then_some(())).await;
    let kept = order_of(&sale, "alice").await;
    assert_ne!(lost, kept, "the flush deleted the first claim");
    trap.release();
    until_recorded(&sale, 1).await;
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&[kept]);
}

/// A sale on external stores.
pub async fn on_own_stores(redis: &str, postgres: &ExternalStore) -> Sale {
    let sale = Sale::start_with(&[
        ("REDIS_URL", redis),
        ("DATABASE_URL", &postgres.url("postgres")),
        ("SECKILL_JWT_SECRET", SECRET),
        ("SECKILL_ADMIN_TOKEN", SECRET),
    ])
    .await;
    // The harness reads the secrets from the data directory.
    std::fs::create_dir_all(sale.data_dir()).unwrap();
    for file in ["jwt-secret", "admin-token"] {
        std::fs::write(sale.data_dir().join(file), SECRET).unwrap();
    }
    sale
}

#[tokio::test]
async fn a_cancelled_order_that_is_live_in_an_older_copy_is_noticed_and_cancelled_again() {
    let scene = OlderCopy::after(async |sale, first| {
        sale.cancel_order(first);
        sale.until_quiet().await;
        assert_eq!(sale.redis_stock("coffee"), 1, "the unit is back in stock");
    })
    .await;
    scene.until_noticed().await;
    let OlderCopy { sale, first, .. } = &scene;
    assert_eq!(status_of(sale, first), "confirmed", "the copy has the order live");
    let rebuilt = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"rebuild": true}))).await;
    assert_eq!((rebuilt.status, &rebuilt.body["cancelled"]), (200, &json!([first])), "{}", rebuilt.text);
    sale.until_ready().await;
    let next = order_of(sale, "alice").await;
    assert_ne!(*first, next);
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&[next]);
}

#[tokio::test]
async fn an_edit_that_an_older_copy_lacks_is_noticed_without_any_claim() {
    let scene = OlderCopy::after(async |sale, _| {
        until("the total is edited", async || {
            let edit = Some(json!({"total": 5}));
            (sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", edit).await.status == 200).then_some(())
        })
        .await;
    })
    .await;
    scene.until_noticed().await;
    let order = Some(json!({"rebuild": true}));
    let done = scene.sale.admin(Method::POST, "/v1/admin/reconcile", order).await;
    assert_eq!(done.status, 200, "{}", done.text);
    assert_eq!(done.body["edits"][0]["outcome"], "adopted", "{}", done.text);
    scene.sale.until_ready().await;
    assert_eq!(scene.sale.psql("select total from coupons"), "5");
    scene.sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_confirm_that_an_older_copy_lacks_is_noticed_without_any_claim() {
    let scene = OlderCopy::after(async |sale, first| {
        until("the order is confirmed", async || {
            sale.psql("update orders set status = 'reserved', reserved_until = now() + interval '1 hour'");
            let path = format!("/v1/orders/{first}/confirm");
            (sale.admin(Method::POST, &path, None).await.status == 200).then_some(())
        })
        .await;
    })
    .await;
    scene.until_noticed().await;
}

#[tokio::test]
async fn a_replica_that_is_behind_takes_over_and_sells_nothing_twice() {
    let postgres = ExternalStore::postgres(&[]).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let master = ExternalStore::redis(&[&DURABLE[..], &["--port", &port]].concat(), folder());
    let follows = format!("127.0.0.1 {port}");
    let replica = ExternalStore::redis(&[&DURABLE[..], &["--replicaof", &follows]].concat(), folder());
    // A symbolic link instead of a virtual address: it leads to the current master.
    let address = folder();
    let link = address.path().join("redis.sock");
    std::os::unix::fs::symlink(master.dir.path().join("redis.sock"), &link).unwrap();
    let sale = on_own_stores(&format!("redis+unix://{}", link.display()), &postgres).await;
    sale.create("coffee", 2).await;
    let alice = order_of(&sale, "alice").await;
    sale.until_quiet().await;
    let follows = |field: &str| replica.redis_cli(&["HEXISTS", CLAIMS, field]).is_ok_and(|held| held == "1");
    until("the replica has alice's claim", async || follows("alice").then_some(())).await;
    // From this moment the replica has older data.
    replica.redis_cli(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let bob = order_of(&sale, "bob").await;
    sale.until_quiet().await;
    assert!(!follows("bob"));
    assert_eq!(replica.redis_cli(&["HGET", COUPON, "stock"]).unwrap(), "1");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(replica.dir.path().join("redis.sock"), &link).unwrap();
    drop(master);

    let late = until("a claim is answered", async || {
        let late = sale.claim("coffee", "carol").await;
        (late.status != 503).then_some(late)
    })
    .await;
    assert_eq!(late.code(), "sold-out", "{}", late.text);
    assert_eq!(replica.redis_cli(&["HGET", CLAIMS, "bob"]).unwrap(), bob);
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&[alice, bob]);
}
