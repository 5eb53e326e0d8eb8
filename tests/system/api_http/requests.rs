//! Addresses and their methods, request ids, and the parsing of ids, queries, bodies and entity tags.

use super::{Method, Sale, json};

/// Every address with the methods that it answers.
const ROUTES: &[(&str, &str)] = &[
    ("/v1/coupons", "GET, HEAD"),
    ("/v1/coupons/coffee", "GET, HEAD"),
    ("/v1/coupons/coffee/claims", "GET, HEAD, POST"),
    ("/v1/coupons/coffee/claims/01a20dfc-6229-756f-bc31-2593204e6701", "GET, HEAD"),
    ("/v1/coupons/coffee/waitlist", "DELETE, GET, HEAD, POST"),
    ("/v1/orders", "GET, HEAD"),
    ("/v1/orders/01a20dfc-6229-756f-bc31-2593204e6701", "GET, HEAD"),
    ("/v1/orders/01a20dfc-6229-756f-bc31-2593204e6701/confirm", "POST"),
    ("/v1/orders/01a20dfc-6229-756f-bc31-2593204e6701/cancel", "POST"),
    ("/v1/admin/coupons", "GET, HEAD, POST"),
    ("/v1/admin/coupons/coffee", "GET, HEAD, PATCH"),
    ("/v1/admin/coupons/coffee/claims", "POST"),
    ("/v1/admin/coupons/coffee/waitlist", "GET, HEAD, POST"),
    ("/v1/admin/coupons/coffee/waitlist/alice", "DELETE, GET, HEAD"),
    ("/v1/admin/orders", "GET, HEAD"),
    ("/v1/admin/orders/01a20dfc-6229-756f-bc31-2593204e6701/revoke", "POST"),
    ("/v1/admin/stream", "GET, HEAD"),
    ("/v1/admin/dead", "GET, HEAD"),
    ("/v1/admin/dead/1", "GET, HEAD"),
    ("/v1/admin/dead/1/replay", "POST"),
    ("/v1/admin/dead/1/discard", "POST"),
    ("/v1/admin/reconcile", "POST"),
    ("/livez", "GET, HEAD"),
    ("/readyz", "GET, HEAD"),
];

#[tokio::test]
async fn every_address_allows_only_its_methods_and_every_other_address_is_not_found() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    for (path, allowed) in ROUTES {
        let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"];
        for method in methods.iter().filter(|method| !allowed.split(", ").any(|m| m == **method)) {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let answer = sale.send(method.clone(), path, &[], None).await;
            assert_eq!((answer.status, answer.header("allow")), (405, *allowed), "{method} {path}");
            if method != Method::HEAD {
                answer.assert_problem(405, "method-not-allowed");
            }
        }
        if allowed.contains("GET") {
            let authorization = format!("Bearer {}", sale.admin_token());
            let headers = [("authorization", authorization.as_str())];
            let get = sale.send(Method::GET, path, &headers, None).await;
            let head = sale.send(Method::HEAD, path, &headers, None).await;
            assert_eq!((head.status, head.text.as_str()), (get.status, ""), "{path}");
            for name in ["content-type", "cache-control", "etag", "www-authenticate"] {
                assert_eq!(head.header(name), get.header(name), "{path}: {name}");
            }
            assert_eq!(head.header("content-length").is_empty(), get.text.is_empty(), "{path}");
        }
    }
    for path in [
        "/v1",
        "/v1/",
        "/v2/coupons",
        "/coupons",
        "/V1/coupons",
        "/v1/coupons/",
        "/v1/coupons/coffee/",
        "/v1/coupons/coffee/claims/",
        "/v1//coupons",
        "//v1/coupons",
        "/v1/orders/",
        "/v1/admin",
        "/v1/admin/",
        "/v1/admin/coupons/",
        "/v1/coupons/coffee/claims/1/2",
        "/livez/",
        "/readyz/x",
        "/%6civez",
        "/v1/%63oupons",
        "/v1/%61dmin/coupons",
        "/v1/coupons/coffee/%63laims",
        "/v1%2Fcoupons",
        "/v1/coupons%2Fcoffee",
        "/.env",
        "/v1/coupons/coffee/stock",
    ] {
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            sale.send(method, path, &[], None).await.assert_problem(404, "not-found");
        }
    }
    assert_eq!(sale.get("/livez").await.body["status"], "ok");
    assert_eq!(sale.get("/readyz").await.body["status"], "ready");
    let stores = &sale.get("/readyz?verbose").await.body["stores"];
    assert_eq!(
        (&stores["redis"], &stores["postgres"], &stores["fence"]),
        (&"ok".into(), &"ok".into(), &"ok".into())
    );
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request() {
    let sale = Sale::start().await;
    let long = "r".repeat(64);
    for valid in ["a", "client-7:42", long.as_str()] {
        for path in ["/livez", "/nowhere", "/v1/coupons"] {
            let answer = sale.send(Method::GET, path, &[("x-request-id", valid)], None).await;
            assert_eq!(answer.header("x-request-id"), valid, "{path}");
        }
        let refused = sale.send(Method::GET, "/nowhere", &[("x-request-id", valid)], None).await;
        assert_eq!(refused.body["request_id"], valid);
    }
    let too_long = format!("{long}r");
    for invalid in ["", "a b", "\u{e4}", "a\tb", &too_long] {
        let answer = sale.send(Method::GET, "/nowhere", &[("x-request-id", invalid)], None).await;
        answer.assert_problem(404, "not-found");
        assert_ne!(answer.header("x-request-id"), invalid);
    }
    let (one, two) = (sale.get("/livez").await, sale.get("/livez").await);
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
}

#[tokio::test]
async fn an_id_in_an_address_may_be_percent_encoded() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    let plain = sale.claim("coffee", "alice").await;
    let token = sale.token("alice");
    assert_eq!(sale.get("/v1/coupons/%63offee").await.body["id"], "coffee");
    let headers = [("authorization", &*format!("Bearer {token}"))];
    let again = sale.send(Method::POST, "/v1/coupons/%63%6Fffee/claims", &headers, None).await;
    assert_eq!((again.status, &again.body["order"]), (200, &plain.body["order"]), "{}", again.text);
    let order = plain.body["order"].as_str().unwrap();
    let path = format!("/v1/coupons/coffe%65/claims/%{:x}{}", order.as_bytes()[0], &order[1..]);
    assert_eq!(sale.get_as(&token, &path).await.body["order"], order);
    assert_eq!(sale.admin(Method::GET, "/v1/admin/coupons/%63offee", None).await.body["id"], "coffee");
    assert_eq!(sale.admin(Method::GET, "/v1/admin/dead/%37", None).await.status, 404);
    // The server decodes an id once, and a decoded slash does not start another path segment.
    sale.get("/v1/coupons/%2563offee").await.assert_problem(400, "bad-request");
    sale.get("/v1/coupons/coffee%2Fclaims").await.assert_problem(400, "bad-request");
}

#[tokio::test]
async fn a_refusal_of_an_unreadable_query_or_body_names_the_field() {
    let sale = Sale::start().await;
    for (path, words) in [
        ("/v1/coupons?limit=x", "limit is a whole number from 1 to 200"),
        ("/v1/coupons?limit=201", "limit is a whole number from 1 to 200"),
        ("/v1/coupons?limit=99999999999999999999", "limit is a whole number from 1 to 200"),
        ("/v1/coupons?after=a%20b", "after: a coupon id is 1 to 63"),
        ("/v1/admin/orders?after=x", "after: an order id is a UUID"),
        ("/v1/admin/orders?status=x", "status is accepted, reserved, confirmed"),
        ("/v1/admin/orders?coupon=-", "coupon: a coupon id is 1 to 63"),
        ("/v1/admin/orders?user=", "user: a user id is 1 to 128 bytes"),
        ("/v1/admin/dead?after=x", "after: a row's number is a whole number from 0 on"),
        ("/v1/admin/dead?after=-1", "after: a row's number is a whole number from 0 on"),
        ("/v1/admin/dead/x", "a dead letter's id is a number"),
        ("/v1/admin/dead/99999999999999999999", "a dead letter's id is a number"),
    ] {
        let answer = sale.admin(Method::GET, path, None).await;
        answer.assert_problem(400, "bad-request");
        assert!(answer.body["detail"].as_str().unwrap().contains(words), "{path}: {}", answer.text);
    }
    for (body, words) in [
        (json!({"id": "tea", "total": "ten"}), "total must be a whole number, not string"),
        (json!({"id": "tea", "total": 1.5}), "total must be a whole number, not floating point"),
        (json!({"id": "tea"}), "total is missing"),
        (
            json!({"id": "tea", "total": 1, "starts_at": "2026-12-24T10:00:00"}),
            "starts_at: not an RFC 3339 time with its offset: write 2026-11-11T20:00:00+01:00",
        ),
        (json!({"id": "tea", "total": 1, "ends_at": "tomorrow"}), "ends_at: not an RFC 3339 time"),
        (json!({"id": "tea", "total": 1, "ends_at": 5}), "ends_at must be text, not integer"),
        (json!({"id": "tea", "total": 1, "unlisted": "no"}), "unlisted must be true or false"),
        (json!({"id": "tea", "total": 1, "waitlist": 1}), "waitlist must be true or false"),
        (json!({"id": "tea", "total": 1, "colour": "red"}), "the field colour is not known"),
    ] {
        let answer = sale.admin(Method::POST, "/v1/admin/coupons", Some(body.clone())).await;
        answer.assert_problem(400, "bad-request");
        assert!(answer.body["detail"].as_str().unwrap().contains(words), "{body}: {}", answer.text);
    }
    sale.create("coffee", 5).await;
    for (body, words) in [
        (json!({"starts_at": "2026-12-24 10:00"}), "starts_at: not an RFC 3339 time"),
        (json!({"paused": 1}), "paused must be true or false"),
        (json!({"total": "5"}), "total must be a whole number"),
    ] {
        let answer = sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", Some(body.clone())).await;
        answer.assert_problem(400, "bad-request");
        assert!(answer.body["detail"].as_str().unwrap().contains(words), "{body}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_list_of_entity_tags_may_have_two_header_lines() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    let authorization = format!("Bearer {}", sale.admin_token());
    let edit = async |tags: [&str; 2], total: i64| {
        let headers = [("authorization", &*authorization), ("if-match", tags[0]), ("if-match", tags[1])];
        let body = Some(json!({"total": total}));
        sale.send(Method::PATCH, "/v1/admin/coupons/coffee", &headers, body).await.status
    };
    assert_eq!(edit(["\"v7\"", "\"v8\""], 6).await, 412);
    assert_eq!(edit(["\"v7\"", "\"v1\""], 7).await, 200);
    assert_eq!(edit(["\"v2\"", "\"v1\""], 8).await, 200);
    let tag = sale.get("/v1/coupons/coffee").await.header("etag").to_owned();
    let headers = [("if-none-match", "\"x\""), ("if-none-match", tag.as_str())];
    assert_eq!(sale.send(Method::GET, "/v1/coupons/coffee", &headers, None).await.status, 304);
}
