//! `coupon`: its requests, and its output.

use serde_json::{Value, json};

use crate::harness::{COFFEE, FakeServer};

#[tokio::test(flavor = "multi_thread")]
async fn create_sends_the_given_fields_only() {
    let server = FakeServer::start(vec![(201, COFFEE), (200, COFFEE)]).await;
    let run = server.run("coupon create coffee --total 100");
    assert_eq!((run.status, run.stdout.as_str()), (0, "coffee created: open, 99/100 left\n"), "{run:?}");
    let run = server.run(
        "coupon create coffee --total 100 --title Coffee --starts-at 2026-11-11T20:00:00+01:00 \
         --ends-at 2026-11-11T22:00:00Z --per-user-limit 2 --reserve-for 1h30m --durability postgres --waitlist \
         --unlisted",
    );
    assert_eq!(run.stdout, "coffee existed already and is the same: open, 99/100 left\n", "{run:?}");

    let requests = server.requests();
    assert_eq!(requests[0].line, "POST /v1/admin/coupons");
    assert_eq!(requests[0].headers["authorization"], "Bearer let-me-in");
    assert_eq!(requests[0].json(), json!({"id": "coffee", "total": 100}));
    assert_eq!(
        requests[1].json(),
        json!({
            "id": "coffee", "total": 100, "title": "Coffee", "starts_at": "2026-11-11T20:00:00+01:00",
            "ends_at": "2026-11-11T22:00:00Z", "per_user_limit": 2, "reserve_seconds": 5400,
            "durability": "postgres", "waitlist": true, "unlisted": true
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn list_reads_every_page_and_aligns_the_columns() {
    let first = r#"{"items":[{"id":"tea","title":"Tea\u001b[31m","total":7,"stock":7,"state":"scheduled","starts_at":"2026-11-11T20:00:00Z","ends_at":null}],"next":"te/a"}"#;
    let second: &str = Box::leak(format!(r#"{{"items":[{COFFEE}],"next":null}}"#).into_boxed_str());
    let server = FakeServer::start(vec![(200, first), (200, second), (200, first), (200, second)]).await;
    let run = server.run("coupon list");
    let expected = "\
COUPON  STATE      STOCK   WINDOW                      TITLE
tea     scheduled  7/7     from 2026-11-11T20:00:00Z   Tea [31m
coffee  open       99/100  until 2026-11-11T20:00:00Z  Coffee
";
    assert_eq!(run.stdout, expected, "{run:?}");
    let run = server.run("coupon list --json");
    let document: Value = serde_json::from_str(run.stdout.trim_end()).unwrap();
    assert_eq!(run.stdout.lines().count(), 1);
    assert_eq!(document["items"][1]["id"], "coffee");
    assert_eq!(document["next"], Value::Null);
    let lines: Vec<_> = server.requests().into_iter().map(|request| request.line).collect();
    assert_eq!(
        lines[..2],
        ["GET /v1/admin/coupons?limit=200", "GET /v1/admin/coupons?limit=200&after=te%2Fa"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_repeats_itself_ends_in_an_error() {
    let page = r#"{"items":[],"next":"a"}"#;
    let server = FakeServer::start(vec![(200, page), (200, page)]).await;
    server.run("coupon list").refused_with("repeats the page");
}

#[tokio::test(flavor = "multi_thread")]
async fn show_prints_every_field_or_the_servers_own_document() {
    let server = FakeServer::start(vec![(200, COFFEE), (200, COFFEE)]).await;
    let run = server.run("coupon show coffee");
    assert!(
        run.stdout.contains("\nstock      99\n") && run.stdout.contains("\nunlisted   true\n"),
        "{run:?}"
    );
    assert_eq!(server.run("coupon show coffee --json").stdout, format!("{COFFEE}\n"));
    assert_eq!(server.requests()[0].line, "GET /v1/admin/coupons/coffee");
}

#[tokio::test(flavor = "multi_thread")]
async fn waitlist_prints_the_line_in_order() {
    let first = r#"{"items":[{"place":1,"user":"bob","order":"0199","joined_at":"2026-11-11T20:00:00.5Z"}],"next":"1"}"#;
    let second = r#"{"items":[{"place":2,"user":"carol","order":null,"joined_at":null}],"next":null}"#;
    let server =
        FakeServer::start(vec![(200, first), (200, second), (200, r#"{"items":[],"next":null}"#)]).await;
    let run = server.run("coupon waitlist coffee");
    let expected = "\
PLACE  USER   ORDER  JOINED
1      bob    0199   2026-11-11T20:00:00.5Z
2      carol  -      -
";
    assert_eq!(run.stdout, expected, "{run:?}");
    assert_eq!(server.run("coupon waitlist coffee").stdout, "no user waits for coupon coffee\n");
    let lines: Vec<_> = server.requests().into_iter().map(|request| request.line).collect();
    let path = "GET /v1/admin/coupons/coffee/waitlist?limit=200";
    assert_eq!(lines, [path.to_owned(), format!("{path}&after=1"), path.to_owned()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_are_merge_patches() {
    let server = FakeServer::start(vec![(200, COFFEE); 3]).await;
    server.run("coupon edit coffee --total 200 --starts-at none --ends-at 2026-11-11T22:00:00Z");
    server.run("coupon pause coffee");
    let run = server.run("coupon resume coffee");
    assert_eq!(run.stdout, "coffee resumed: open, 99/100 left\n", "{run:?}");
    let requests = server.requests();
    assert_eq!(requests[0].line, "PATCH /v1/admin/coupons/coffee");
    assert_eq!(requests[0].headers["content-type"], "application/merge-patch+json");
    assert_eq!(
        requests[0].json(),
        json!({"total": 200, "starts_at": null, "ends_at": "2026-11-11T22:00:00Z"})
    );
    assert_eq!([requests[1].json(), requests[2].json()], [json!({"paused": true}), json!({"paused": false})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_shows_who_changed_what_and_when() {
    let page = r#"{"items":[
        {"id":3,"at":"2026-11-11T20:00:00.5Z","actor":"admin","action":"edit","coupon":"coffee","order":null,"request_id":"r3","old":{"total":5,"ends_at":null},"new":{"total":9,"ends_at":"2026-11-12T20:00:00Z"}},
        {"id":2,"at":"2026-11-11T19:00:00Z","actor":"system","action":"pause","coupon":"coffee","order":null,"request_id":null,"old":{"paused":false},"new":{"paused":true}},
        {"id":1,"at":"2026-11-11T18:00:00Z","actor":"admin","action":"create","coupon":"coffee","order":null,"request_id":"r1","old":null,"new":{"title":"C\u001b[31m","total":5,"ends_at":null}}
    ],"next":null}"#;
    let server =
        FakeServer::start(vec![(200, page), (200, page), (200, r#"{"items":[],"next":null}"#)]).await;
    let expected = "\
AT                    WHO     ACTION  CHANGES
2026-11-11T20:00:00Z  admin   edit    total: 5 -> 9
                                      ends_at: none -> 2026-11-12T20:00:00Z
2026-11-11T19:00:00Z  system  pause   paused: false -> true
2026-11-11T18:00:00Z  admin   create  title: C [31m
                                      total: 5
";
    let run = server.run("coupon log coffee");
    assert_eq!(run.stdout, expected, "{run:?}");
    let run = server.run("coupon log coffee --json");
    let document: Value = serde_json::from_str(run.stdout.trim_end()).unwrap();
    assert_eq!(document["items"][0]["request_id"], "r3");
    let run = server.run("coupon log tea");
    assert_eq!(run.stdout, "no admin has changed coupon tea yet\n", "{run:?}");
    assert_eq!(server.requests()[0].line, "GET /v1/admin/audit?coupon=coffee&limit=200");
}
