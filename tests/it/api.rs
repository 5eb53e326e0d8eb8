//! The contract of each route, beside the happy path: what is refused, how, and that nothing came of it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Sale, until};

/// Every error is problem+json with the same members.
fn assert_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code()), (status, code), "{}", answer.text);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.body["type"], format!("urn:seckill:problem:{code}"));
    assert_eq!(answer.body["status"], status);
    assert_eq!(answer.body["request_id"], answer.header("x-request-id"));
    assert!(!answer.body["title"].as_str().unwrap().is_empty());
    assert!(!answer.body["detail"].as_str().unwrap().is_empty());
    assert_eq!(answer.header("cache-control"), "no-store");
    match status {
        401 => assert_eq!(answer.header("www-authenticate"), "Bearer"),
        405 => assert!(!answer.header("allow").is_empty()),
        503 => assert!(!answer.header("retry-after").is_empty()),
        _ => {}
    }
}

async fn create_with(sale: &Sale, body: Value) -> Answer {
    sale.admin(Method::POST, "/v1/admin/coupons", Some(body)).await
}

async fn patch(sale: &Sale, coupon: &str, body: Value) -> Answer {
    sale.admin(Method::PATCH, &format!("/v1/admin/coupons/{coupon}"), Some(body)).await
}

#[tokio::test]
async fn orders_are_seen_by_their_owner_and_the_admin_and_page_newest_first() {
    let sale = Sale::start().await;
    for n in 0..25 {
        sale.create(&format!("c{n:02}"), 5).await;
        assert_eq!(sale.claim(&format!("c{n:02}"), "alice").await.status, 202);
    }
    let bobs = sale.claim("c00", "bob").await;
    sale.until_quiet().await;
    let token = sale.token("alice");
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = sale.get_as(&token, &format!("/v1/orders?limit=10{after}")).await;
        assert_eq!(page.status, 200, "{}", page.text);
        seen.extend(
            page.body["items"].as_array().unwrap().iter().map(|o| o["order"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page.body["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    let newest_first = sale.psql("select id from orders where user_id = 'alice' order by id desc");
    assert_eq!(seen, newest_first.lines().collect::<Vec<_>>());

    let path = bobs.header("location").to_owned();
    assert_problem(&sale.get_as(&token, &path).await, 404, "not-found");
    assert_eq!(sale.get_as(&sale.token("bob"), &path).await.body["user"], "bob");
    assert_eq!(sale.admin(Method::GET, &path, None).await.body["user"], "bob");
    let unknown = "/v1/coupons/c00/claims/01a20dfc-6229-756f-bc31-2593204e67ef";
    assert_problem(&sale.get_as(&token, unknown).await, 404, "not-found");
    let held = sale.get_as(&sale.token("bob"), "/v1/coupons/c00/claims").await;
    assert_eq!(held.body["items"][0]["order"], bobs.body["order"]);
    assert_eq!(sale.get_as(&sale.token("carol"), "/v1/coupons/c00/claims").await.body, json!({"items": []}));
    assert_problem(&sale.get_as(&token, "/v1/coupons/no-such/claims").await, 404, "unknown-coupon");

    let filtered =
        sale.admin(Method::GET, "/v1/admin/orders?coupon=c00&status=confirmed&user=bob", None).await;
    assert_eq!(filtered.body["items"].as_array().unwrap().len(), 1);
    let none = sale.admin(Method::GET, "/v1/admin/orders?status=rejected", None).await;
    assert_eq!(none.body, json!({"items": [], "next": null}));
    assert_problem(&sale.admin(Method::GET, "/v1/admin/orders?status=x", None).await, 400, "bad-request");
}

#[tokio::test]
async fn coupons_are_defined_edited_and_listed_as_documented() {
    let sale = Sale::start().await;
    let body = json!({"id": "tea", "total": 10, "title": "Tee ☕", "ends_at": "2999-01-01T01:00:00+01:00"});
    let made = create_with(&sale, body.clone()).await;
    assert_eq!((made.status, made.header("etag"), made.header("cache-control")), (201, "\"v1\"", "no-store"));
    assert_eq!(made.body["ends_at"], "2999-01-01T00:00:00Z");
    assert_eq!(create_with(&sale, body).await.status, 200);
    assert_problem(&create_with(&sale, json!({"id": "tea", "total": 11})).await, 409, "coupon-exists");
    for bad in [
        json!({"id": "x", "total": 0}),
        json!({"id": "x", "total": 1_000_000_001}),
        json!({"id": "x", "total": 1.5}),
        json!({"id": "x", "total": "1"}),
        json!({"id": "x"}),
        json!({"total": 1}),
        json!({"id": "x y", "total": 1}),
        json!({"id": "x", "total": 1, "colour": "red"}),
        json!({"id": "x", "total": 1, "title": "t".repeat(201)}),
        json!({"id": "x", "total": 1, "title": "a\u{0}b"}),
        json!({"id": "x", "total": 1, "starts_at": "tomorrow"}),
        json!({"id": "x", "total": 1, "starts_at": "2030-01-02T00:00:00Z", "ends_at": "2030-01-01T00:00:00Z"}),
        json!({"id": "x", "total": 1, "reserve_seconds": 0}),
        json!({"id": "x", "total": 1, "reserve_seconds": 2_592_001}),
        json!({"id": "x", "total": 1, "per_user_limit": 0}),
        json!({"id": "x", "total": 1, "per_user_limit": 17}),
        json!({"id": "x", "total": 1, "per_user_limit": 2}),
    ] {
        assert_problem(&create_with(&sale, bad).await, 400, "bad-request");
    }
    assert_eq!(create_with(&sale, json!({"id": "hidden", "total": 1, "unlisted": true})).await.status, 201);
    assert_eq!(
        create_with(&sale, json!({"id": "held", "total": 3, "reserve_seconds": 900})).await.status,
        201
    );

    let list = sale.get("/v1/coupons?limit=1").await;
    assert_eq!((list.status, list.header("cache-control")), (200, "public, max-age=1"));
    assert_eq!((&list.body["items"][0]["id"], &list.body["next"]), (&json!("held"), &json!("held")));
    let rest = sale.get("/v1/coupons?after=held").await;
    assert_eq!((&rest.body["items"][0]["id"], &rest.body["next"]), (&json!("tea"), &Value::Null));
    assert_eq!(rest.body["items"][0]["title"], "Tee ☕");
    assert_eq!(
        sale.admin(Method::GET, "/v1/admin/coupons", None).await.body["items"].as_array().unwrap().len(),
        3
    );
    let shown = sale.get("/v1/coupons/tea").await;
    let tag = shown.header("etag").to_owned();
    let fresh = sale.send(Method::GET, "/v1/coupons/tea", &[("if-none-match", &tag)], None).await;
    assert_eq!((fresh.status, fresh.text.as_str()), (304, ""));
    assert_eq!(sale.send(Method::HEAD, "/v1/coupons/tea", &[], None).await.status, 200);
    assert_problem(&sale.get("/v1/coupons/none").await, 404, "unknown-coupon");

    let reserved = sale.claim_with("held", "alice", &[("prefer", "wait=10")]).await;
    assert_eq!((reserved.status, &reserved.body["status"]), (201, &json!("reserved")));

    // Merge patches: absent leaves, null clears, a repeat changes nothing.
    let edited = patch(&sale, "tea", json!({"title": null, "ends_at": null, "total": 20})).await;
    assert_eq!((edited.status, edited.header("etag")), (200, "\"v2\""), "{}", edited.text);
    assert_eq!(
        (&edited.body["title"], &edited.body["ends_at"], &edited.body["stock"]),
        (&json!("tea"), &Value::Null, &json!(20))
    );
    assert_eq!(patch(&sale, "tea", json!({"total": 20})).await.header("etag"), "\"v2\"");
    for bad in
        [json!({"total": null}), json!({"total": 0}), json!({"id": "x"}), json!({"paused": "yes"}), json!([])]
    {
        assert_problem(&patch(&sale, "tea", bad).await, 400, "bad-request");
    }
    assert_problem(&patch(&sale, "none", json!({"total": 1})).await, 404, "unknown-coupon");
    let authorization = format!("Bearer {}", sale.admin_token());
    let conditional = async |tag: &str, total: i64| {
        let headers = [("authorization", authorization.as_str()), ("if-match", tag)];
        sale.send(Method::PATCH, "/v1/admin/coupons/tea", &headers, Some(json!({"total": total}))).await
    };
    assert_problem(&conditional("\"v1\"", 30).await, 412, "precondition-failed");
    assert_eq!(conditional("\"v2\"", 30).await.status, 200);
    assert_eq!(conditional("*", 2).await.status, 200);

    for user in ["a", "b"] {
        assert_eq!(sale.claim("tea", user).await.status, 202);
    }
    assert_problem(&sale.claim("tea", "c").await, 409, "sold-out");
    assert_problem(&patch(&sale, "tea", json!({"total": 1})).await, 409, "total-too-low");
    assert_eq!(patch(&sale, "tea", json!({"total": 3})).await.status, 200);
    assert_eq!(sale.claim("tea", "c").await.status, 202);
    sale.assert_in_agreement("tea").await;
}

#[tokio::test]
async fn edits_and_creations_at_once_leave_the_fence_up() {
    let sale = Sale::start().await;
    let epoch = sale.epoch();
    let answers = futures_util::future::join_all(
        (0..20).map(|_| create_with(&sale, json!({"id": "tea", "total": 10}))),
    )
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 19);
    let edits = (11..31).map(|total| patch(&sale, "tea", json!({"total": total})));
    let edits = futures_util::future::join_all(edits).await;
    assert!(edits.iter().all(|answer| [200, 503].contains(&answer.status)));
    assert!(edits.iter().any(|answer| answer.status == 200));
    sale.assert_in_agreement("tea").await;
    assert_eq!(sale.psql("select version = published_version from coupons"), "t");
    assert_eq!(sale.epoch(), epoch);
}

#[tokio::test]
async fn a_flood_of_unknown_coupons_never_reaches_postgres() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    let transactions =
        "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
    let statistics_are_fresh = "select pg_stat_force_next_flush()";
    sale.psql(statistics_are_fresh);
    let before = sale.psql_number(transactions);
    for n in 0..1_000 {
        assert_eq!(sale.claim(&format!("no-such-{n}"), "alice").await.status, 404);
        assert_eq!(sale.get(&format!("/v1/coupons/nor-this-{n}")).await.status, 404);
    }
    let asked = sale.psql_number(transactions) - before;
    assert!(asked < 400, "{asked} transactions for 2000 unknown coupons");
}

#[tokio::test]
async fn a_stopping_server_answers_what_it_accepted_and_leaves_no_process() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 1_000).await;
    let (redis, postgres) = (sale.redis_pid(), sale.postgres_pids()[0]);
    let pid = sale.server().pid();
    let answers = futures_util::future::join_all((0..200).map(|n| {
        let sale = &sale;
        async move {
            if n == 100 {
                crate::harness::signal(pid, nix::sys::signal::Signal::SIGTERM);
            }
            sale.claim("coffee", &format!("user-{n}")).await
        }
    }))
    .await;
    assert!(sale.stop().success());
    for store in [redis, postgres] {
        until("the store has ended", async || {
            (!std::path::Path::new(&format!("/proc/{store}")).exists()).then_some(())
        })
        .await;
    }
    sale.start_server().await;
    sale.assert_in_agreement("coffee").await;
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(sale.psql_number("select count(*) from orders"), i64::try_from(accepted).unwrap());
}
