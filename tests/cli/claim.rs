//! `claim`: its requests, and its output for accepted, repeated and refused claims.

use serde_json::json;

use crate::harness::{FakeServer, SOLD_OUT};

const ORDER: &str =
    r#"{"order":"0199","coupon":"coffee","user":"alice","status":"accepted","stock":99,"recorded_at":null}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_prints_its_result() {
    let server = FakeServer::start(vec![(202, ORDER), (200, ORDER), (202, ORDER)]).await;
    let run = server.run("claim coffee --user alice");
    assert_eq!(run.stdout, "alice has a unit of coffee: order 0199 is accepted, 99 left\n", "{run:?}");
    let run = server.run("claim coffee --user alice --wait 5s --key k-1");
    assert_eq!(run.stdout, "alice has a unit of coffee already: order 0199 is accepted, 99 left\n");
    assert_eq!(server.run("claim coffee --user alice --json").stdout, format!("{ORDER}\n"));

    let requests = server.requests();
    assert_eq!(requests[0].line, "POST /v1/admin/coupons/coffee/claims");
    assert_eq!(requests[0].json(), json!({"user": "alice"}));
    assert!(
        !requests[0].headers.contains_key("prefer") && !requests[0].headers.contains_key("idempotency-key")
    );
    assert_eq!(requests[1].headers["prefer"], "wait=5");
    assert_eq!(requests[1].headers["idempotency-key"], "k-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_one_line_and_exit_status_1() {
    let not_started = r#"{"status":409,"title":"Not started","code":"not-started","starts_at":"2026-11-11T20:00:00Z","detail":"not yet\non sale"}"#;
    let server = FakeServer::start(vec![
        (409, SOLD_OUT),
        (409, not_started),
        (503, r#"{"title":"Unavailable"}"#),
        (502, "<html>bad gateway</html>"),
        (200, "hello"),
    ])
    .await;
    let run = server.run("claim coffee --user alice").refused_with("seckill: ");
    assert_eq!(run.stderr, "seckill: every unit of coffee is taken [sold-out]\n");
    let run = server.run("claim coffee --user alice").refused_with("seckill: ");
    assert_eq!(run.stderr, "seckill: not yet on sale (starts_at 2026-11-11T20:00:00Z) [not-started]\n");
    server.run("claim coffee --user alice").refused_with("Unavailable [503]");
    server.run("coupon list").refused_with("502 Bad Gateway without JSON: check that SECKILL_URL");
    server.run("coupon list").refused_with("200 OK without JSON");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_with_json_prints_the_problem_on_stdout() {
    let server = FakeServer::start(vec![(409, SOLD_OUT)]).await;
    let run = server.run("claim coffee --user alice --json");
    assert_eq!((run.status, run.stdout), (1, format!("{SOLD_OUT}\n")));
    assert_eq!(run.stderr.lines().count(), 1);
}
