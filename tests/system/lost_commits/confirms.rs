//! Confirms and revocations that an older copy of Postgres lacks.

use seckill::domain::OrderId;
use serde_json::json;

use super::scene::{Scene, edit_of};

#[tokio::test]
async fn after_lost_commits_the_time_to_pay_of_reserved_orders_starts_again() {
    let mut scene = Scene::start().await;
    scene.sale.create_with("table", json!({"total": 2, "reserve_seconds": 900})).await;
    let mut orders = scene.sell("table", 0..1).await;
    scene.copy().await;
    let confirmed = "update seckill.orders set status = 'confirmed', confirmed_at = now()";
    scene.psql(confirmed);
    // Its order is recorded after the confirm: with the acknowledgement Redis learns of both commits.
    orders.extend(scene.sell("table", 1..2).await);
    scene.lose().await;
    scene.psql("update seckill.orders set reserved_until = now() - interval '1 hour'");
    scene.until_it_waits().await;
    let report = scene.rebuild().await;
    assert_eq!((&report["restarted"], &report["resent"]), (&json!(1), &json!(1)), "{report:#}");
    scene.sale.assert_recorded(&orders);
    let left =
        "select status, reserved_until > now() + interval '14 minutes' from seckill.orders order by id";
    assert_eq!(scene.psql(left), "reserved|t\nreserved|t");
    assert!(scene.sale.log().contains("the time to pay of 1 reserved orders starts again"));
    scene.sale.assert_in_agreement("table").await;
}

#[tokio::test]
async fn an_adopted_total_leaves_room_for_every_claim() {
    let mut scene = Scene::start().await;
    scene.sale.create("coffee", 2).await;
    let first = scene.sell("coffee", 0..1).await;
    scene.copy().await;
    // Redis has the state after a revocation withdrew the unit of the first order and before the unit is released: the
    // total is 1, and another user has claimed the other unit.
    let order = OrderId::mint().to_string();
    scene.lose().await;
    scene.redis(&["HSET", "seckill:{0}:coupon:coffee", "total", "1", "stock", "-1", "version", "2"]);
    scene.redis(&["HSET", "seckill:{0}:claims:coffee", "user-1", &order]);
    scene.until_it_waits().await;
    let report = scene.rebuild().await;
    let edit = edit_of(&report, "coffee");
    assert_eq!((&edit["outcome"], &edit["to_version"]), (&json!("paused"), &json!(3)), "{report:#}");
    assert_eq!(report["rejected"], 0, "{report:#}");
    assert_eq!(scene.definition("coffee"), "2|t|coffee");
    scene.sale.assert_in_agreement("coffee").await;
    scene.sale.assert_recorded(&[first[0].clone(), order]);
}
