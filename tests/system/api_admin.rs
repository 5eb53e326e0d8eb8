//! The admin's coupons: each is created once and within its limits, and edited by a merge patch; the entity tag detects
//! edits by other requests.

use reqwest::Method;
use serde_json::{Value, json};

use support::{Answer, Sale};

const COUPONS: &str = "/v1/admin/coupons";
const COFFEE: &str = "/v1/admin/coupons/coffee";

async fn post(sale: &Sale, body: Value) -> Answer {
    sale.admin(Method::POST, COUPONS, Some(body)).await
}

async fn patch(sale: &Sale, body: Value) -> Answer {
    sale.admin(Method::PATCH, COFFEE, Some(body)).await
}

async fn patch_if(sale: &Sale, tag: &str, body: Value) -> Answer {
    let authorization = format!("Bearer {}", sale.admin_token());
    let headers = [("authorization", authorization.as_str()), ("if-match", tag)];
    sale.send(Method::PATCH, COFFEE, &headers, Some(body)).await
}

/// Each of these fields alone makes a coupon invalid.
fn invalid_fields() -> Vec<Value> {
    vec![
        json!({"total": 0}),
        json!({"total": -1}),
        json!({"total": 1_000_000_001}),
        json!({"total": 1e18}),
        json!({"total": 1.5}),
        json!({"total": "1"}),
        json!({"total": null}),
        json!({"id": null}),
        json!({"id": 1}),
        json!({"title": ""}),
        json!({"title": "\u{4f60}".repeat(201)}),
        json!({"title": "a\0b"}),
        json!({"title": "a\nb"}),
        json!({"title": 1}),
        json!({"reserve_seconds": 0}),
        json!({"reserve_seconds": 2_592_001}),
        json!({"reserve_seconds": "15m"}),
        json!({"reserve_seconds": 1.5}),
        json!({"reserve_seconds": -1}),
        json!({"durability": "disk"}),
        json!({"durability": ""}),
        json!({"durability": 1}),
        json!({"per_user_limit": 0}),
        json!({"per_user_limit": 17}),
        json!({"starts_at": "tomorrow"}),
        json!({"starts_at": "2026-11-11T20:00:00"}),
        json!({"starts_at": 1_800_000_000}),
        json!({"starts_at": "2026-02-30T00:00:00Z"}),
        json!({"starts_at": "1969-12-31T23:59:59Z"}),
        json!({"starts_at": "9999-12-31T23:59:59-23:59"}),
        json!({"ends_at": "0000-01-01T00:00:00+23:59"}),
        json!({"starts_at": "2026-11-11T20:00:00Z", "ends_at": "2026-11-11T20:00:00Z"}),
        json!({"starts_at": "2026-11-11T20:00:01Z", "ends_at": "2026-11-11T20:00:00Z"}),
        json!({"waitlist": "yes"}),
        json!({"unlisted": "yes"}),
        json!({"paused": true}),
        json!({"stock": 5}),
        json!({"Title": "x"}),
        json!({"": 1}),
    ]
}

#[tokio::test]
async fn a_coupon_is_created_once_and_only_with_valid_fields() {
    let sale = Sale::start().await;
    let full = json!({
        "id": "coffee", "total": 100, "title": "A free coffee \u{2615}", "starts_at": "2026-11-11T20:00:00+01:00",
        "ends_at": "2999-11-11T21:00:00.123456789Z", "per_user_limit": 1, "reserve_seconds": 900,
        "durability": "postgres", "waitlist": true, "unlisted": true
    });
    let created = post(&sale, full.clone()).await;
    assert_eq!((created.status, created.header("etag")), (201, "\"v1\""), "{}", created.text);
    assert_eq!(created.header("cache-control"), "no-store");
    assert_eq!(created.header("location"), "/v1/coupons/coffee");
    let mut shown = created.body.clone();
    assert!(shown["server_time"].take().is_string());
    let expected = json!({
        "id": "coffee", "title": "A free coffee \u{2615}", "total": 100, "stock": 100, "state": "open",
        "starts_at": "2026-11-11T19:00:00Z", "ends_at": "2999-11-11T21:00:00.123Z", "per_user_limit": 1,
        "reserve_seconds": 900, "durability": "postgres", "waitlist": true, "waiting": 0,
        "server_time": null, "paused": false, "unlisted": true, "version": 1, "partition": 0,
        "accepted": 0, "reserved": 0, "confirmed": 0, "returned": 0
    });
    assert_eq!(shown, expected);

    // The same coupon again, written differently, is not created twice; any other field is a conflict.
    let mut again = full.clone();
    again["starts_at"] = json!("2026-11-11T19:00:00.0009Z");
    assert_eq!(post(&sale, again).await.status, 200);
    for (name, value) in [
        ("total", json!(101)),
        ("title", json!("Tea")),
        ("starts_at", Value::Null),
        ("ends_at", Value::Null),
        ("reserve_seconds", Value::Null),
        ("per_user_limit", json!(2)),
        ("durability", json!("redis")),
        ("waitlist", json!(false)),
        ("unlisted", json!(false)),
    ] {
        let mut other = full.clone();
        other[name] = value;
        post(&sale, other).await.assert_problem(409, "coupon-exists");
    }
    assert_eq!(sale.admin(Method::GET, COFFEE, None).await.body["total"], 100);

    let plain = json!({
        "id": "plain", "total": 1, "title": null, "starts_at": null, "ends_at": null, "per_user_limit": null,
        "reserve_seconds": null, "durability": null, "waitlist": null, "unlisted": null
    });
    let plain = post(&sale, plain).await;
    assert_eq!((plain.status, &plain.body["title"]), (201, &json!("plain")), "{}", plain.text);
    assert_eq!(post(&sale, json!({"id": "plain", "total": 1})).await.status, 200);
    let valid = [
        json!({"total": 1_000_000_000}),
        json!({"title": "\u{4f60}".repeat(200)}),
        json!({"reserve_seconds": 1}),
        json!({"durability": "redis"}),
        json!({"durability": "postgres"}),
        json!({"reserve_seconds": 2_592_000}),
        json!({"per_user_limit": 16}),
        json!({"starts_at": "9999-12-31T23:59:59Z"}),
        json!({"title": "'; drop table coupons; --"}),
        json!({"starts_at": "1970-01-01T00:00:01Z"}),
    ];
    for (n, more) in valid.iter().enumerate() {
        let mut body = json!({"id": format!("fit-{n}"), "total": 1});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = post(&sale, body).await;
        assert_eq!(answer.status, 201, "{more}: {}", answer.text);
        for (name, value) in more.as_object().unwrap() {
            assert_eq!(&answer.body[name], value, "{more}");
        }
    }

    for more in invalid_fields() {
        let mut body = json!({"id": "unfit", "total": 1});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = post(&sale, body.clone()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text);
        answer.assert_problem(400, "bad-request");
    }
    for body in [json!({}), json!(["unfit", 1]), json!("x"), json!({"id": "unfit"}), json!({"total": 1})] {
        post(&sale, body).await.assert_problem(400, "bad-request");
    }
    let authorization = format!("Bearer {}", sale.admin_token());
    let twice = r#"{"id":"unfit","total":1,"total":2}"#;
    for (content_type, body, status, code) in [
        ("application/json", "", 400, "bad-request"),
        ("application/json", "{", 400, "bad-request"),
        ("application/json", twice, 400, "bad-request"),
        ("text/plain", "{}", 415, "unsupported-media-type"),
    ] {
        let headers = [("authorization", authorization.as_str()), ("content-type", content_type)];
        sale.send_bytes(Method::POST, COUPONS, &headers, Some(body)).await.assert_problem(status, code);
    }
    sale.get("/v1/coupons/unfit").await.assert_problem(404, "unknown-coupon");
    sale.admin(Method::GET, "/v1/admin/coupons/unfit", None).await.assert_problem(404, "unknown-coupon");
}

#[tokio::test]
async fn a_patch_changes_only_the_fields_it_names_and_its_repeat_changes_nothing() {
    let sale = Sale::start().await;
    let more = json!({"id": "coffee", "total": 10, "title": "Coffee", "ends_at": "2999-01-01T00:00:00Z"});
    post(&sale, more).await;
    let edited = patch(&sale, json!({"title": "Espresso", "total": 12})).await;
    assert_eq!((edited.status, edited.header("etag")), (200, "\"v2\""), "{}", edited.text);
    let seen = |answer: &Answer| {
        json!([
            answer.body["title"],
            answer.body["total"],
            answer.body["stock"],
            answer.body["ends_at"],
            answer.body["version"]
        ])
    };
    assert_eq!(seen(&edited), json!(["Espresso", 12, 12, "2999-01-01T00:00:00Z", 2]));
    for same in
        [json!({"title": "Espresso", "total": 12}), json!({}), json!({"total": 12}), json!({"paused": null})]
    {
        let repeat = patch(&sale, same.clone()).await;
        assert_eq!((repeat.status, repeat.header("etag")), (200, "\"v2\""), "{same}: {}", repeat.text);
    }
    let cleared = patch(&sale, json!({"title": null, "ends_at": null})).await;
    assert_eq!(seen(&cleared), json!(["coffee", 12, 12, null, 3]), "{}", cleared.text);
    assert_eq!(patch(&sale, json!({"paused": true})).await.body["state"], "paused");
    assert_eq!(patch(&sale, json!({"paused": false})).await.body["state"], "open");
    assert_eq!(patch(&sale, json!({"ends_at": "2001-01-01T00:00:00Z"})).await.body["state"], "ended");
    assert_eq!(patch(&sale, json!({"ends_at": null})).await.body["state"], "open");
    for wrong in [
        json!({"total": null}),
        json!({"total": 0}),
        json!({"total": 1_000_000_001}),
        json!({"total": "5"}),
        json!({"title": ""}),
        json!({"title": "x".repeat(201)}),
        json!({"paused": 1}),
        json!({"ends_at": "never"}),
        json!({"starts_at": "9999-12-31T23:59:59-01:00"}),
        json!({"reserve_seconds": 5}),
        json!({"durability": "redis"}),
        json!({"waitlist": true}),
        json!({"per_user_limit": 1}),
        json!({"stock": 5}),
        json!({"id": "tea"}),
        json!({"unlisted": true}),
        json!({"version": 9}),
        json!([]),
        json!(null),
        json!({"starts_at": "2999-01-01T00:00:00Z", "ends_at": "2998-01-01T00:00:00Z"}),
    ] {
        let answer = patch(&sale, wrong.clone()).await;
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.text);
        answer.assert_problem(400, "bad-request");
    }
    let unknown = sale.admin(Method::PATCH, "/v1/admin/coupons/nothing", Some(json!({"total": 1}))).await;
    unknown.assert_problem(404, "unknown-coupon");

    // The tag depends only on the definition: an edit changes the tag, a claim does not.
    let tag = sale.admin(Method::GET, COFFEE, None).await.header("etag").to_owned();
    assert_eq!(tag, "\"v7\"");
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    let shown = sale.admin(Method::GET, COFFEE, None).await;
    assert_eq!((shown.header("etag"), &shown.body["stock"]), (tag.as_str(), &json!(11)));
    for stale in ["\"v6\"", "W/\"v7\"", "v7", "", "\"v1\", \"v2\""] {
        patch_if(&sale, stale, json!({"title": "Tea"})).await.assert_problem(412, "precondition-failed");
    }
    assert_eq!(patch_if(&sale, &tag, json!({"title": "Tea"})).await.header("etag"), "\"v8\"");
    assert_eq!(patch_if(&sale, "*", json!({"title": "Milk"})).await.header("etag"), "\"v9\"");
    assert_eq!(patch_if(&sale, "\"v1\", \"v9\"", json!({"title": "Tea"})).await.header("etag"), "\"v10\"");
    patch_if(&sale, &tag, json!({"title": "Tea"})).await.assert_problem(412, "precondition-failed");
    sale.assert_in_agreement("coffee").await;
}
