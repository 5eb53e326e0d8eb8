//! One order is followed through the log by its id.

use reqwest::Method;
use serde_json::{Value, json};

use support::{Sale, until};

const STEPS: &str = "info,seckill::order=debug";

/// The lines with this id.
fn grep<'a>(log: &'a str, id: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(id)).collect()
}

/// Asserts that the order's lines have these texts, in this order; other lines may be between them. Steps of different
/// tasks may be logged in another order than they were made, unless one of them waits for the other.
#[track_caller]
fn assert_steps(lines: &[&str], steps: &[&str]) {
    let mut rest = lines.iter();
    for step in steps {
        assert!(rest.any(|line| line.contains(step)), "no {step:?} in its place:\n{}", lines.join("\n"));
    }
}

#[track_caller]
fn assert_recorded(lines: &[&str]) {
    assert_steps(lines, &["accepted"]);
    assert_steps(lines, &["recorded", "acknowledged"]);
}

/// Sells one unit that is confirmed, and accepts one claim that cannot be recorded. Returns both orders.
async fn sell(sale: &Sale) -> [String; 2] {
    sale.create_with("coffee", json!({"total": 5, "reserve_seconds": 900})).await;
    let answer = sale.claim_with("coffee", "alice", &[("prefer", "wait=10")]).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let sold = answer.body["order"].as_str().unwrap().to_owned();
    let confirmed = sale.admin(Method::POST, &format!("/v1/orders/{sold}/confirm"), None).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text);
    // Postgres has an order of the user that Redis does not know: the next claim is accepted and conflicts with it.
    sale.psql(
        "insert into orders (id, coupon_id, user_id, status, claimed_at)
         values (gen_random_uuid(), 'coffee', 'bob', 'confirmed', now())",
    );
    let answer = sale.claim("coffee", "bob").await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let rejected = answer.body["order"].as_str().unwrap().to_owned();
    until("its unit is back", async || {
        (sale.psql_number("select count(*) from outbox") == 0
            && sale.psql_number("select count(*) from orders where status = 'rejected'") == 1)
            .then_some(())
    })
    .await;
    [sold, rejected]
}

#[tokio::test]
async fn one_grep_shows_an_order_from_the_claim_to_its_row_and_its_end() {
    let mut sale = Sale::start_with(&[("SECKILL_LOG", STEPS)]).await;
    let [sold, rejected] = sell(&sale).await;
    // A batch of several orders has a line for each of them, and no repeat is left out.
    let crowd: Vec<String> = (0..40).map(|number| format!("user-{number}")).collect();
    sale.create("tea", 40).await;
    let claims = crowd.iter().map(|user| sale.claim("tea", user));
    let claims: Vec<String> = futures_util::future::join_all(claims)
        .await
        .into_iter()
        .map(|answer| answer.body["order"].as_str().unwrap().to_owned())
        .collect();
    sale.until_quiet().await;
    let letter = sale.psql("select id from dead_letters");
    sale.psql("delete from orders where user_id = 'bob' and status = 'confirmed'");
    let replayed = sale.admin(Method::POST, &format!("/v1/admin/dead/{letter}/replay"), None).await;
    assert_eq!(replayed.status, 202, "{}", replayed.text);
    let replaced_by = replayed.body["order"].as_str().unwrap().to_owned();
    sale.until_quiet().await;
    let log = sale.stop_and_read();

    let lines = grep(&log, &sold);
    assert_steps(&lines, &["accepted", "confirmed"]);
    assert_steps(&lines, &["recorded", "confirmed"]);
    assert_steps(&lines, &["recorded", "acknowledged"]);
    assert!(lines.iter().all(|line| line.contains(&format!("order={sold}"))), "{}", lines.join("\n"));
    let lines = grep(&log, &rejected);
    for step in ["accepted", "rejected", "unit returned"] {
        assert_steps(&lines, &[step, "replayed"]);
    }
    assert_recorded(&grep(&log, &replaced_by));
    assert_eq!(claims.len(), 40);
    for order in &claims {
        assert_recorded(&grep(&log, order));
    }
    println!("{}\n\n{}", grep(&log, &sold).join("\n"), grep(&log, &rejected).join("\n"));
}

#[tokio::test]
async fn a_repeat_a_place_in_line_and_each_end_of_an_order_have_a_line() {
    let mut sale = Sale::start_with(&[("SECKILL_LOG", STEPS)]).await;
    sale.create_with("coffee", json!({"total": 2, "reserve_seconds": 900, "waitlist": true})).await;
    let mut orders = Vec::new();
    for user in ["alice", "bob"] {
        let answer = sale.claim_with("coffee", user, &[("prefer", "wait=10")]).await;
        orders.push(answer.body["order"].as_str().unwrap().to_owned());
    }
    assert_eq!(sale.claim("coffee", "alice").await.status, 200);
    let [carol, dave, erin] = ["carol", "dave", "erin"].map(|user| format!("Bearer {}", sale.token(user)));
    let line = async |method, authorization: &str| {
        sale.send(method, "/v1/coupons/coffee/waitlist", &[("authorization", authorization)], None).await
    };
    let joined = line(Method::POST, &carol).await;
    orders.push(joined.body["order"].as_str().unwrap().to_owned());
    // Alice's time to pay is over: her unit goes to carol.
    sale.psql(&format!("update orders set reserved_until = now() where id = '{}'", orders[0]));
    until("carol's order is recorded", async || {
        (sale.psql_number(&format!("select count(*) from orders where id = '{}'", orders[2])) == 1)
            .then_some(())
    })
    .await;
    let left = line(Method::POST, &dave).await;
    orders.push(left.body["order"].as_str().unwrap().to_owned());
    assert_eq!(line(Method::DELETE, &dave).await.status, 204);
    let restocked = line(Method::POST, &erin).await;
    orders.push(restocked.body["order"].as_str().unwrap().to_owned());
    let restock = Some(json!({"total": 3}));
    assert_eq!(sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", restock).await.status, 200);
    until("erin's order is recorded", async || {
        (sale.psql_number(&format!("select count(*) from orders where id = '{}'", orders[4])) == 1)
            .then_some(())
    })
    .await;
    let (confirm, revoke) =
        (format!("/v1/orders/{}/confirm", orders[1]), format!("/v1/admin/orders/{}/revoke", orders[1]));
    let reason = json!({"reason": "paid with a stolen card", "return_unit": true});
    for (path, body) in [(confirm, None), (revoke, Some(reason))] {
        let answer = sale.admin(Method::POST, &path, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    sale.until_quiet().await;
    let log = sale.stop_and_read();
    assert_steps(&grep(&log, &orders[0]), &["claimed again"]);
    assert_steps(&grep(&log, &orders[0]), &["expired", "unit returned"]);
    assert_steps(&grep(&log, &orders[1]), &["confirmed", "revoked", "unit returned"]);
    assert_steps(&grep(&log, &orders[2]), &["has a place in the waiting list", "recorded", "acknowledged"]);
    assert_steps(
        &grep(&log, &orders[2]),
        &["has a place in the waiting list", "served from the waiting list"],
    );
}

#[tokio::test]
async fn the_steps_of_an_order_are_fields_in_json() {
    let mut sale = Sale::start_with(&[("SECKILL_LOG", STEPS), ("SECKILL_LOG_FORMAT", "json")]).await;
    let [sold, rejected] = sell(&sale).await;
    sale.until_quiet().await;
    let log = sale.stop_and_read();
    let steps_of = |order: &str| -> Vec<String> {
        let lines = grep(&log, order).into_iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of_order = lines.filter(|line| line["target"] == "seckill::order");
        of_order
            .map(|line| {
                assert_eq!(line["fields"]["order"], order, "{line}");
                assert_eq!(line["level"], "DEBUG", "{line}");
                line["fields"]["message"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    let mut steps = steps_of(&sold);
    steps.sort();
    assert_eq!(steps, ["accepted", "acknowledged", "confirmed", "recorded"]);
    let mut steps = steps_of(&rejected);
    steps.sort();
    assert!(steps[2].starts_with("rejected: the user has another live order"), "{steps:?}");
    steps.remove(2);
    assert_eq!(steps, ["accepted", "acknowledged", "unit returned"]);
}

#[tokio::test]
async fn without_its_filter_the_log_has_no_line_for_each_order() {
    let mut sale = Sale::start().await;
    let [sold, rejected] = sell(&sale).await;
    sale.until_quiet().await;
    let log = sale.stop_and_read();
    assert_eq!(grep(&log, &sold), [] as [&str; 0]);
    assert_eq!(grep(&log, &rejected).len(), 1, "the warning about its rejection");
}
