//! Definitions that are edited by hand in either store: no answer says that a definition is in force when it is not,
//! and the comparison finds each field and puts Postgres's definition in force while claims continue.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use support::{Answer, Sale, until};

const HASH: &str = "seckill:{0}:coupon:coffee";
const COFFEE: &str = "/v1/admin/coupons/coffee";

/// Each makes one field of the hash differ from Postgres and keeps `stock + claims = total`.
const EDITS_OF_REDIS: [(&str, &[&str]); 23] = [
    ("total", &["HSET", HASH, "total", "110", "stock", "109"]),
    ("total", &["HSET", HASH, "total", "5", "stock", "4"]),
    ("version", &["HSET", HASH, "version", "0"]),
    ("version", &["HSET", HASH, "version", "-7"]),
    ("version", &["HSET", HASH, "version", "x"]),
    ("version", &["HDEL", HASH, "version"]),
    ("title", &["HSET", HASH, "title", "Tea"]),
    ("title", &["HDEL", HASH, "title"]),
    ("starts_at_ms", &["HSET", HASH, "starts_at_ms", "1"]),
    ("starts_at_ms", &["HDEL", HASH, "starts_at_ms"]),
    ("ends_at_ms", &["HSET", HASH, "ends_at_ms", "1"]),
    ("ends_at_ms", &["HSET", HASH, "ends_at_ms", ""]),
    ("paused", &["HSET", HASH, "paused", "1"]),
    ("paused", &["HDEL", HASH, "paused"]),
    ("per_user_limit", &["HSET", HASH, "per_user_limit", "2"]),
    ("reserve_seconds", &["HSET", HASH, "reserve_seconds", "5"]),
    ("reserve_seconds", &["HDEL", HASH, "reserve_seconds"]),
    ("durability", &["HSET", HASH, "durability", "postgres"]),
    ("durability", &["HDEL", HASH, "durability"]),
    ("waitlist", &["HSET", HASH, "waitlist", "0"]),
    ("waitlist", &["HDEL", HASH, "waitlist"]),
    ("unlisted", &["HSET", HASH, "unlisted", "0"]),
    ("unlisted", &["HSET", HASH, "unlisted", "yes"]),
];

/// The same for Postgres's row, without a new version.
const EDITS_OF_POSTGRES: [(&str, &str); 12] = [
    ("total", "total = 12, stock = stock + 2"),
    ("title", "title = 'Milk'"),
    ("starts_at_ms", "starts_at = '2001-01-01T00:00:00.1234Z'"),
    ("starts_at_ms", "starts_at = null"),
    ("ends_at_ms", "ends_at = 'infinity'"),
    ("paused", "paused = true"),
    ("reserve_seconds", "reserve_seconds = 77"),
    ("durability", "durability = 'postgres'"),
    ("waitlist", "waitlist = false"),
    ("unlisted", "unlisted = false"),
    ("published_version", "published_version = version + 3"),
    ("published_version", "published_version = 9223372036854775807"),
];

async fn sale() -> Sale {
    let sale = Sale::start().await;
    let coffee = json!({
        "id": "coffee", "total": 10, "title": "Coffee", "starts_at": "2000-01-01T00:00:00Z",
        "ends_at": "2999-01-01T00:00:00.5Z", "reserve_seconds": 900, "waitlist": true, "unlisted": true
    });
    let made = sale.admin(Method::POST, "/v1/admin/coupons", Some(coffee)).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    sale.until_quiet().await;
    sale
}

async fn reconcile(sale: &Sale, fix: bool) -> Value {
    let answer = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"fix": fix}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body
}

async fn patch(sale: &Sale, body: Value) -> Answer {
    sale.admin(Method::PATCH, COFFEE, Some(body)).await
}

/// Edits the row by hand, without a new version.
fn edit_row(sale: &Sale, what: &str) {
    sale.psql(&format!("update coupons set {what} where id = 'coffee'"));
}

/// Checks that the hash equals Postgres's row in every field.
fn assert_in_force(sale: &Sale) {
    let of_postgres = sale.psql(
        "select total, version, title, coalesce(trunc(extract(epoch from starts_at) * 1000)::bigint, 0),
            case when ends_at = 'infinity' then 253402300799000
                 else coalesce(trunc(extract(epoch from ends_at) * 1000)::bigint, 0) end,
            paused::int, per_user_limit, coalesce(reserve_seconds, 0), durability, waitlist::int, unlisted::int, stock from coupons",
    );
    let fields = [
        "total",
        "version",
        "title",
        "starts_at_ms",
        "ends_at_ms",
        "paused",
        "per_user_limit",
        "reserve_seconds",
        "durability",
        "waitlist",
        "unlisted",
        "stock",
    ];
    let of_redis = sale.redis_cli(&[&["HMGET", HASH], &fields[..]].concat());
    assert_eq!(of_redis.lines().collect::<Vec<_>>(), of_postgres.split('|').collect::<Vec<_>>());
    assert_eq!(sale.psql("select published_version - version from coupons"), "0");
}

#[tokio::test]
async fn every_field_edited_by_hand_in_redis_is_named_and_repaired_while_claims_go_on() {
    let sale = sale().await;
    let (epoch, mut seen) = (sale.epoch(), 0);
    for (field, edit) in EDITS_OF_REDIS {
        sale.redis_cli(edit);
        // The comparison that runs every ten seconds may have repaired the field already.
        let found = reconcile(&sale, false).await;
        if found["definition_drift"] == 1 {
            seen += 1;
            let named = &found["named"][0];
            assert_eq!(
                (&named["kind"], &named["coupon"]),
                (&json!("definition"), &json!("coffee")),
                "{found}"
            );
            assert_eq!(named["fields"][0]["field"], field, "{found}");
            assert_eq!(found["fixed"], 0, "{found}");
        }
        let fixed = reconcile(&sale, true).await;
        assert_eq!(fixed["definition_drift"], fixed["fixed"], "{edit:?}: {fixed}");
        assert_eq!(
            (&fixed["fenced"], &fixed["stock_drift"]),
            (&json!(false), &json!(0)),
            "{edit:?}: {fixed}"
        );
        assert_in_force(&sale);
        let again = reconcile(&sale, true).await;
        assert_eq!(
            (&again["definition_drift"], &again["named"]),
            (&json!(0), &json!([])),
            "{edit:?}: {again}"
        );
    }
    assert!(
        seen > EDITS_OF_REDIS.len() / 2,
        "{seen} were found before the periodic comparison repaired them"
    );
    assert_eq!(sale.epoch(), epoch, "claims went on");
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn every_column_edited_by_hand_at_the_same_version_is_put_in_force_while_claims_go_on() {
    let sale = sale().await;
    let (epoch, mut seen) = (sale.epoch(), 0);
    for (field, edit) in EDITS_OF_POSTGRES {
        edit_row(&sale, edit);
        let found = reconcile(&sale, false).await;
        if found["definition_drift"] == 1 {
            seen += 1;
            assert_eq!(found["named"][0]["fields"][0]["field"], field, "{found}");
        }
        let fixed = reconcile(&sale, true).await;
        assert_eq!(fixed["definition_drift"], fixed["fixed"], "{edit}: {fixed}");
        assert_in_force(&sale);
    }
    assert!(
        seen > EDITS_OF_POSTGRES.len() / 2,
        "{seen} were found before the periodic comparison repaired them"
    );
    assert_eq!(sale.epoch(), epoch, "claims went on");
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn an_answer_of_200_means_that_every_field_was_read_back_from_redis() {
    let sale = sale().await;
    let identical = json!({
        "id": "coffee", "total": 10, "title": "Coffee", "starts_at": "2000-01-01T00:00:00Z",
        "ends_at": "2999-01-01T00:00:00.5Z", "reserve_seconds": 900, "waitlist": true, "unlisted": true
    });
    for (field, edit) in EDITS_OF_REDIS {
        sale.redis_cli(edit);
        let shown = sale.admin(Method::GET, COFFEE, None).await;
        assert_eq!(shown.status, 200, "{}", shown.text);
        if let Some(named) = shown.body["not_in_force"].as_array() {
            assert_eq!(named[0]["field"], field, "{edit:?}: {}", shown.text);
        }
        let answers = [
            patch(&sale, json!({})).await,
            patch(&sale, json!({"paused": false})).await,
            sale.admin(Method::POST, "/v1/admin/coupons", Some(identical.clone())).await,
            sale.admin(Method::GET, COFFEE, None).await,
        ];
        for answer in answers {
            assert_eq!(
                (answer.status, &answer.body["state"]),
                (200, &json!("open")),
                "{edit:?}: {}",
                answer.text
            );
            assert!(answer.body["not_in_force"].is_null(), "{edit:?}: {}", answer.text);
        }
        assert_in_force(&sale);
    }
    // Pauses by hand, in Postgres only: a repeated pause then also pauses the coupon in Redis.
    edit_row(&sale, "paused = true");
    let paused = patch(&sale, json!({"paused": true})).await;
    assert_eq!((paused.status, &paused.body["state"]), (200, &json!("paused")), "{}", paused.text);
    sale.claim("coffee", "bob").await.assert_problem(409, "paused");
    edit_row(&sale, "paused = false");
    let resumed = sale.command().args(["coupon", "resume", "coffee"]).output().unwrap();
    let stdout = String::from_utf8(resumed.stdout).unwrap();
    assert!(resumed.status.success() && stdout.starts_with("coffee resumed: open"), "{stdout}");
    assert_in_force(&sale);
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn units_sold_over_a_total_edited_in_redis_end_as_rejected_and_no_more_are_sold() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 10).await;
    sale.redis_cli(&["HSET", HASH, "total", "110", "stock", "110"]);
    let mut accepted = 0;
    for user in 0..10 {
        accepted += usize::from(sale.claim("coffee", &format!("user-{user}")).await.status == 202);
    }
    let fixed = reconcile(&sale, true).await;
    assert_eq!(fixed["definition_drift"], fixed["fixed"], "{fixed}");
    assert_eq!(accepted, 10);
    sale.claim("coffee", "late").await.assert_problem(409, "sold-out");
    assert_in_force_once_recorded(&sale).await;
}

async fn assert_in_force_once_recorded(sale: &Sale) {
    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    sale.assert_in_agreement("coffee").await;
    assert_in_force(sale);
    assert_eq!(sale.psql("select status, count(*) from orders group by status"), "confirmed|10");
}

#[tokio::test]
async fn an_edit_by_hand_is_put_in_force_without_a_request() {
    let sale = sale().await;
    sale.create("tea", 5).await;
    sale.redis_cli(&["HSET", HASH, "paused", "1"]);
    edit_row(&sale, "title = 'Milk'");
    until("the hash is as Postgres has it", async || {
        let seen = sale.redis_cli(&["HMGET", HASH, "paused", "title"]);
        (seen == "0\nMilk").then_some(())
    })
    .await;
    until("the difference is counted", async || {
        let metrics = sale.get("/metrics").await.text;
        (!metrics.contains("seckill_reconcile_drift_total{kind=\"definition\"} 0")).then_some(())
    })
    .await;
    // The program notices a coupon that is deleted from Redis, or that is no longer a hash, without any claim.
    for damage in [&["DEL", "seckill:{0}:coupon:tea"][..], &["SET", "seckill:{0}:coupon:tea", "x"]] {
        let epoch = sale.epoch();
        sale.redis_cli(damage);
        until("the coupon is back", async || {
            (sale.epoch() != epoch && sale.get("/v1/coupons/tea").await.status == 200).then_some(())
        })
        .await;
    }
    sale.assert_in_agreement("tea").await;
}

#[tokio::test]
async fn a_total_edited_by_hand_changes_the_stock_and_every_unit_of_it_can_be_sold() {
    let sale = sale().await;
    for (edit, total) in [("total = 20", 20), ("total = 30, stock = 30", 30), ("total = 3, stock = 0", 3)] {
        sale.psql(&format!("update coupons set {edit}"));
        let answer = patch(&sale, json!({"total": total})).await;
        let stock = json!(total - sale.psql_number("select count(*) from orders"));
        assert_eq!((answer.status, &answer.body["stock"]), (200, &stock), "{edit}: {}", answer.text);
        assert_in_force(&sale);
    }
    for user in ["bob", "carol"] {
        assert_eq!(sale.claim_with("coffee", user, &[("prefer", "wait=10")]).await.status, 201);
    }
    sale.claim("coffee", "dave").await.assert_problem(409, "sold-out");
    sale.assert_in_agreement("coffee").await;
    // A title that the API would refuse does not prevent other edits.
    edit_row(&sale, "title = E'a\\nb'");
    let paused = patch(&sale, json!({"paused": true})).await;
    assert_eq!((paused.status, &paused.body["title"]), (200, &json!("a\nb")), "{}", paused.text);
    assert_eq!(patch(&sale, json!({"paused": false, "title": "Coffee"})).await.status, 200);
    // A time outside the program's range becomes the nearest time in it.
    sale.psql("update coupons set starts_at = '-infinity', ends_at = 'infinity', version = version + 1");
    let shown = patch(&sale, json!({})).await;
    assert_eq!((shown.status, &shown.body["state"]), (200, &json!("sold_out")), "{}", shown.text);
    assert_eq!(shown.body["ends_at"], "9999-12-31T23:59:59Z");
}

#[tokio::test]
async fn a_version_that_only_redis_has_counts_as_a_postgres_loss_and_waits_for_the_operator() {
    for action in ["edit", "reconcile"] {
        let sale = sale().await;
        sale.redis_cli(&["HSET", HASH, "version", "5", "paused", "1"]);
        if action == "edit" {
            patch(&sale, json!({"paused": false})).await.assert_problem(503, "unavailable");
        } else {
            reconcile(&sale, true).await;
        }
        until("claims wait for the operator", async || {
            let ready = sale.get("/readyz").await;
            (ready.status == 503 && ready.text.contains("seckill reconcile --rebuild")).then_some(())
        })
        .await;
        sale.claim("coffee", "bob").await.assert_problem(503, "unavailable");
        assert_eq!(sale.psql("select postgres_lost from fence"), "t");
        let rebuilt = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"rebuild": true}))).await;
        assert_eq!(rebuilt.status, 200, "{}", rebuilt.text);
        sale.until_ready().await;
        assert_in_force(&sale);
        sale.assert_in_agreement("coffee").await;
    }
}

#[tokio::test]
async fn a_comparison_during_edits_reports_no_difference() {
    let sale = sale().await;
    let epoch = sale.epoch();
    let edits = async {
        for round in 0..15 {
            let edits = (0..8).map(|n| patch(&sale, json!({"title": format!("Coffee {round} {n}")})));
            for answer in join_all(edits).await {
                assert_eq!(answer.status, 200, "{}", answer.text);
            }
        }
    };
    let compared = async {
        let mut found = Vec::new();
        for _ in 0..60 {
            found.push(reconcile(&sale, true).await);
        }
        found
    };
    let ((), found) = tokio::join!(edits, compared);
    for found in found {
        assert_eq!((&found["definition_drift"], &found["fixed"]), (&json!(0), &json!(0)), "{found}");
    }
    assert_eq!(sale.psql("select version from coupons"), "121", "one version for each edit, and no other");
    assert_eq!(sale.epoch(), epoch);
    assert_in_force(&sale);
}
