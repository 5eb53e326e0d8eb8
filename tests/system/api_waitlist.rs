//! The waiting list over HTTP: what a refused claim says about it, and the line as the admin sees it.

use reqwest::Method;
use serde_json::{Value, json};

use support::{Answer, Sale, until};

const LINE: &str = "/v1/admin/coupons/coffee/waitlist";

async fn ask(sale: &Sale, method: Method, user: &str) -> Answer {
    let authorization = format!("Bearer {}", sale.token(user));
    sale.send(method, "/v1/coupons/coffee/waitlist", &[("authorization", &authorization)], None).await
}

async fn line(sale: &Sale, query: &str) -> Answer {
    let answer = sale.admin(Method::GET, &format!("{LINE}{query}"), None).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer
}

/// Place and user of each row.
fn places(answer: &Answer) -> Vec<(i64, &str)> {
    let items = answer.body["items"].as_array().unwrap();
    items.iter().map(|item| (item["place"].as_i64().unwrap(), item["user"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn a_claim_of_a_sold_out_coupon_says_how_to_join_its_waiting_list() {
    let sale = Sale::start().await;
    sale.create("tea", 1).await;
    sale.create_with("coffee", json!({"total": 1, "waitlist": true})).await;
    for (coupon, detail) in [
        ("tea", "coupon tea is sold out"),
        ("coffee", "coupon coffee is sold out: join its waiting list, POST /v1/coupons/coffee/waitlist"),
    ] {
        assert_eq!(sale.claim(coupon, "alice").await.status, 202);
        let refused = sale.claim(coupon, "bob").await;
        refused.assert_problem(409, "sold-out");
        assert_eq!(refused.body["detail"], detail);
    }
}

#[tokio::test]
async fn a_coupon_shows_how_many_users_wait_and_is_sent_again_when_the_number_changes() {
    let sale = Sale::start().await;
    sale.create_with("coffee", json!({"total": 1, "waitlist": true})).await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    for (waiting, user) in ["bob", "carol"].into_iter().enumerate() {
        let before = until("the coupon shows the earlier users", async || {
            let shown = sale.get("/v1/coupons/coffee").await;
            (shown.body["state"] == "sold_out" && shown.body["waiting"] == waiting).then_some(shown)
        })
        .await;
        assert_eq!(ask(&sale, Method::POST, user).await.status, 201);
        let headers = [("if-none-match", before.header("etag"))];
        until("the number has another tag", async || {
            let shown = sale.send(Method::GET, "/v1/coupons/coffee", &headers, None).await;
            (shown.status == 200).then(|| assert_eq!(shown.body["waiting"], waiting + 1, "{}", shown.text))
        })
        .await;
    }
}

#[tokio::test]
async fn the_admin_reads_the_line_in_pages_that_stay_right_while_the_line_moves() {
    let sale = Sale::start().await;
    sale.create_with("coffee", json!({"total": 1, "waitlist": true})).await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    assert_eq!(line(&sale, "").await.text, r#"{"items":[],"next":null}"#);
    sale.admin(Method::GET, "/v1/admin/coupons/tea/waitlist", None)
        .await
        .assert_problem(404, "unknown-coupon");
    for after in ["x", "-1"] {
        let page = sale.admin(Method::GET, &format!("{LINE}?after={after}"), None).await;
        page.assert_problem(400, "bad-request");
    }

    let mut orders = Vec::new();
    for user in ["zoe", "bob", "eve", "carol", "dave"] {
        let joined = ask(&sale, Method::POST, user).await;
        assert_eq!(joined.status, 201, "{}", joined.text);
        orders.push(joined.body["order"].clone());
    }
    let whole = line(&sale, "").await;
    assert_eq!(places(&whole), [(1, "zoe"), (2, "bob"), (3, "eve"), (4, "carol"), (5, "dave")]);
    assert_eq!(whole.body["next"], Value::Null);
    let rows = whole.body["items"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["order"].clone()).collect::<Vec<_>>(), orders);
    // Postgres reads the time inside an order's id like the program.
    let joined_at = rows[0]["joined_at"].as_str().unwrap();
    let age = sale.psql(&format!("select now() - '{joined_at}' between '-1 s' and '1 min'"));
    assert_eq!(age, "t", "{joined_at}");

    let first = line(&sale, "?limit=2").await;
    assert_eq!(places(&first), [(1, "zoe"), (2, "bob")]);
    // The users of the first page leave: the second page begins after them.
    for user in ["zoe", "bob"] {
        assert_eq!(ask(&sale, Method::DELETE, user).await.status, 204);
    }
    let after = |answer: &Answer| format!("?limit=2&after={}", answer.body["next"].as_str().unwrap());
    let second = line(&sale, &after(&first)).await;
    assert_eq!(places(&second), [(1, "eve"), (2, "carol")]);
    let last = line(&sale, &after(&second)).await;
    assert_eq!(places(&last), [(3, "dave")]);
    assert_eq!(last.body["next"], Value::Null);
}

#[tokio::test]
async fn the_admin_joins_shows_and_leaves_for_a_user_with_the_answers_of_the_users_own_requests() {
    let sale = Sale::start().await;
    sale.create_with("coffee", json!({"total": 1, "waitlist": true, "reserve_seconds": 900})).await;
    let join = async |user: &str| sale.admin(Method::POST, LINE, Some(json!({"user": user}))).await;
    join("bob").await.assert_problem(409, "not-sold-out");
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    // Every character of a user's id may be in the address.
    let (user, path) = ("b/ö %b?", format!("{LINE}/b%2F%C3%B6%20%25b%3F"));
    sale.admin(Method::GET, &path, None).await.assert_problem(404, "not-waiting");
    let joined = join(user).await;
    assert_eq!((joined.status, &joined.body["place"]), (201, &json!(1)), "{}", joined.text);
    assert_eq!(join(user).await.status, 200);
    assert_eq!(join("carol").await.body["place"], 2);
    let shown = sale.admin(Method::GET, &path, None).await;
    assert_eq!(
        (shown.status, &shown.body["order"], &shown.body["place"]),
        (200, &joined.body["order"], &json!(1))
    );
    assert_eq!(ask(&sale, Method::GET, "carol").await.body["place"], 2);
    for _ in 0..2 {
        assert_eq!(sale.admin(Method::DELETE, &path, None).await.status, 204);
    }
    assert_eq!(places(&line(&sale, "").await), [(1, "carol")]);

    let restock = sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", Some(json!({"total": 2}))).await;
    assert_eq!(restock.status, 200, "{}", restock.text);
    let carol = format!("{LINE}/carol");
    let served = until("carol has a unit", async || {
        let answer = sale.admin(Method::GET, &carol, None).await;
        (answer.body["status"] != "waiting").then_some(answer)
    })
    .await;
    assert_eq!((served.status, &served.body["user"]), (200, &json!("carol")), "{}", served.text);
    sale.admin(Method::DELETE, &carol, None).await.assert_problem(409, "already-served");
    for (method, path) in [(Method::POST, LINE), (Method::GET, &carol), (Method::DELETE, &carol)] {
        let authorization = format!("Bearer {}", sale.token("carol"));
        let body = (method == Method::POST).then(|| json!({"user": "carol"}));
        let answer = sale.send(method, path, &[("authorization", &authorization)], body).await;
        answer.assert_problem(401, "unauthorized");
    }
}
