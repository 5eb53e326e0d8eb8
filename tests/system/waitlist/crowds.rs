//! Many users and several processes at once: the order of the line decides, and each unit goes to one user.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use support::{Answer, Sale, until};

use super::{LINE, ask, assert_place, buy, create, place, revoke};

const ORDERS: &str = "seckill:{0}:orders";

/// Joins through the server at `url`.
async fn join_at(sale: &Sale, url: &str, user: &str) -> Answer {
    let token = sale.token(user);
    until("the request to join is answered", async || {
        let request = sale.client.post(format!("{url}/v1/coupons/coffee/waitlist")).bearer_auth(&token);
        let answer = request.header("content-length", "0").send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        let answer = Answer { status, headers, text, body };
        if answer.status == 503 {
            answer.assert_problem(503, "unavailable");
            return None;
        }
        assert!([200, 201].contains(&answer.status), "{}", answer.text);
        Some(answer)
    })
    .await
}

/// User and order of the entries of the order stream, oldest first.
fn accepted(sale: &Sale) -> Vec<(String, String)> {
    let entries = sale.redis_cli(&["XRANGE", ORDERS, "-", "+"]);
    let lines: Vec<&str> = entries.lines().collect();
    let value = |from: &[&str], name: &str| -> String {
        from[from.iter().position(|line| *line == name).unwrap() + 1].to_owned()
    };
    let starts: Vec<usize> = (0..lines.len()).filter(|&n| lines[n] == "order").collect();
    starts.iter().map(|&n| (value(&lines[n..], "user"), lines[n + 1].to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_units_that_come_back_while_two_processes_take_joins_go_to_the_first_thirty_in_line() {
    let sale = Sale::start().await;
    create(&sale, 30).await;
    let holders: Vec<String> = (0..30).map(|number| format!("holder-{number}")).collect();
    let held = join_all(holders.iter().map(|user| buy(&sale, user))).await;
    let second = sale.spawn_by_address("serve", &[], &[]);
    let urls = [sale.url.clone(), second.url_when_up().await];
    let users: Vec<String> = (0..100).map(|number| format!("user-{number}")).collect();
    // The order of the first forty is known; the others join while units come back.
    let mut told = Vec::new();
    for ((user, url), number) in users[..40].iter().zip(urls.iter().cycle()).zip(1..) {
        let answer = join_at(&sale, url, user).await;
        assert_place(&answer, 201, number, number);
        told.push(answer.body["order"].as_str().unwrap().to_owned());
    }
    let joins = async {
        let late = users[40..].iter().zip(urls.iter().cycle());
        let late = late.map(|(user, url)| join_at(&sale, url, user));
        for answer in join_all(late).await {
            told.push(answer.body["order"].as_str().unwrap().to_owned());
        }
    };
    let units = join_all(held.iter().map(|order| revoke(&sale, order)));
    let claims = async {
        for number in 0..30 {
            let claim = sale.claim("coffee", &format!("refresher-{number}")).await;
            claim.assert_problem(409, "sold-out");
        }
    };
    tokio::join!(joins, units, claims);
    sale.assert_in_agreement("coffee").await;
    let expected: Vec<(String, String)> = users.iter().cloned().zip(told.iter().cloned()).take(30).collect();
    assert_eq!(accepted(&sale)[30..], expected, "the first thirty in line, in its order, with their orders");
    assert_eq!(sale.redis_stock("coffee"), 0);
    let live = "select user_id, id from orders where status = 'confirmed' order by id";
    let rows: Vec<String> = expected.iter().map(|(user, order)| format!("{user}|{order}")).collect();
    assert_eq!(sale.psql(live), rows.join("\n"));
    assert_place(&place(&sale, "user-30").await, 200, 1, 70);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_users_join_at_once_and_a_restock_serves_the_first_seven_hundred_of_them() {
    const USERS: usize = 2_000;
    let sale = Sale::start().await;
    create(&sale, 1).await;
    buy(&sale, "alice").await;
    let users: Vec<String> = (0..USERS).map(|number| format!("user-{number}")).collect();
    let told = join_all(users.iter().map(|user| join_at(&sale, &sale.url, user))).await;
    let line: Vec<String> = sale.redis_cli(&["ZRANGE", LINE, "0", "-1"]).lines().map(str::to_owned).collect();
    assert_eq!(line.len(), USERS);
    let mut places: Vec<(i64, String, String)> = users
        .iter()
        .zip(&told)
        .map(|(user, answer)| {
            let order = answer.body["order"].as_str().unwrap().to_owned();
            (answer.body["place"].as_i64().unwrap(), user.clone(), order)
        })
        .collect();
    places.sort();
    let expected: Vec<String> = places.iter().map(|(_, user, _)| user.clone()).collect();
    assert_eq!(line, expected, "each user has the place of the answer");
    assert_eq!(sale.psql_number("select count(*) from waitlist"), 2_000, "one row for each place");

    let more = Some(json!({"total": 701}));
    assert_eq!(sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", more).await.status, 200);
    until("seven hundred users are served", async || {
        (sale.redis_cli(&["ZCARD", LINE]) == "1300").then_some(())
    })
    .await;
    sale.assert_in_agreement("coffee").await;
    let served: Vec<(String, String)> =
        places[..700].iter().map(|(_, user, order)| (user.clone(), order.clone())).collect();
    let accepted = accepted(&sale);
    assert_eq!(accepted[accepted.len() - 700..], served, "in the order of the line");
    sale.claim("coffee", "late").await.assert_problem(409, "sold-out");
    assert_place(&ask(&sale, Method::GET, &places[700].1).await, 200, 1, 1_300);
}
