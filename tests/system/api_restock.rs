//! Totals that change during a sale, claims on behalf of users, and many admins at once.

use futures_util::future::join_all;
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

#[tokio::test]
async fn a_total_can_be_lowered_only_to_the_number_of_held_units() {
    let sale = Sale::start().await;
    sale.create("coffee", 3).await;
    for user in ["alice", "bob", "carol"] {
        assert_eq!(sale.claim("coffee", user).await.status, 202);
    }
    sale.claim("coffee", "dave").await.assert_problem(409, "sold-out");
    for _ in 0..2 {
        // A restock that is sent twice adds the units once.
        let restocked = patch(&sale, json!({"total": 5})).await;
        assert_eq!((restocked.status, &restocked.body["stock"]), (200, &json!(2)), "{}", restocked.text);
    }
    assert_eq!(sale.claim("coffee", "dave").await.body["stock"], 1);
    sale.until_quiet().await;
    patch(&sale, json!({"total": 3})).await.assert_problem(409, "total-too-low");
    let lowered = patch(&sale, json!({"total": 4})).await;
    assert_eq!(
        (&lowered.body["stock"], &lowered.body["state"]),
        (&json!(0), &json!("sold_out")),
        "{}",
        lowered.text
    );
    sale.claim("coffee", "erin").await.assert_problem(409, "sold-out");
    sale.assert_in_agreement("coffee").await;

    let claims = format!("{COFFEE}/claims");
    let on_behalf = async |body: Value| sale.admin(Method::POST, &claims, Some(body)).await;
    let again = on_behalf(json!({"user": "alice"})).await;
    assert_eq!((again.status, &again.body["user"]), (200, &json!("alice")), "{}", again.text);
    on_behalf(json!({"user": "erin"})).await.assert_problem(409, "sold-out");
    patch(&sale, json!({"total": 6})).await;
    let claimed = on_behalf(json!({"user": "erin"})).await;
    assert_eq!((claimed.status, &claimed.body["status"]), (202, &json!("accepted")), "{}", claimed.text);
    let own = sale.get_as(&sale.token("erin"), claimed.header("location")).await;
    assert_eq!((own.status, &own.body["order"]), (200, &claimed.body["order"]), "{}", own.text);
    for wrong in [
        json!({}),
        json!({"user": null}),
        json!({"user": 1}),
        json!({"user": "x", "coupon": "y"}),
        json!(["x"]),
    ] {
        on_behalf(wrong).await.assert_problem(400, "bad-request");
    }
    sale.admin(Method::POST, &claims, None).await.assert_problem(400, "bad-request");
    let unknown =
        sale.admin(Method::POST, "/v1/admin/coupons/nothing/claims", Some(json!({"user": "x"}))).await;
    unknown.assert_problem(404, "unknown-coupon");

    sale.until_quiet().await;
    let stream = sale.admin(Method::GET, "/v1/admin/stream", None).await.body;
    assert_eq!(
        [
            &stream["stream"],
            &stream["group"],
            &stream["length"],
            &stream["pending"],
            &stream["lag"],
            &stream["backlog"]
        ],
        [&json!("seckill:{0}:orders"), &json!("order-writers"), &json!(5), &json!(0), &json!(0), &json!(0)]
    );
    assert_eq!(stream["fence"], json!({"state": "up", "epoch": sale.epoch()}));
    assert_eq!(stream["groups"][0]["name"], "order-writers");
    assert!(
        stream["oldest_pending_ms"].is_null() && !stream["consumers"].as_array().unwrap().is_empty(),
        "{stream}"
    );
    assert!(stream["first_entry_id"].as_str() < stream["last_entry_id"].as_str(), "{stream}");
}

#[tokio::test]
async fn many_admins_at_once_create_and_edit_coupons_without_a_rebuild() {
    let sale = Sale::start().await;
    let epoch = sale.epoch();
    for round in 0..3 {
        let id = format!("coffee-{round}");
        let path = format!("{COUPONS}/{id}");
        let created = join_all((0..20).map(|_| post(&sale, json!({"id": id, "total": 10})))).await;
        let statuses: Vec<u16> = created.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses.iter().filter(|&&status| status == 201).count(), 1, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|&&status| status == 200).count(), 19, "{statuses:?}");

        // During the creation of the coupon, other requests already edit it and claim its units.
        let id = format!("tea-{round}");
        let path_of_tea = format!("{COUPONS}/{id}");
        let edits =
            join_all((0..10).map(|n| {
                sale.admin(Method::PATCH, &path_of_tea, Some(json!({"title": format!("Tea {n}")})))
            }));
        let claims = join_all((0..5).map(|n| {
            let (sale, id) = (&sale, &id);
            async move { sale.claim(id, &format!("user-{n}")).await }
        }));
        let (made, edits, claims) = tokio::join!(post(&sale, json!({"id": id, "total": 10})), edits, claims);
        assert!([201, 409].contains(&made.status), "{}", made.text);
        assert!(edits.iter().all(|answer| [200, 404].contains(&answer.status)), "{edits:?}");
        assert!(claims.iter().all(|answer| [202, 404].contains(&answer.status)), "{claims:?}");

        let edits =
            join_all((0..20).map(|n| sale.admin(Method::PATCH, &path, Some(json!({"total": 20 + n}))))).await;
        for edit in &edits {
            assert_eq!(edit.status, 200, "{}", edit.text);
        }
        let versions: Vec<i64> =
            edits.iter().map(|answer| answer.body["version"].as_i64().unwrap()).collect();
        let last = sale.admin(Method::GET, &path, None).await;
        assert_eq!(last.body["version"], *versions.iter().max().unwrap());
        assert_eq!((&last.body["version"], &last.body["stock"]), (&json!(21), &last.body["total"]));
        sale.assert_in_agreement(&format!("coffee-{round}")).await;
        sale.assert_in_agreement(&id).await;
    }
    assert_eq!(sale.epoch(), epoch, "the program has seen no loss");
}

#[tokio::test]
async fn the_backlog_is_exact_after_a_restart_of_redis() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 10).await;
    for user in ["alice", "bob", "carol"] {
        assert_eq!(sale.claim("coffee", user).await.status, 202);
    }
    sale.until_quiet().await;
    sale.stop();
    // Redis 7.0 forgets how many entries the group has read.
    let server = sale.spawn("serve", &[("SECKILL_WORKERS", "0")]);
    sale.use_as_server(server).await;
    sale.until_ready().await;
    assert_eq!(sale.claim("coffee", "dave").await.status, 202);
    let stream = sale.admin(Method::GET, "/v1/admin/stream", None).await.body;
    assert_eq!((&stream["backlog"], &stream["lag"]), (&json!(1), &json!(1)), "{stream}");
    assert!(stream["oldest_unread_ms"].is_i64() && stream["oldest_pending_ms"].is_null(), "{stream}");
}
