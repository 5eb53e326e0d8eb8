//! The answers to claims for every state of a coupon and every kind of body, and the answers to reads of orders.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use support::{Answer, Sale, signal, until};

/// Creates a coupon with additional fields.
async fn create(sale: &Sale, id: &str, more: Value) {
    let mut fields = json!({"total": 5});
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    sale.create_with(id, fields).await;
}

async fn edit(sale: &Sale, id: &str, patch: Value) {
    let answer = sale.admin(Method::PATCH, &format!("/v1/admin/coupons/{id}"), Some(patch)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

fn order_of(answer: &Answer) -> &str {
    answer.body["order"].as_str().unwrap_or_else(|| panic!("no order: {}", answer.text))
}

#[tokio::test]
async fn a_claim_is_accepted_repeated_or_refused_by_its_coupons_state() {
    let sale = Sale::start().await;
    create(&sale, "coffee", json!({"total": 2})).await;
    let first = sale.claim("coffee", "alice").await;
    assert_eq!((first.status, first.header("cache-control")), (202, "no-store"), "{}", first.text);
    let fields: Vec<&str> = first.body.as_object().unwrap().keys().map(String::as_str).collect();
    let names = "order coupon user status claimed_at recorded_at reserved_until ended_at reason stock";
    assert_eq!(fields.join(" "), names);
    assert_eq!(
        (&first.body["coupon"], &first.body["user"], &first.body["status"], &first.body["recorded_at"]),
        (&json!("coffee"), &json!("alice"), &json!("accepted"), &Value::Null)
    );
    assert_eq!(first.header("location"), format!("/v1/coupons/coffee/claims/{}", order_of(&first)));

    let waited = sale.claim_with("coffee", "bob", &[("prefer", "respond-async, wait=5")]).await;
    assert_eq!((waited.status, &waited.body["status"]), (201, &json!("confirmed")), "{}", waited.text);
    assert!(waited.body["recorded_at"].is_string() && waited.body["stock"] == 0, "{}", waited.text);
    sale.claim("coffee", "carol").await.assert_problem(409, "sold-out");

    // A user who holds a unit gets the same order again, in every state of the coupon.
    let order = order_of(&first).to_owned();
    let assert_repeat = async |state: &str| {
        let again = sale.claim("coffee", "alice").await;
        assert_eq!((again.status, order_of(&again)), (200, order.as_str()), "{state}: {}", again.text);
        assert_eq!(again.header("location"), first.header("location"), "{state}");
        assert_eq!(again.body["claimed_at"], first.body["claimed_at"], "{state}");
    };
    assert_repeat("sold out").await;
    edit(&sale, "coffee", json!({"total": 5, "starts_at": "2999-01-01T00:00:00Z"})).await;
    assert_repeat("not started").await;
    let early = sale.claim("coffee", "carol").await;
    early.assert_problem(409, "not-started");
    assert_eq!(early.body["starts_at"], "2999-01-01T00:00:00Z");
    assert!(early.body["server_time"].as_str().unwrap() > "2026", "{}", early.text);
    // If there are several reasons, the answer has the first of: ended, paused, not started.
    edit(&sale, "coffee", json!({"paused": true})).await;
    sale.claim("coffee", "carol").await.assert_problem(409, "paused");
    assert_repeat("paused").await;
    let window = json!({"starts_at": "2000-01-01T00:00:00Z", "ends_at": "2001-01-01T00:00:00Z"});
    edit(&sale, "coffee", window).await;
    sale.claim("coffee", "carol").await.assert_problem(409, "ended");
    assert_repeat("ended").await;
    sale.claim("nothing", "carol").await.assert_problem(404, "unknown-coupon");
    edit(&sale, "coffee", json!({"ends_at": null, "paused": false})).await;
    assert_eq!(sale.claim("coffee", "carol").await.body["stock"], 2);
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_wait_ends_at_its_limit_and_an_unreadable_preference_is_ignored() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    create(&sale, "coffee", json!({"total": 100})).await;
    let garbage = ["wait", "wait=", "wait=x", "wait=-1", "wait=1.5", "waiting=3", "wait=x, wait=10"];
    for (n, garbage) in garbage.iter().enumerate() {
        let answer = sale.claim_with("coffee", &format!("user-{n}"), &[("prefer", garbage)]).await;
        assert_eq!(answer.status, 202, "{garbage}: {}", answer.text);
    }
    let waited = sale.claim_with("coffee", "alice", &[("prefer", "wait=1")]).await;
    assert_eq!((waited.status, &waited.body["status"]), (202, &json!("accepted")), "{}", waited.text);

    // No worker records the claims: both waits end at the largest wait, without an error.
    let authorization = format!("Bearer {}", sale.admin_token());
    let headers = [("authorization", authorization.as_str()), ("prefer", "wait=3600")];
    let path = "/v1/admin/coupons/coffee/claims";
    let since = std::time::Instant::now();
    let (own, on_behalf) = tokio::join!(
        sale.claim_with("coffee", "bob", &[("prefer", "wait=99999999999999999999")]),
        sale.send(Method::POST, path, &headers, Some(json!({"user": "carol"})))
    );
    assert_eq!((own.status, on_behalf.status), (202, 202), "{} {}", own.text, on_behalf.text);
    assert!(
        since.elapsed() >= std::time::Duration::from_secs(10),
        "a longer wait is shortened to the largest one"
    );

    let own = sale.get_as(&sale.token("alice"), waited.header("location")).await;
    assert_eq!((own.status, &own.body["status"]), (200, &json!("accepted")), "{}", own.text);
    let live = sale.get_as(&sale.token("alice"), "/v1/coupons/coffee/claims").await;
    assert_eq!(order_of(&Answer { body: live.body["items"][0].clone(), ..live }), order_of(&waited));
    // A worker that starts later records them all, and the wait of a repeat returns the recorded order.
    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    let repeat = sale.claim_with("coffee", "alice", &[("prefer", "wait=10")]).await;
    assert_eq!((repeat.status, &repeat.body["status"]), (200, &json!("confirmed")), "{}", repeat.text);
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_body_is_an_object_or_empty_and_a_refusal_names_its_fault() {
    let sale = Sale::start().await;
    create(&sale, "coffee", json!({"total": 100})).await;
    let authorization = format!("Bearer {}", sale.token("alice"));
    let post = async |content_type: &str, body: Vec<u8>| {
        let headers = [("authorization", authorization.as_str()), ("content-type", content_type)];
        let headers = &headers[..if content_type.is_empty() { 1 } else { 2 }];
        sale.send_bytes(Method::POST, "/v1/coupons/coffee/claims", headers, Some(body)).await
    };
    for wrong in ["[]", "1", "null", "\"x\"", "{", "{}x", "{\"a\":}", " ", &"[".repeat(5_000)] {
        post("application/json", wrong.into()).await.assert_problem(400, "bad-request");
    }
    post("application/json", b"{\"a\":\"\xff\"}".to_vec()).await.assert_problem(400, "bad-request");
    for content_type in ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "\u{e9}"]
    {
        post(content_type, b"{}".to_vec()).await.assert_problem(415, "unsupported-media-type");
    }
    let big = format!("{{\"a\":\"{}\"}}", "x".repeat(16 * 1024));
    post("application/json", big.clone().into()).await.assert_problem(413, "payload-too-large");
    let frames = big
        .as_bytes()
        .chunks(1_000)
        .map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(chunk))));
    let frames = futures_util::stream::iter(frames.collect::<Vec<_>>());
    let chunked = reqwest::Body::wrap(StreamBody::new(frames));
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let answer = sale.send_bytes(Method::POST, "/v1/coupons/coffee/claims", &headers, Some(chunked)).await;
    answer.assert_problem(413, "payload-too-large");
    assert_eq!(sale.redis_stock("coffee"), 100, "nothing was claimed");

    assert_eq!(post("text/plain", Vec::new()).await.status, 202, "an empty body needs no content type");
    let full = format!("{{\"a\":\"{}\"}}", "x".repeat(16 * 1024 - 8));
    for body in ["{}", r#"{"why": "not"}"#, &full] {
        assert_eq!(post("Application/JSON; charset=utf-8", body.into()).await.status, 200, "{body}");
    }
    let long = "k".repeat(65);
    for (n, key) in ["", " ", "a b", "\u{e4}", &long].iter().enumerate() {
        let answer = sale.claim_with("coffee", &format!("user-{n}"), &[("idempotency-key", key)]).await;
        answer.assert_problem(400, "bad-request");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    sale.claim_with("coffee", "user", &twice).await.assert_problem(400, "bad-request");
    let fit = sale.claim_with("coffee", "user", &[("idempotency-key", &long[1..])]).await;
    assert_eq!(fit.status, 202, "{}", fit.text);
    // With a limit of one unit the user identifies the claim, with any key.
    let other_key = sale.claim_with("coffee", "user", &[("idempotency-key", "other")]).await;
    assert_eq!((other_key.status, order_of(&other_key)), (200, order_of(&fit)));
    assert_eq!(sale.redis_stock("coffee"), 98);
}

#[tokio::test]
async fn a_reserved_order_is_recorded_with_its_time_of_expiry() {
    let sale = Sale::start().await;
    create(&sale, "table", json!({"reserve_seconds": 900})).await;
    let claimed = sale.claim_with("table", "alice", &[("prefer", "wait=10")]).await;
    assert_eq!((claimed.status, &claimed.body["status"]), (201, &json!("reserved")), "{}", claimed.text);
    let row = sale.psql("select status, extract(epoch from reserved_until - recorded_at)::int from orders");
    assert_eq!(row, "reserved|900");

    // The order's user and the admin can read the order; other users do not learn that it exists.
    let path = claimed.header("location");
    let own = sale.get_as(&sale.token("alice"), path).await;
    assert_eq!(
        (own.status, order_of(&own), &own.body["status"]),
        (200, order_of(&claimed), &json!("reserved"))
    );
    assert_eq!(sale.admin(Method::GET, path, None).await.body, own.body);
    sale.get_as(&sale.token("bob"), path).await.assert_problem(404, "not-found");
    sale.get(path).await.assert_problem(401, "unauthorized");
    create(&sale, "chair", json!({})).await;
    let elsewhere = path.replace("table", "chair");
    sale.get_as(&sale.token("alice"), &elsewhere).await.assert_problem(404, "not-found");
    let unknown = "/v1/coupons/table/claims/01a20dfc-6229-756f-bc31-2593204e6701";
    sale.get_as(&sale.token("alice"), unknown).await.assert_problem(404, "not-found");
    sale.admin(Method::GET, unknown, None).await.assert_problem(404, "not-found");
    for no_order in ["x", "01a20dfc6229756fbc312593204e6701", "%00", &"1".repeat(200)] {
        let path = format!("/v1/coupons/table/claims/{no_order}");
        sale.get_as(&sale.token("alice"), &path).await.assert_problem(400, "bad-request");
    }

    let live = sale.get_as(&sale.token("alice"), "/v1/coupons/table/claims").await;
    assert_eq!(live.body, json!({"items": [own.body]}), "{}", live.text);
    let none = sale.get_as(&sale.token("bob"), "/v1/coupons/table/claims").await;
    assert_eq!((none.status, none.body), (200, json!({"items": []})));
    let unknown = sale.get_as(&sale.token("bob"), "/v1/coupons/nothing/claims").await;
    unknown.assert_problem(404, "unknown-coupon");
}

#[tokio::test]
async fn a_buyers_orders_are_paged_newest_first() {
    let sale = Sale::start().await;
    let mut claimed = Vec::new();
    for n in 0..25 {
        create(&sale, &format!("coupon-{n}"), json!({})).await;
        claimed.insert(0, order_of(&sale.claim(&format!("coupon-{n}"), "alice").await).to_owned());
    }
    sale.claim("coupon-0", "bob").await;
    sale.until_quiet().await;
    let token = sale.token("alice");
    let mut seen = Vec::new();
    let mut path = "/v1/orders?limit=10".to_owned();
    for expected in [10, 10, 5] {
        let page = sale.get_as(&token, &path).await;
        let items = page.body["items"].as_array().unwrap();
        assert_eq!((page.status, items.len()), (200, expected), "{}", page.text);
        seen.extend(items.iter().map(|order| order["order"].as_str().unwrap().to_owned()));
        assert_eq!(page.body["next"].is_null(), expected == 5, "{}", page.text);
        path = format!("/v1/orders?limit=10&after={}", page.body["next"].as_str().unwrap_or_default());
    }
    assert_eq!(seen, claimed);
    for (query, items) in [("", 25), ("?limit=25", 25), ("?limit=200", 25), ("?limit=24", 24)] {
        let page = sale.get_as(&token, &format!("/v1/orders{query}")).await;
        assert_eq!(page.body["items"].as_array().unwrap().len(), items, "{query}");
        assert_eq!(page.body["next"].is_null(), items == 25, "{query}: {}", page.text);
    }
    for query in ["limit=0", "limit=201", "limit=abc", "limit=-1", "limit=", "limit=1.5", "after=x"] {
        for path in ["/v1/orders", "/v1/admin/orders"] {
            let token = if path.contains("admin") { sale.admin_token() } else { token.clone() };
            sale.get_as(&token, &format!("{path}?{query}")).await.assert_problem(400, "bad-request");
        }
    }

    let list = async |query: &str| {
        let page = sale.admin(Method::GET, &format!("/v1/admin/orders?{query}"), None).await;
        page.body["items"].as_array().unwrap_or_else(|| panic!("{}", page.text)).len()
    };
    assert_eq!(list("").await, 26);
    assert_eq!((list("user=bob").await, list("coupon=coupon-0").await), (1, 2));
    assert_eq!(
        (list("coupon=coupon-0&user=alice&status=confirmed").await, list("status=reserved").await),
        (1, 0)
    );
    for query in ["status=x", "user=", "user=%00", "coupon=-", "coupon=a%20b"] {
        let answer = sale.admin(Method::GET, &format!("/v1/admin/orders?{query}"), None).await;
        answer.assert_problem(400, "bad-request");
    }
}

#[tokio::test]
async fn ids_with_invalid_characters_never_become_a_key() {
    let sale = Sale::start().await;
    let token = sale.token("alice");
    let long = "a".repeat(64);
    let coupons = [
        "_x",
        "-x",
        "a%20b",
        "a%2Fb",
        "%00",
        "a%00",
        "a%0d%0aFLUSHALL",
        "%E4%BD%A0",
        "a:b",
        "a{0}b",
        "a;b",
        &long,
    ];
    for coupon in coupons {
        let path = format!("/v1/coupons/{coupon}");
        sale.get(&path).await.assert_problem(400, "bad-request");
        sale.get_as(&token, &format!("{path}/claims")).await.assert_problem(400, "bad-request");
        let headers = [("authorization", &*format!("Bearer {token}"))];
        let answer = sale.send(Method::POST, &format!("{path}/claims"), &headers, None).await;
        answer.assert_problem(400, "bad-request");
        let path = format!("/v1/admin/coupons/{coupon}");
        sale.admin(Method::GET, &path, None).await.assert_problem(400, "bad-request");
        let answer = sale.admin(Method::PATCH, &path, Some(json!({"total": 1}))).await;
        answer.assert_problem(400, "bad-request");
    }
    let ids = ["", "_x", "a b", "a/b", "\0", "a\n", "\u{4f60}", "a:b", "caf\u{e9}", &long];
    for id in ids {
        let answer = sale.admin(Method::POST, "/v1/admin/coupons", Some(json!({"id": id, "total": 1}))).await;
        answer.assert_problem(400, "bad-request");
    }
    let fit = &long[1..];
    create(&sale, fit, json!({})).await;
    let path = format!("/v1/admin/coupons/{fit}/claims");
    for user in ["", "a\0", "a\u{1f}2", "a\n", "\u{7f}", "\u{85}", &"u".repeat(129), &"\u{e4}".repeat(65)] {
        let answer = sale.admin(Method::POST, &path, Some(json!({"user": user}))).await;
        answer.assert_problem(400, "bad-request");
    }
    let answer = sale.admin(Method::POST, "/v1/admin/coupons/_/claims", Some(json!({"user": "a"}))).await;
    answer.assert_problem(400, "bad-request");
    let users =
        ["a", "a b", "\u{4f60}\u{597d}", "{0}", "a:b", &"\u{e4}".repeat(64), "'; drop table orders; --"];
    for (n, user) in users.iter().enumerate() {
        let answer = sale.claim(fit, user).await;
        let expected = if n < 5 { 202 } else { 409 };
        assert_eq!(answer.status, expected, "{user}: {}", answer.text);
    }
    sale.assert_in_agreement(fit).await;
    let keys = until("keys are listed", async || Some(sale.redis_cli(&["KEYS", "*"]))).await;
    let mut coupons: Vec<&str> =
        keys.lines().filter(|key| key.contains(":coupon:") || key.contains(":claims:")).collect();
    coupons.sort_unstable();
    assert_eq!(coupons, [format!("seckill:{{0}}:claims:{fit}"), format!("seckill:{{0}}:coupon:{fit}")]);
}

#[tokio::test]
async fn only_a_claim_without_an_answer_from_redis_is_reported_as_not_known() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    create(&sale, "coffee", json!({})).await;
    let counted = async |outcome: &str| {
        let name = format!("seckill_claims_total{{outcome=\"{outcome}\"}} ");
        let text = sale.get("/metrics").await.text;
        text.lines().find_map(|line| line.strip_prefix(&*name)).unwrap().to_owned()
    };
    let detail = |answer: &Answer| {
        answer.assert_problem(503, "unavailable");
        answer.body["detail"].as_str().unwrap().to_owned()
    };
    // Redis refuses the whole batch: full memory, too few replicas, no script.
    for (setting, refused, restored) in [("maxmemory", "1", "0"), ("min-replicas-to-write", "3", "0")] {
        sale.redis_cli(&["CONFIG", "SET", setting, refused]);
        let refusal = detail(&sale.claim("coffee", "alice").await);
        assert!(
            refusal.contains("nothing was claimed") && !refusal.contains("not known"),
            "{setting}: {refusal}"
        );
        sale.redis_cli(&["CONFIG", "SET", setting, restored]);
    }
    assert_eq!((counted("refused").await, counted("no-answer").await), ("2".into(), "0".into()));
    sale.redis_cli(&["SCRIPT", "FLUSH"]);
    let refusal = sale.claim("coffee", "alice").await;
    assert!(!refusal.text.contains("not known"), "{}", refusal.text);
    sale.until_ready().await;
    assert_eq!(sale.redis_stock("coffee"), 5, "nothing was claimed");

    // Without an answer from Redis the result is not known.
    let redis = sale.redis_pid();
    signal(redis, Signal::SIGSTOP);
    let refusal = detail(&sale.claim("coffee", "alice").await);
    assert!(refusal.contains("whether the claim was made is not known"), "{refusal}");
    signal(redis, Signal::SIGCONT);
    assert_eq!(counted("no-answer").await, "1");
    sale.until_ready().await;
}
