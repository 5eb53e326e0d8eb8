//! A user who was told that the place is given up does not come back into the line, whatever fails beside it.

use support::proxy::TrapAction;
use support::{Sale, until};

use super::faults::{hold_before_the_place, sale_behind_proxies};
use super::{assert_place, buy, join, join_until_done, leave, place, revoke, unserved};

const REMOVES_ROWS: &str = "Removes the rows of a user who leaves";

/// Rebuilds Redis from nothing, and checks that bob does not wait.
async fn assert_bob_is_out(sale: &Sale, order: &str) {
    let epoch = sale.epoch();
    sale.redis_cli(&["FLUSHALL"]);
    until("a new epoch is in force", async || (sale.epoch() != epoch).then_some(())).await;
    let shown = until("the question is answered", async || {
        let shown = place(sale, "bob").await;
        (shown.status != 503).then_some(shown)
    })
    .await;
    shown.assert_problem(404, "not-waiting");
    assert_eq!(unserved(sale), "");
    revoke(sale, order).await;
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 1, "no user waits for the unit");
}

#[tokio::test]
async fn a_request_to_leave_that_lost_its_row_or_its_answer_is_done_by_its_repeat() {
    for act in [TrapAction::Cut, TrapAction::CutReply] {
        let (sale, _redis, postgres, _server) = sale_behind_proxies().await;
        let order = buy(&sale, "alice").await;
        assert_place(&join(&sale, "bob").await, 201, 1, 1);
        let trap = postgres.set_trap(act, &[REMOVES_ROWS]);
        leave(&sale, "bob").await.assert_problem(503, "unavailable");
        trap.until_done().await;
        until("bob has left", async || (leave(&sale, "bob").await.status == 204).then_some(())).await;
        assert_bob_is_out(&sale, &order).await;
    }
}

#[tokio::test]
async fn a_user_whose_join_died_before_its_place_can_leave_at_once() {
    let (mut sale, redis, _postgres, server) = sale_behind_proxies().await;
    let order = buy(&sale, "alice").await;
    let trap = hold_before_the_place(&sale, &redis, "bob").await;
    server.kill_9();
    trap.discard();
    let second = sale.spawn_by_address("serve", &[], &[("SECKILL_WORKERS", "0")]);
    sale.url = second.url_when_up().await;
    assert_eq!(leave(&sale, "bob").await.status, 204);
    assert_bob_is_out(&sale, &order).await;
}

#[tokio::test]
async fn a_rebuild_in_the_middle_of_a_request_to_leave_does_not_bring_the_user_back() {
    let (sale, _redis, postgres, _server) = sale_behind_proxies().await;
    let order = buy(&sale, "alice").await;
    assert_place(&join(&sale, "bob").await, 201, 1, 1);
    let trap = postgres.hold(&[REMOVES_ROWS]);
    let rebuild = async {
        trap.until_taken().await;
        let epoch = sale.epoch();
        sale.redis_cli_without_program(&["FLUSHALL"]);
        until("a new epoch is in force", async || (sale.epoch() != epoch).then_some(())).await;
        until("the rebuild has restored the place", async || {
            (sale.redis_cli_without_program(&["ZCARD", super::LINE]) == "1").then_some(())
        })
        .await;
        trap.release();
    };
    let (left, ()) = tokio::join!(leave(&sale, "bob"), rebuild);
    assert!([204, 503].contains(&left.status), "{}", left.text);
    if left.status == 503 {
        until("bob has left", async || (leave(&sale, "bob").await.status == 204).then_some(())).await;
    }
    assert_bob_is_out(&sale, &order).await;
}

#[tokio::test]
async fn a_user_who_left_can_join_again_at_the_end() {
    let (sale, _redis, _postgres, _server) = sale_behind_proxies().await;
    buy(&sale, "alice").await;
    let first = join(&sale, "bob").await;
    assert_place(&join(&sale, "carol").await, 201, 2, 2);
    until("bob has left", async || (leave(&sale, "bob").await.status == 204).then_some(())).await;
    let again = join_until_done(&sale, "bob").await;
    assert_place(&again, 201, 2, 2);
    assert_ne!(again.body["order"], first.body["order"]);
}
