//! Which of several processes makes the periodic comparisons, and what needs no such process.

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use crate::counterexamples::on_own_stores;
use support::events::EventReader;
use support::external_store::{ExternalStore, folder};
use support::{Process, Sale, until};

const LOG: (&str, &str) = ("SECKILL_LOG", "seckill::reconcile=debug,info");
const KINDS: [&str; 3] = ["definitions", "sums", "everything"];
const ORDERS: &str = "seckill:{0}:orders";

/// A server that logs its comparisons, on the stores of the sale.
async fn serve(sale: &Sale) -> Process {
    let process = sale.spawn("serve", &[LOG]);
    process.url_when_up().await;
    process
}

fn compared(process: &Process, kind: &str) -> usize {
    process.log().matches(&format!("compared {kind}")).count()
}

#[tokio::test]
async fn one_process_makes_the_comparisons_and_another_takes_over_when_it_dies() {
    let (redis, postgres) = (ExternalStore::redis(&[], folder()), ExternalStore::postgres(&[]).await);
    let mut sale = on_own_stores(&redis.url("redis"), &postgres).await;
    sale.create("coffee", 10).await;
    // Only the two processes below are left.
    assert!(sale.stop().success());
    let first = serve(&sale).await;
    for kind in KINDS {
        first.until_logged(&format!("compared {kind}")).await;
    }
    let second = serve(&sale).await;
    for kind in KINDS {
        second.until_logged(&format!("another process compares {kind}")).await;
    }
    let before = compared(&first, "definitions");
    until("the first process compares again, and the second asks again", async || {
        let asked = second.log().matches("another process compares definitions").count();
        (compared(&first, "definitions") > before && asked > 1).then_some(())
    })
    .await;
    assert_eq!(KINDS.map(|kind| compared(&second, kind)), [0, 0, 0], "{}", second.log());

    // The process that has not compared shows the result too.
    sale.use_as_server(second).await;
    let token = format!("Bearer {}", sale.admin_token());
    let mut events = EventReader::open(&sale, "/v1/admin/events", &[("authorization", &token)]).await;
    let shown = events.until_named("status").await.pop().unwrap().data;
    assert!(shown["drift"]["compared_at"].is_string(), "{shown}");
    assert_eq!(shown["drift"]["total"], 0.0, "{shown}");
    sale.psql("update comparisons set differences[1] = 3");
    let shown = events.until("three differences", |event| event.data["drift"]["total"] == 3.0).await;
    assert_eq!(shown[shown.len() - 1].data["drift"]["kinds"]["lost_event"], 3.0, "{shown:?}");
    drop(events);

    // An order of the operator needs no turn.
    let answer = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({}))).await;
    assert_eq!((answer.status, &answer.body["coupons"]), (200, &json!(1)), "{}", answer.text);

    first.kill_9();
    until("the second process compares definitions", async || {
        sale.log().contains("compared definitions").then_some(())
    })
    .await;
}

#[tokio::test]
async fn missing_entries_are_requeued_by_a_process_that_does_not_have_the_turn() {
    let sale = Sale::start_with(&[LOG, ("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 10).await;
    until("the server has compared", async || sale.log().contains("compared everything").then_some(())).await;
    let other = sale.spawn_by_address("serve", &[], &[LOG, ("SECKILL_WORKERS", "0")]);
    other.until_logged("another process compares everything").await;
    let claim = sale.claim("coffee", "alice").await;
    assert_eq!(claim.status, 202, "{}", claim.text);
    // It keeps its locks, and cannot see the loss.
    sale.signal_server(Signal::SIGSTOP);
    sale.redis_cli(&["XTRIM", ORDERS, "MAXLEN", "0"]);
    other.until_logged("requeued 1 lost events").await;
    assert_eq!(compared(&other, "everything"), 0, "{}", other.log());
    sale.signal_server(Signal::SIGCONT);
    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&[claim.body["order"].as_str().unwrap().to_owned()]);
}
