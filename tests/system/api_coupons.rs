//! The public view of coupons: single coupons and lists, with entity tags, and without the unlisted coupons.

use reqwest::Method;
use serde_json::{Value, json};

use support::{Answer, Sale, until};

async fn create(sale: &Sale, body: Value) {
    let answer = sale.admin(Method::POST, "/v1/admin/coupons", Some(body)).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
}

fn ids(answer: &Answer) -> Vec<&str> {
    let items = answer.body["items"].as_array().unwrap_or_else(|| panic!("{}", answer.text));
    items.iter().map(|coupon| coupon["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_coupon_shows_its_state_and_is_sent_again_only_when_it_has_changed() {
    let sale = Sale::start().await;
    create(&sale, json!({"id": "coffee", "total": 2, "title": "Coffee", "reserve_seconds": 60})).await;
    let shown = sale.get("/v1/coupons/coffee").await;
    let mut body = shown.body.clone();
    assert!(body["server_time"].take().as_str().unwrap().ends_with('Z'), "{}", shown.text);
    let expected = json!({
        "id": "coffee", "title": "Coffee", "total": 2, "stock": 2, "state": "open", "starts_at": null, "ends_at": null,
        "per_user_limit": 1, "reserve_seconds": 60, "durability": "redis", "waitlist": false,
        "server_time": null
    });
    assert_eq!((shown.status, body), (200, expected));
    assert_eq!(shown.header("cache-control"), "public, max-age=1");
    let tag = shown.header("etag").to_owned();
    let if_none_match =
        async |path: &str, tag: &str| sale.send(Method::GET, path, &[("if-none-match", tag)], None).await;
    for matching in [&tag, "*", &format!("\"x\", {tag}"), tag.trim_start_matches("W/")] {
        let unchanged = if_none_match("/v1/coupons/coffee", matching).await;
        assert_eq!(
            (unchanged.status, unchanged.text.as_str(), unchanged.header("etag")),
            (304, "", &*tag),
            "{matching}"
        );
        assert_eq!(unchanged.header("cache-control"), "public, max-age=1");
    }
    assert_eq!(if_none_match("/v1/coupons/coffee", "\"x\"").await.status, 200);

    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    let fresh = until("a read shows the new stock", async || {
        let answer = if_none_match("/v1/coupons/coffee", &tag).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!((&fresh.body["stock"], fresh.header("etag") == tag), (&json!(1), false));
    assert_eq!(sale.claim("coffee", "bob").await.status, 202);
    let state = async |patch: Value, expected: &str| {
        let answer = sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", Some(patch)).await;
        assert_eq!(answer.body["state"], expected, "{}", answer.text);
        until("a public read shows the state", async || {
            (sale.get("/v1/coupons/coffee").await.body["state"] == expected).then_some(())
        })
        .await;
    };
    // The state is the first one that applies: ended, paused, scheduled, sold out, open.
    state(json!({}), "sold_out").await;
    state(json!({"starts_at": "2998-01-01T00:00:00Z"}), "scheduled").await;
    state(json!({"paused": true}), "paused").await;
    state(json!({"starts_at": null, "ends_at": "2001-01-01T00:00:00Z"}), "ended").await;
    state(json!({"ends_at": "2999-01-01T00:00:00Z", "paused": false, "total": 3}), "open").await;
    sale.get("/v1/coupons/nothing").await.assert_problem(404, "unknown-coupon");
}

#[tokio::test]
async fn lists_are_paged_by_id_and_leave_out_what_is_unlisted() {
    let sale = Sale::start().await;
    let empty = sale.get("/v1/coupons").await;
    assert_eq!((empty.status, empty.body.clone()), (200, json!({"items": [], "next": null})));
    for id in ["b", "B", "a-1", "a_1", "0", "c", "d"] {
        create(&sale, json!({"id": id, "total": 5})).await;
    }
    create(&sale, json!({"id": "bb", "total": 5, "unlisted": true})).await;
    // A new coupon is in the list at once; the list is sorted by bytes.
    let all = sale.get("/v1/coupons").await;
    assert_eq!(ids(&all), ["0", "B", "a-1", "a_1", "b", "c", "d"]);
    assert_eq!((all.header("cache-control"), &all.body["next"]), ("public, max-age=1", &Value::Null));
    assert_eq!(sale.get("/v1/coupons/bb").await.status, 200, "an unlisted coupon can be read by its id");
    let everything = sale.admin(Method::GET, "/v1/admin/coupons", None).await;
    assert_eq!(ids(&everything), ["0", "B", "a-1", "a_1", "b", "bb", "c", "d"]);
    assert_eq!(everything.header("cache-control"), "no-store");

    let first = sale.get("/v1/coupons?limit=3").await;
    assert_eq!((ids(&first), &first.body["next"]), (vec!["0", "B", "a-1"], &json!("a-1")));
    let second = sale.get("/v1/coupons?limit=3&after=a-1").await;
    assert_eq!((ids(&second), &second.body["next"]), (vec!["a_1", "b", "c"], &json!("c")));
    let last = sale.get("/v1/coupons?limit=3&after=c").await;
    assert_eq!((ids(&last), &last.body["next"]), (vec!["d"], &Value::Null));
    let whole = sale.get("/v1/coupons?limit=7").await;
    assert_eq!((ids(&whole).len(), &whole.body["next"]), (7, &Value::Null));
    let paged = sale.admin(Method::GET, "/v1/admin/coupons?limit=1&after=b", None).await;
    assert_eq!((ids(&paged), &paged.body["next"]), (vec!["bb"], &json!("bb")));

    // The tag covers the whole answer, with `next`.
    let page = "/v1/coupons?limit=1&after=c";
    let tag = sale.get(page).await.header("etag").to_owned();
    let headers = [("if-none-match", tag.as_str())];
    assert_eq!(sale.send(Method::GET, page, &headers, None).await.status, 304);
    create(&sale, json!({"id": "e", "total": 5})).await;
    let longer = sale.send(Method::GET, page, &headers, None).await;
    assert_eq!((longer.status, &longer.body["next"]), (200, &json!("d")), "{}", longer.text);
    for query in ["limit=0", "limit=201", "limit=abc", "limit=", "after=_", "after=a%20b"] {
        sale.get(&format!("/v1/coupons?{query}")).await.assert_problem(400, "bad-request");
        let path = format!("/v1/admin/coupons?{query}");
        sale.admin(Method::GET, &path, None).await.assert_problem(400, "bad-request");
    }
}
