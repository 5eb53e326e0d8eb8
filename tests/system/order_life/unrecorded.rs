//! Requests about orders that are not recorded yet, and about unknown ids. The program reads from the stream whether an
//! order may still be recorded.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use support::{Sale, until};

use super::{ask, ask_as_admin, assert_order, create_reserving};

const NO_WORKERS: (&str, &str) = ("SECKILL_WORKERS", "0");
/// The number of requests of one user that may wait for a recording at once.
const WAITS_OF_A_USER: usize = 4;

/// Claims a coffee without waiting for its recording; returns the order's id.
async fn accepted_order(sale: &Sale, user: &str) -> String {
    let answer = sale.claim("coffee", user).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    answer.body["order"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_confirm_that_is_answered_not_recorded_yet_is_not_done_later() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    create_reserving(&sale, 5).await;
    let order = accepted_order(&sale, "alice").await;
    for transition in ["confirm", "cancel"] {
        let late = ask(&sale, "alice", &order, transition).await;
        late.assert_problem(503, "not-recorded-yet");
        assert_eq!(late.body["order"], order.as_str());
    }
    let late = sale.get_as(&sale.token("alice"), &format!("/v1/orders/{order}")).await;
    late.assert_problem(503, "not-recorded-yet");
    assert_eq!(sale.psql("select count(*) from orders"), "0");

    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    sale.until_quiet().await;
    assert_eq!(sale.psql("select status from orders"), "reserved", "a refused confirm is not done later");
    assert_order(&ask(&sale, "alice", &order, "confirm").await, &order, "confirmed");
}

#[tokio::test]
async fn a_user_waits_for_four_unrecorded_orders_and_the_admin_for_any_number() {
    let sale = Sale::start().await;
    create_reserving(&sale, 20).await;
    let order = accepted_order(&sale, "warm-up").await;
    sale.until_quiet().await;
    assert_order(&ask_as_admin(&sale, &order, "confirm").await, &order, "confirmed");

    // The worker has inserted the order and waits for the coupon before it commits.
    let lock = sale.lock_coupon("coffee").await;
    let order = accepted_order(&sale, "alice").await;
    sale.until_a_worker_waits().await;
    let asked: FuturesUnordered<_> =
        (0..2 * WAITS_OF_A_USER).map(|_| ask(&sale, "alice", &order, "confirm")).collect();
    let by_admin: FuturesUnordered<_> =
        (0..2 * WAITS_OF_A_USER).map(|_| ask_as_admin(&sale, &order, "confirm")).collect();
    let mut answers = futures_util::stream::select(asked, by_admin);
    for _ in 0..WAITS_OF_A_USER {
        answers.next().await.unwrap().assert_problem(503, "not-recorded-yet");
    }
    lock.release();
    for answer in answers.collect::<Vec<_>>().await {
        assert_order(&answer, &order, "confirmed");
    }
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn an_unknown_id_is_not_found_once_every_event_is_recorded() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    create_reserving(&sale, 5).await;
    // Ids with a time in the past, now and in the future by this machine's clock, and a UUID of another version.
    let no_order = |ms: u64| uuid::Builder::from_unix_timestamp_millis(ms, &[7; 10]).into_uuid().to_string();
    let ids = [no_order(1_000), Uuid::now_v7().to_string(), no_order(1 << 44), Uuid::new_v4().to_string()];
    let find = async |id: &str| sale.get_as(&sale.token("alice"), &format!("/v1/orders/{id}")).await;
    for id in &ids {
        find(id).await.assert_problem(404, "not-found");
        ask(&sale, "alice", id, "confirm").await.assert_problem(404, "not-found");
    }
    // Now one event is not recorded. It could belong to each id, but not to the UUID of another version.
    let order = accepted_order(&sale, "alice").await;
    for (id, (status, code)) in
        ids.iter().zip([(503, "not-recorded-yet"); 3].into_iter().chain([(404, "not-found")]))
    {
        find(id).await.assert_problem(status, code);
    }
    let worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    sale.until_quiet().await;
    for id in &ids {
        find(id).await.assert_problem(404, "not-found");
        ask(&sale, "alice", id, "cancel").await.assert_problem(404, "not-found");
    }
    assert_order(&find(&order).await, &order, "reserved");

    // An unrecorded event does not delay the answer about an order that is recorded already.
    worker.stop();
    accepted_order(&sale, "bob").await;
    assert_order(&find(&order).await, &order, "reserved");
}

#[tokio::test]
async fn an_order_whose_event_was_trimmed_is_not_unknown() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    create_reserving(&sale, 5).await;
    for round in 0..5 {
        let order = accepted_order(&sale, &format!("user-{round}")).await;
        sale.redis_cli_without_program(&["XTRIM", "seckill:{0}:orders", "MAXLEN", "0"]);
        let confirm = ask_as_admin(&sale, &order, "confirm").await;
        confirm.assert_problem(503, "not-recorded-yet");
    }
    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    sale.until_quiet().await;
    assert_eq!(sale.psql("select status, count(*) from orders group by status"), "reserved|5");
}

#[tokio::test]
async fn an_unknown_id_is_not_found_when_every_event_is_recorded_during_its_wait() {
    let sale = Sale::start().await;
    create_reserving(&sale, 5).await;
    let lock = sale.lock_coupon("coffee").await;
    accepted_order(&sale, "alice").await;
    sale.until_a_worker_waits().await;
    let id = Uuid::now_v7().to_string();
    let asked = ask(&sale, "alice", &id, "confirm");
    let release = async { lock.release() };
    let (answer, ()) = tokio::join!(asked, release);
    answer.assert_problem(404, "not-found");
}

#[tokio::test]
async fn the_order_of_a_place_in_line_is_not_taken_for_a_lost_one_after_a_flush() {
    let sale = Sale::start().await;
    sale.create_with("tea", json!({"total": 1, "waitlist": true})).await;
    assert_eq!(sale.claim("tea", "alice").await.status, 202);
    let token = sale.token("bob");
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", authorization.as_str())];
    let place = sale.send(Method::POST, "/v1/coupons/tea/waitlist", &headers, None).await;
    assert_eq!(place.status, 201, "{}", place.text);
    let waiting = place.body["order"].as_str().unwrap();
    let old = uuid::Builder::from_unix_timestamp_millis(1_000, &[7; 10]).into_uuid();
    let find = async |id: &str| sale.get_as(&token, &format!("/v1/orders/{id}")).await;
    sale.until_quiet().await;
    find(&old.to_string()).await.assert_problem(404, "not-found");
    sale.redis_cli(&["FLUSHALL"]);
    until("an id that was never told counts as lost", async || {
        (find(&old.to_string()).await.code() == "order-lost").then_some(())
    })
    .await;
    find(waiting).await.assert_problem(404, "not-found");
}
