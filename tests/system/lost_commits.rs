//! An older copy replaces Postgres. An ordered rebuild restores the edits and coupons that the copy lacks, or lists and
//! pauses them. Nothing is sold before this rebuild.

use reqwest::Method;
use seckill::domain::OrderId;
use serde_json::json;

mod confirms;
pub mod scene;

use scene::{ORDERED, RedisFault, Scene, edit_of};

#[tokio::test]
async fn a_raised_total_that_an_older_copy_lacks_is_restored_and_no_order_is_rejected() {
    for fault in [RedisFault::None, RedisFault::Restart, RedisFault::Kill] {
        let mut scene = Scene::start().await;
        scene.sale.create("coffee", 3).await;
        let mut orders = scene.sell("coffee", 0..3).await;
        scene.copy().await;
        scene.edit("coffee", json!({"total": 8})).await;
        orders.extend(scene.sell("coffee", 3..7).await);
        scene.lose().await;
        scene.inject(fault).await;
        scene.until_it_waits().await;
        scene.sale.claim("coffee", "late").await.assert_problem(503, "unavailable");
        let report = scene.rebuild().await;
        assert_eq!((&report["resent"], &report["rejected"]), (&4.into(), &0.into()), "{fault:?}: {report:#}");
        let edit = edit_of(&report, "coffee");
        assert_eq!(edit["outcome"], "adopted", "{fault:?}: {report:#}");
        assert_eq!(edit["changes"], json!([{"field": "total", "from": "3", "to": "8"}]));
        scene.sale.assert_in_agreement("coffee").await;
        scene.sale.assert_recorded(&orders);
        assert_eq!(scene.definition("coffee"), "8|f|coffee", "{fault:?}");
        scene.sell("coffee", 7..8).await;
        assert_eq!(scene.sale.claim("coffee", "late").await.code(), "sold-out");
    }
}

#[tokio::test]
async fn every_edit_and_coupon_that_an_older_copy_lacks_is_restored_and_listed() {
    let mut scene = Scene::start().await;
    for coupon in ["coffee", "tea", "cake", "juice", "milk"] {
        scene.sale.create(coupon, 10).await;
        scene.sell(coupon, 0..1).await;
    }
    scene.copy().await;
    scene.edit("coffee", json!({"paused": true})).await;
    scene.edit("tea", json!({"ends_at": "2020-01-01T00:00:00Z"})).await;
    scene.edit("cake", json!({"total": 4})).await;
    scene.edit("juice", json!({"title": "Fresh juice"})).await;
    scene.edit("juice", json!({"starts_at": "2020-01-01T00:00:00Z", "total": 20})).await;
    scene.sale.create("nova", 5).await;
    scene.sell("nova", 0..2).await;
    scene.lose().await;
    scene.inject(RedisFault::Kill).await;
    scene.until_it_waits().await;
    let rebuilt = scene.sale.command().args(["reconcile", "--rebuild"]).output().unwrap();
    let text = String::from_utf8_lossy(&rebuilt.stdout).into_owned();
    assert!(rebuilt.status.success(), "{text}{}", String::from_utf8_lossy(&rebuilt.stderr));
    let listed = [
        "adopted  coffee  version 1 -> 2: paused false -> true",
        "adopted  tea  version 1 -> 2: ends_at none -> 2020-01-01T00:00:00Z",
        "adopted  cake  version 1 -> 2: total 10 -> 4",
        "adopted  juice  version 1 -> 3: total 10 -> 20, title juice -> Fresh juice, starts_at none -> 2020",
        "adopted  nova  (coupon that only Redis had)",
    ];
    for line in listed {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    assert!(!text.contains("milk"), "{text}");
    assert!(scene.sale.log().contains("coupon coffee: an edit that Postgres had lost is in force again"));
    let adopted =
        ["nova 5", "cake 4", "coffee -", "juice 20", "tea -"].map(|to| format!(", system adopt {to}"));
    assert_eq!(scene.audit_log(), format!("admin rebuild - -{}", adopted.concat()));
    scene.sale.until_ready().await;
    for (coupon, code) in [("coffee", "paused"), ("tea", "ended")] {
        assert_eq!(scene.sale.claim(coupon, "late").await.code(), code);
    }
    scene.sell("cake", 1..4).await;
    assert_eq!(scene.sale.claim("cake", "late").await.code(), "sold-out");
    scene.sell("juice", 1..20).await;
    scene.sell("milk", 1..2).await;
    scene.sell("nova", 2..5).await;
    for coupon in ["coffee", "tea", "cake", "juice", "milk", "nova"] {
        scene.sale.assert_in_agreement(coupon).await;
    }
    assert_eq!(scene.psql("select count(*) from seckill.orders where status = 'rejected'"), "0");
}

#[tokio::test]
async fn a_coupon_with_an_unconfirmed_definition_is_listed_and_paused_until_an_admin_resumes_it() {
    let mut scene = Scene::start().await;
    for coupon in ["coffee", "tea", "cake", "milk"] {
        scene.sale.create(coupon, 3).await;
    }
    let mut orders = scene.sell("coffee", 0..3).await;
    scene.copy().await;
    scene.edit("coffee", json!({"total": 8})).await;
    orders.extend(scene.sell("coffee", 3..7).await);
    scene.lose().await;
    scene.redis(&["HINCRBY", "seckill:{0}:coupon:coffee", "stock", "1"]);
    scene.redis(&["DEL", "seckill:{0}:coupon:tea"]);
    scene.redis(&["HSET", "seckill:{0}:coupon:cake", "title", "Pie"]);
    scene.until_it_waits().await;
    let report = scene.rebuild().await;
    let sums = "stock + claims is not its total in Redis";
    for (coupon, why) in [
        ("coffee", sums),
        ("tea", "Redis has lost the coupon"),
        ("cake", "Redis has another definition of the same version"),
    ] {
        let edit = edit_of(&report, coupon);
        assert_eq!((&edit["outcome"], &edit["why"]), (&"paused".into(), &why.into()), "{report:#}");
        assert_eq!(scene.sale.claim(coupon, "late").await.code(), "paused", "{coupon}");
    }
    assert_eq!(edit_of(&report, "cake")["undone"][1], json!({"field": "title", "from": "Pie", "to": "cake"}));
    assert_eq!(report["edits"].as_array().unwrap().len(), 3, "{report:#}");
    let expected = "admin rebuild - -, system pause cake -, system edit coffee 7, system pause tea -";
    assert_eq!(scene.audit_log(), expected);
    scene.sell("milk", 0..1).await;
    // The coupon's total is now at least the number of accepted claims.
    scene.sale.assert_in_agreement("coffee").await;
    for order in orders {
        let status = scene.psql(&format!("select status from seckill.orders where id = '{order}'"));
        assert_eq!(status, "confirmed");
    }
    assert_eq!(scene.definition("coffee"), "7|t|coffee");
    scene.edit("tea", json!({"paused": false})).await;
    scene.sell("tea", 0..3).await;
    for coupon in ["tea", "cake", "milk"] {
        scene.sale.assert_in_agreement(coupon).await;
    }
}

#[tokio::test]
async fn a_noticed_postgres_loss_waits_for_the_operator_whatever_happens_to_redis() {
    let mut scene = Scene::start().await;
    scene.sale.create("coffee", 10).await;
    scene.copy().await;
    scene.sell("coffee", 0..2).await;
    scene.lose().await;
    let mut reason = scene.until_it_waits().await;
    let epoch = scene.psql("select epoch from seckill.fence");
    for damage in
        [&["DEL", "seckill:{0}:epoch"][..], &["DEL", "seckill:{0}:orders"], &["PING"], &["FLUSHALL"]]
    {
        scene.sale.kill_9();
        scene.redis(damage);
        scene.inject(RedisFault::Kill).await;
        reason = scene.until_it_waits().await;
        assert_eq!(scene.psql("select epoch from seckill.fence"), epoch, "{damage:?}");
    }
    assert!(reason.contains("lost commits"), "{reason}");
    scene.rebuild().await;
    scene.edit("coffee", json!({"paused": false})).await;
    scene.sell("coffee", 2..3).await;
    scene.sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_coupon_that_postgres_does_not_know_stops_claims_and_is_adopted_by_an_ordered_rebuild() {
    let mut scene = Scene::start().await;
    scene.sale.create("coffee", 10).await;
    scene.copy().await;
    scene.sale.create("nova", 5).await;
    let orders = scene.sell("nova", 0..3).await;
    scene.lose().await;
    scene.inject(RedisFault::Restart).await;
    let reason = scene.until_it_waits().await;
    assert!(reason.contains("nova") && reason.contains("DATABASE_URL"), "{reason}");
    for _ in 0..2 {
        let doctor = scene.sale.command().arg("doctor").output().unwrap();
        let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
        let fence = text.lines().find(|line| line.contains("fence")).unwrap();
        assert!(fence.contains(ORDERED) && fence.contains("nova") && !fence.contains("by itself"), "{fence}");
        let again = scene.sale.get("/readyz").await.body["detail"].clone();
        assert_eq!(again, reason.as_str());
    }
    let log = scene.sale.log();
    let changes = log.lines().filter(|line| line.contains("fence down")).count();
    assert!((1..=3).contains(&changes), "a line for each change of state: {log}");
    let report = scene.rebuild().await;
    assert_eq!(report["adopted"], json!(["nova"]), "{report:#}");
    scene.sale.assert_in_agreement("nova").await;
    scene.sale.assert_recorded(&orders);
    scene.sell("nova", 3..5).await;
}

#[tokio::test]
async fn an_unknown_coupon_with_an_unreadable_hash_is_adopted_paused() {
    let mut scene = Scene::start().await;
    scene.sale.create("coffee", 10).await;
    scene.sale.until_quiet().await;
    scene.sale.kill_9();
    scene.redis(&["HSET", "seckill:{0}:coupon:junk", "total", "many"]);
    scene.redis(&["SET", "seckill:{0}:coupon:text", "x"]);
    scene.until_it_waits().await;
    let report = scene.rebuild().await;
    assert_eq!(report["adopted"], json!(["junk", "text"]), "{report:#}");
    for coupon in ["junk", "text"] {
        assert_eq!(edit_of(&report, coupon)["outcome"], "paused", "{report:#}");
        assert_eq!(scene.sale.claim(coupon, "late").await.code(), "paused");
        scene.sale.assert_in_agreement(coupon).await;
    }
    scene.sell("coffee", 0..1).await;
}

#[tokio::test]
async fn a_definition_restored_by_hand_is_noticed_by_the_next_start_and_by_the_next_edit() {
    let mut scene = Scene::start().await;
    scene.sale.create("coffee", 10).await;
    scene.edit("coffee", json!({"total": 20})).await;
    scene.sale.until_quiet().await;
    let put_back =
        "update seckill.coupons set total = 10, stock = stock - 10, version = 1, published_version = 1";
    scene.psql(put_back);
    scene.sale.kill_9();
    scene.until_it_waits().await;
    assert_eq!(edit_of(&scene.rebuild().await, "coffee")["outcome"], "adopted");
    assert_eq!(scene.definition("coffee"), "20|f|coffee");

    scene.psql(put_back);
    // The edit makes a version that Redis already has, with other fields.
    let edit = Some(json!({"title": "Espresso"}));
    let edited = scene.sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", edit).await;
    edited.assert_problem(503, "unavailable");
    let report = scene.rebuild().await;
    let edit = edit_of(&report, "coffee");
    assert_eq!(edit["outcome"], "paused", "{report:#}");
    assert_eq!(scene.definition("coffee"), "10|t|Espresso");
    assert_eq!(scene.sale.claim("coffee", "late").await.code(), "paused");
    scene.sale.assert_in_agreement("coffee").await;
}

/// Replaces Postgres by an older copy in which two orders are live that were cancelled later. Returns these orders, and
/// the order of the first user's next claim.
async fn two_orders_that_ended_in_lost_commits() -> (Scene, Vec<String>, String) {
    let mut scene = Scene::start().await;
    scene.sale.create("coffee", 10).await;
    let ended = scene.sell("coffee", 0..2).await;
    scene.copy().await;
    for order in &ended {
        scene.sale.cancel_order(order);
    }
    scene.sale.until_quiet().await;
    let next = scene.sell("coffee", 0..1).await.remove(0);
    scene.lose().await;
    (scene, ended, next)
}

#[tokio::test]
async fn a_redis_that_may_be_older_than_postgres_cancels_no_order_and_lists_it() {
    let (mut scene, ended, next) = two_orders_that_ended_in_lost_commits().await;
    scene.inject(RedisFault::Restart).await;
    scene.until_it_waits().await;
    let report = scene.rebuild().await;
    assert_eq!(
        (&report["cancelled"], &report["unheld"]),
        (&json!([ended[0]]), &json!([ended[1]])),
        "{report:#}"
    );
    scene.sale.assert_in_agreement("coffee").await;
    scene.sale.assert_recorded(&[next.clone(), ended[1].clone()]);
}

#[tokio::test]
async fn a_newer_event_ends_an_order_that_is_live_in_an_older_copy_without_a_claims_hash() {
    let (mut scene, ended, next) = two_orders_that_ended_in_lost_commits().await;
    // Adds the event of the new claim again, as if no worker had acknowledged it.
    let event = ["order", &next, "coupon", "coffee", "user", "user-0"];
    scene.redis(&[&["XADD", "seckill:{0}:orders", "*"][..], &event].concat());
    scene.redis(&["DEL", "seckill:{0}:claims:coffee"]);
    scene.until_it_waits().await;
    let report = scene.rebuild().await;
    assert_eq!((&report["cancelled"], &report["rejected"]), (&json!([ended[0]]), &json!(0)), "{report:#}");
    scene.sale.assert_in_agreement("coffee").await;
    scene.sale.assert_recorded(&[next.clone(), ended[1].clone()]);
}

#[tokio::test]
async fn more_claims_than_units_raise_the_total_and_pause_the_coupon() {
    let mut scene = Scene::start().await;
    scene.sale.create("coffee", 1).await;
    let first = scene.sell("coffee", 0..1).await;
    scene.copy().await;
    // Only Redis keeps this coupon, which shows the loss.
    scene.sale.create("tea", 1).await;
    scene.lose().await;
    // Adds a claim that was made under a total that both stores have lost: a rebuild that died may leave this state.
    let order = OrderId::mint().to_string();
    scene.redis(&["HSET", "seckill:{0}:claims:coffee", "user-1", &order]);
    scene.redis(&["HINCRBY", "seckill:{0}:coupon:coffee", "stock", "-1"]);
    scene.until_it_waits().await;
    let report = scene.rebuild().await;
    let edit = edit_of(&report, "coffee");
    assert_eq!((&edit["outcome"], &edit["to_version"]), (&json!("paused"), &json!(2)), "{report:#}");
    assert_eq!(scene.sale.psql("select total, paused from coupons where id = 'coffee'"), "2|t");
    scene.sale.assert_in_agreement("coffee").await;
    scene.sale.assert_recorded(&[first[0].clone(), order]);
}
