//! Durability of coupons: a claim of a coupon with durability `postgres` is answered after the commit of its order.

use reqwest::Method;
use serde_json::{Value, json};

use support::external_store::{ExternalStore, folder};
use support::{Answer, Sale, until};

use crate::counterexamples::on_own_stores;

/// Creates a coupon of ten units with these additional fields; returns its durability.
async fn create(sale: &Sale, id: &str, more: Value) -> String {
    let mut body = json!({"id": id, "total": 10});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = sale.admin(Method::POST, "/v1/admin/coupons", Some(body)).await;
    assert!([200, 201].contains(&answer.status), "{}", answer.text);
    answer.body["durability"].as_str().unwrap().to_owned()
}

fn order(answer: &Answer) -> String {
    answer.body["order"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
}

#[tokio::test]
async fn a_claim_of_a_postgres_coupon_is_answered_with_its_recorded_order() {
    let sale = Sale::start().await;
    assert_eq!(create(&sale, "coffee", json!({"durability": "postgres"})).await, "postgres");
    let claimed = sale.claim("coffee", "alice").await;
    assert_eq!((claimed.status, &claimed.body["status"]), (201, &json!("confirmed")), "{}", claimed.text);
    let row = sale.psql(&format!("select user_id from orders where id = '{}'", order(&claimed)));
    assert_eq!(row, "alice");
    let repeat = sale.claim("coffee", "alice").await;
    assert_eq!((repeat.status, order(&repeat)), (200, order(&claimed)), "{}", repeat.text);
    let on_behalf = Some(json!({"user": "bob"}));
    let on_behalf = sale.admin(Method::POST, "/v1/admin/coupons/coffee/claims", on_behalf).await;
    assert_eq!(on_behalf.status, 201, "{}", on_behalf.text);
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_claim_that_is_not_recorded_in_time_is_503_with_its_order_and_costs_one_unit_however_often_it_is_sent()
 {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    create(&sale, "coffee", json!({"durability": "postgres"})).await;
    create(&sale, "tea", json!({"durability": "redis"})).await;
    assert_eq!(sale.claim("tea", "alice").await.status, 202);
    let patient = sale.claim_with("coffee", "patient", &[("prefer", "wait=10")]);
    let others = async {
        until("the patient user holds a unit", async || (sale.redis_stock("coffee") == 9).then_some(()))
            .await;
        let first = sale.claim("coffee", "alice").await;
        first.assert_problem(503, "not-recorded-yet");
        let (claimed, retry_after) = (order(&first), first.header("retry-after"));
        assert!(!retry_after.is_empty(), "{:?}", first.headers);
        assert_eq!(first.header("location"), format!("/v1/coupons/coffee/claims/{claimed}"));
        let status = sale.get_as(&sale.token("alice"), first.header("location")).await;
        assert_eq!((status.status, &status.body["status"]), (200, &json!("accepted")), "{}", status.text);
        let repeat = sale.claim("coffee", "alice").await;
        repeat.assert_problem(503, "not-recorded-yet");
        assert_eq!(order(&repeat), claimed);
        // Alice's two claims have each waited for `COMMIT_WAIT`; the claim of the patient user still waits.
        (sale.spawn("worker", &[("SECKILL_WORKERS", "1")]), claimed)
    };
    let (patient, (_worker, claimed)) = tokio::join!(patient, others);
    assert_eq!(patient.status, 201, "{}", patient.text);
    let repeat = until("the repeat is answered", async || {
        let repeat = sale.claim("coffee", "alice").await;
        (repeat.status == 200).then_some(repeat)
    })
    .await;
    assert_eq!(order(&repeat), claimed);
    assert_eq!(sale.redis_stock("coffee"), 8);
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn another_process_knows_the_durability_of_a_coupon_that_was_created_a_moment_ago() {
    let sale = Sale::start().await;
    let other = sale.spawn_by_address("serve", &[], &[]);
    other.until_logged("fence up").await;
    let url =
        other.log().lines().find_map(|line| line.strip_prefix("listening on ").map(str::to_owned)).unwrap();
    // Often enough that some coupons are created just after the other process has read its catalogue.
    for number in 0..20 {
        let (durability, status) = if number % 2 == 0 { ("postgres", 201) } else { ("redis", 202) };
        let id = format!("{durability}-{}", sale.psql("select count(*) from coupons"));
        create(&sale, &id, json!({"durability": durability})).await;
        let claim =
            sale.client.post(format!("{url}/v1/coupons/{id}/claims")).bearer_auth(sale.token("alice"));
        assert_eq!(claim.send().await.unwrap().status().as_u16(), status, "{id}");
    }
}

#[tokio::test]
async fn new_coupons_get_durability_postgres_if_redis_is_not_known_to_write_each_claim_to_disk() {
    let sale = Sale::start().await;
    assert_eq!(create(&sale, "always", json!({})).await, "redis");
    let settings: [(&[&str], &[&str]); 3] = [
        (&["CONFIG", "SET", "appendfsync", "everysec"], &["CONFIG", "SET", "appendfsync", "always"]),
        (&["CONFIG", "SET", "appendonly", "no"], &["CONFIG", "SET", "appendonly", "yes"]),
        (&["ACL", "SETUSER", "default", "-config"], &["ACL", "SETUSER", "default", "+config"]),
    ];
    for (number, (weaker, restored)) in settings.into_iter().enumerate() {
        sale.redis_cli(weaker);
        assert_eq!(create(&sale, &format!("unnamed-{number}"), json!({})).await, "postgres", "{weaker:?}");
        let named = create(&sale, &format!("named-{number}"), json!({"durability": "redis"})).await;
        assert_eq!(named, "redis", "{weaker:?}");
        // The same request again gets the existing coupon, although the default has changed.
        assert_eq!(create(&sale, "always", json!({})).await, "redis");
        let doctor = sale.command().args(["doctor", "--json"]).output().unwrap();
        let findings = String::from_utf8(doctor.stdout).unwrap();
        assert!(findings.contains("new coupons get durability postgres"), "{findings}");
        sale.redis_cli(restored);
        assert_eq!(create(&sale, &format!("unnamed-{number}"), json!({})).await, "postgres", "{weaker:?}");
    }
}

#[tokio::test]
async fn a_killed_redis_without_fsync_loses_only_claims_with_durability_redis() {
    let postgres = ExternalStore::postgres(&[]).await;
    let redis = ExternalStore::redis(&["--save", ""], folder());
    let sale = on_own_stores(&redis.url("redis"), &postgres).await;
    assert_eq!(create(&sale, "coffee", json!({})).await, "postgres");
    assert_eq!(create(&sale, "tea", json!({"durability": "redis"})).await, "redis");
    let mut recorded = Vec::new();
    for number in 0..5 {
        let user = format!("user-{number}");
        let claim = sale.claim("coffee", &user).await;
        assert_eq!(claim.status, 201, "{}", claim.text);
        recorded.push((user, order(&claim)));
    }
    // From now on Postgres refuses to insert orders.
    let recording =
        |what: &str| postgres.psql(&format!("alter table seckill.orders {what} trigger no_orders"));
    postgres
        .psql(
            "create function seckill.refuse() returns trigger language plpgsql as
                $$ begin raise exception 'not now' using errcode = '57P03'; end $$;
             create trigger no_orders before insert on seckill.orders execute function seckill.refuse()",
        )
        .unwrap();
    let of_tea = sale.claim("tea", "alice").await;
    assert_eq!(of_tea.status, 202, "{}", of_tea.text);
    sale.claim("coffee", "late").await.assert_problem(503, "not-recorded-yet");
    let dir = redis.kill_9();
    recording("disable").unwrap();
    let _redis = ExternalStore::redis(&["--save", ""], dir);
    until("Redis is rebuilt", async || {
        let claim = sale.claim("tea", "bob").await;
        (claim.status == 202).then_some(())
    })
    .await;

    for (user, order_id) in &recorded {
        let repeat = sale.claim("coffee", user).await;
        assert_eq!((repeat.status, &order(&repeat)), (200, order_id), "{}", repeat.text);
    }
    // A crash in the window of durability `redis`: the answered claim is lost, and its unit is free again.
    let again = sale.claim("tea", "alice").await;
    assert_eq!(again.status, 202, "{}", again.text);
    assert_ne!(order(&again), order(&of_tea));
    for coupon in ["coffee", "tea"] {
        sale.assert_in_agreement(coupon).await;
    }
    assert_eq!(postgres.psql("select count(*) from seckill.orders where coupon_id = 'coffee'").unwrap(), "5");
}

#[tokio::test]
async fn without_a_replica_a_claim_that_needs_one_is_answered_once_it_is_recorded() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0"), ("SECKILL_ANSWER_AFTER", "replica")]).await;
    // The setting is the default, and the least of a coupon that asks for less.
    assert_eq!(create(&sale, "coffee", json!({})).await, "replica");
    assert_eq!(create(&sale, "tea", json!({"durability": "redis"})).await, "redis");
    assert_eq!(create(&sale, "milk", json!({"durability": "postgres"})).await, "postgres");
    let claims =
        tokio::join!(sale.claim("coffee", "alice"), sale.claim("tea", "alice"), sale.claim("milk", "alice"));
    // One of the first two may have waited behind the other.
    for claim in [&claims.0, &claims.1] {
        assert_eq!(claim.status, 503, "{}", claim.text);
        assert!(["not-replicated-yet", "unavailable"].contains(&claim.code()), "{}", claim.text);
    }
    claims.2.assert_problem(503, "not-recorded-yet");
    let doctor = sale.command().args(["doctor", "--json"]).output().unwrap();
    let findings: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let found = findings.as_array().unwrap().iter().find(|finding| finding["check"] == "redis-answers");
    let found = found.unwrap_or_else(|| panic!("{findings}"));
    assert_eq!(found["level"], "red", "{found}");
    assert!(found["what"].as_str().unwrap().contains("no replica"), "{found}");
    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    for coupon in ["coffee", "tea", "milk"] {
        let repeat = until("the claim is answered", async || {
            let repeat = sale.claim(coupon, "alice").await;
            (repeat.status != 503).then_some(repeat)
        })
        .await;
        assert_eq!((repeat.status, &repeat.body["status"]), (200, &json!("confirmed")), "{}", repeat.text);
    }
    let patient = sale.claim_with("coffee", "bob", &[("prefer", "wait=10")]).await;
    assert_eq!((patient.status, &patient.body["status"]), (201, &json!("confirmed")), "{}", patient.text);
    for coupon in ["coffee", "tea", "milk"] {
        sale.assert_in_agreement(coupon).await;
    }
}
