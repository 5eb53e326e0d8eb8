//! An older copy replaces Postgres. The line in Redis is adopted; a place that neither store has is gone, and its user is
//! told so.

use reqwest::Method;
use serde_json::json;

use crate::lost_commits::scene::{RedisFault, Scene};
use support::until;

use super::{WAITING, assert_place, join_until_done, place, revoke, sold_out_with_a_line, until_served};

#[tokio::test]
async fn a_line_that_an_older_copy_lacks_is_adopted_from_redis() {
    for fault in [RedisFault::None, RedisFault::Kill] {
        let mut scene = Scene::start().await;
        let (order, mut places) = sold_out_with_a_line(&scene.sale).await;
        scene.copy().await;
        for (user, number) in [("erin", 4), ("frank", 5)] {
            let answer = join_until_done(&scene.sale, user).await;
            assert_place(&answer, 201, number, number);
            places.push(answer.body["order"].clone());
        }
        scene.lose().await;
        scene.inject(fault).await;
        scene.until_it_waits().await;
        let refused = super::join(&scene.sale, "late").await;
        refused.assert_problem(503, "unavailable");
        scene.rebuild().await;
        let users = [&WAITING[..], &["erin", "frank"]].concat();
        for _ in 0..2 {
            for ((user, number), order) in users.iter().zip(1..).zip(&places) {
                let shown = place(&scene.sale, user).await;
                assert_place(&shown, 200, number, 5);
                assert_eq!(&shown.body["order"], order, "{fault:?}");
            }
            // The places have their rows again: a second time the line comes from Postgres.
            let epoch = scene.psql("select epoch from seckill.fence");
            scene.redis(&["FLUSHALL"]);
            until("a new epoch is in force", async || {
                (scene.psql("select epoch from seckill.fence") != epoch).then_some(())
            })
            .await;
            scene.sale.until_ready().await;
        }
        revoke(&scene.sale, &order).await;
        until_served(&scene.sale, "bob", &places[0]).await;
        scene.sale.assert_in_agreement("coffee").await;
    }
}

#[tokio::test]
async fn a_place_that_both_stores_have_lost_is_shown_as_lost_and_can_be_taken_again() {
    let mut scene = Scene::start().await;
    let (_, places) = sold_out_with_a_line(&scene.sale).await;
    scene.copy().await;
    assert_place(&join_until_done(&scene.sale, "erin").await, 201, 4, 4);
    scene.lose().await;
    scene.redis(&["FLUSHALL"]);
    scene.sale.start_server_unready().await;
    // Only an empty Redis is filled without the operator.
    until("claims are accepted, or wait for the operator", async || {
        let ready = scene.sale.get("/readyz").await;
        let waits = ready.body["detail"].as_str().unwrap_or_default().contains("reconcile --rebuild");
        (ready.status == 200 || waits).then_some(())
    })
    .await;
    if scene.sale.get("/readyz").await.status != 200 {
        let order = Some(json!({"rebuild": true}));
        let rebuilt = scene.sale.admin(Method::POST, "/v1/admin/reconcile", order).await;
        assert_eq!(rebuilt.status, 200, "{}", rebuilt.text);
        scene.sale.until_ready().await;
    }
    for ((user, number), order) in WAITING.into_iter().zip(1..).zip(&places) {
        let shown = place(&scene.sale, user).await;
        assert_place(&shown, 200, number, 3);
        assert_eq!(&shown.body["order"], order);
    }
    place(&scene.sale, "erin").await.assert_problem(404, "not-waiting");
    assert_place(&join_until_done(&scene.sale, "erin").await, 201, 4, 4);
}
