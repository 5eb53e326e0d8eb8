//! Authentication: tokens of users and of the admin, and every kind of invalid token.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};

use support::{Answer, Sale};

const ORDERS: &str = "/v1/orders";
/// `{"alg":"none","typ":"JWT"}`
const ALG_NONE: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
const SECRET: &str = "a secret of at least thirty-two bytes";

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

fn sign(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn token(claims: &Value) -> String {
    sign(Algorithm::HS256, SECRET, claims)
}

async fn get_orders(sale: &Sale, authorization: &str) -> Answer {
    sale.send(Method::GET, ORDERS, &[("authorization", authorization)], None).await
}

#[tokio::test]
async fn only_a_complete_signed_and_current_token_is_accepted() {
    let sale = Sale::start_with(&[("SECKILL_JWT_SECRET", SECRET)]).await;
    let good = token(&json!({"sub": "alice", "exp": now() + 600}));
    for scheme in ["Bearer ", "bearer ", "BEARER ", "Bearer  "] {
        let answer = get_orders(&sale, &format!("{scheme}{good}")).await;
        assert_eq!(answer.status, 200, "{scheme}: {}", answer.text);
    }
    sale.get(ORDERS).await.assert_problem(401, "unauthorized");
    let [head, payload, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    for authorization in [
        String::new(),
        "Bearer".into(),
        "Bearer ".into(),
        good.clone(),
        format!("Basic {good}"),
        format!("Token {good}"),
        format!("Bearer{good}"),
        "Bearer garbage".into(),
        "Bearer a.b.c".into(),
        "Bearer \u{e9}".into(),
        format!("Bearer {head}.{payload}."),
        format!("Bearer {head}.{payload}"),
        format!("Bearer {ALG_NONE}.{payload}."),
        format!("Bearer {ALG_NONE}.{payload}.{signature}"),
        format!("Bearer {head}.{payload}.{}{signature}", &signature[..1]),
        format!("Bearer {good} {good}"),
    ] {
        get_orders(&sale, &authorization).await.assert_problem(401, "unauthorized");
    }

    let expiry = now() + 600;
    let forged = [
        sign(
            Algorithm::HS256,
            "another secret of at least thirty-two bytes",
            &json!({"sub": "alice", "exp": expiry}),
        ),
        sign(Algorithm::HS512, SECRET, &json!({"sub": "alice", "exp": expiry})),
        sign(Algorithm::HS384, SECRET, &json!({"sub": "alice", "exp": expiry})),
        token(&json!({"sub": "alice"})),
        token(&json!({"sub": "alice", "exp": null})),
        token(&json!({"sub": "alice", "exp": expiry.to_string()})),
        token(&json!({"sub": "alice", "exp": -1})),
        token(&json!({"sub": "alice", "exp": now() - 3_600})),
        token(&json!({"sub": "alice", "exp": now() - 63})),
        token(&json!({"sub": "alice", "exp": expiry, "nbf": now() + 300})),
        token(&json!({"sub": "alice", "exp": expiry, "nbf": "tomorrow"})),
        token(&json!({"exp": expiry})),
        token(&json!({"sub": null, "exp": expiry})),
        token(&json!({"sub": 7, "exp": expiry})),
        token(&json!({"sub": ["alice"], "exp": expiry})),
        token(&json!({"sub": "", "exp": expiry})),
        token(&json!({"sub": "u".repeat(129), "exp": expiry})),
        token(&json!({"sub": "\u{e4}".repeat(65), "exp": expiry})),
        token(&json!({"sub": "alice\n", "exp": expiry})),
        token(&json!({"sub": "alice\u{1f}2", "exp": expiry})),
        token(&json!({"sub": "\0", "exp": expiry})),
        token(&json!("alice")),
    ];
    for forged in forged {
        get_orders(&sale, &format!("Bearer {forged}")).await.assert_problem(401, "unauthorized");
    }
    let valid = [
        json!({"sub": "alice", "exp": now() - 30}),
        json!({"sub": "alice", "exp": expiry, "nbf": now() + 30}),
        json!({"sub": "u".repeat(128), "exp": expiry}),
        json!({"sub": "\u{4f60}\u{597d} {0}:x", "exp": expiry}),
        json!({"sub": "alice", "exp": expiry, "aud": "any", "iss": ["any"], "role": "buyer"}),
    ];
    for claims in valid {
        let answer = get_orders(&sale, &format!("Bearer {}", token(&claims))).await;
        assert_eq!(answer.status, 200, "{claims}: {}", answer.text);
    }
}

#[tokio::test]
async fn routes_of_the_admin_refuse_a_users_token_and_those_of_users_the_admins_before_they_read_the_request()
{
    let sale = Sale::start_with(&[("SECKILL_JWT_SECRET", SECRET)]).await;
    let good = token(&json!({"sub": "alice", "exp": now() + 600}));
    let admin = sale.admin_token();
    for (method, path) in [
        (Method::GET, ORDERS),
        (Method::GET, "/v1/coupons/coffee/claims"),
        (Method::POST, "/v1/coupons/coffee/claims"),
        (Method::POST, "/v1/coupons/%00/claims"),
        (Method::GET, "/v1/coupons/coffee/waitlist"),
        (Method::POST, "/v1/coupons/coffee/waitlist"),
        (Method::DELETE, "/v1/coupons/coffee/waitlist"),
    ] {
        let headers = [("authorization", &*format!("Bearer {admin}"))];
        sale.send(method, path, &headers, None).await.assert_problem(401, "unauthorized");
    }
    for (method, path) in [
        (Method::GET, "/v1/admin/coupons"),
        (Method::POST, "/v1/admin/coupons"),
        (Method::GET, "/v1/admin/coupons/coffee"),
        (Method::PATCH, "/v1/admin/coupons/coffee"),
        (Method::POST, "/v1/admin/coupons/coffee/claims"),
        (Method::GET, "/v1/admin/coupons/coffee/waitlist"),
        (Method::GET, "/v1/admin/orders"),
        (Method::GET, "/v1/admin/stream"),
    ] {
        for token in [&good, &admin[1..], &format!("{admin}x"), "\u{e9}"] {
            let headers = [("authorization", &*format!("Bearer {token}")), ("content-type", "text/plain")];
            let answer = sale.send_bytes(method.clone(), path, &headers, Some("{")).await;
            answer.assert_problem(401, "unauthorized");
        }
        sale.send(method, path, &[], None).await.assert_problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn audience_and_issuer_are_checked_if_they_are_set() {
    let sale = Sale::start_with(&[
        ("SECKILL_JWT_SECRET", SECRET),
        ("SECKILL_JWT_AUDIENCE", "shop"),
        ("SECKILL_JWT_ISSUER", "till"),
    ])
    .await;
    let expiry = now() + 600;
    for (aud, iss, status) in [
        (json!("shop"), json!("till"), 200),
        (json!(["shop", "other"]), json!("till"), 200),
        (json!("other"), json!("till"), 401),
        (json!("shop"), json!("other"), 401),
        (Value::Null, json!("till"), 401),
        (json!("shop"), Value::Null, 401),
        (json!([]), json!("till"), 401),
    ] {
        let claims = json!({"sub": "alice", "exp": expiry, "aud": aud, "iss": iss});
        assert_eq!(get_orders(&sale, &format!("Bearer {}", token(&claims))).await.status, status, "{claims}");
    }
    // The program's own tokens have both.
    let output = sale.command().args(["token", "--user", "alice"]).output().unwrap();
    let own = String::from_utf8(output.stdout).unwrap();
    assert_eq!(get_orders(&sale, &format!("Bearer {}", own.trim_end())).await.status, 200, "{own}");
}

/// A token with this header and payload, correctly signed.
fn signed(header: &str, payload: &Value) -> String {
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let message = format!("{}.{}", part(header), part(&payload.to_string()));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

#[tokio::test]
async fn a_token_that_requires_an_extension_is_refused_each_time() {
    let sale = Sale::start_with(&[("SECKILL_JWT_SECRET", SECRET)]).await;
    let payload = json!({"sub": "alice", "exp": now() + 600});
    for (header, why) in [
        (r#"{"alg":"HS256","crit":["exp"]}"#, "crit"),
        (r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, "crit"),
        (r#"{"alg":"HS256","crit":[]}"#, "crit"),
        (r#"{"alg":"HS256","b64":false}"#, "b64"),
        (r#"{"alg":"none"}"#, "HS256"),
        (r#"{"alg":"hs256"}"#, "HS256"),
        (r#"{"alg":"HS256","alg":"HS256"}"#, "once"),
    ] {
        let token = format!("Bearer {}", signed(header, &payload));
        for _ in 0..2 {
            let answer = get_orders(&sale, &token).await;
            answer.assert_problem(401, "unauthorized");
            assert!(answer.body["detail"].as_str().unwrap().contains(why), "{header}: {}", answer.text);
        }
    }
    let harmless =
        signed(r#"{"alg":"HS256","typ":"at+jwt","x5u":"http://127.0.0.1:1/","b64":true}"#, &payload);
    for _ in 0..2 {
        assert_eq!(get_orders(&sale, &format!("Bearer {harmless}")).await.status, 200);
    }
}

#[tokio::test]
async fn a_refusal_of_an_expired_or_early_token_names_its_time_and_the_servers() {
    let sale = Sale::start_with(&[("SECKILL_JWT_SECRET", SECRET)]).await;
    for (claims, words) in [
        (json!({"sub": "alice", "exp": 1_700_000_000}), "the token expired at 2023-11-14T22:13:20Z"),
        (
            json!({"sub": "alice", "exp": 4_100_000_000_i64, "nbf": 4_000_000_000_i64}),
            "from 2096-10-02T07:06:40Z on",
        ),
    ] {
        let answer = get_orders(&sale, &format!("Bearer {}", token(&claims))).await;
        answer.assert_problem(401, "unauthorized");
        let detail = answer.body["detail"].as_str().unwrap();
        let clock = detail.split("this server's clock says ").nth(1).unwrap_or_else(|| panic!("{detail}"));
        let clock = time::OffsetDateTime::parse(
            clock.split(',').next().unwrap(),
            &time::format_description::well_known::Rfc3339,
        );
        assert!((clock.unwrap().unix_timestamp() - now()).abs() < 60 && detail.contains(words), "{detail}");
    }
}

#[tokio::test]
async fn only_a_demo_signs_users_in() {
    let sale = Sale::start().await;
    assert_eq!(sale.get("/v1/sign-in").await.body, json!({"demo": false, "users": []}));
    let user = Some(json!({"user": "alice"}));
    sale.send(Method::POST, "/v1/sign-in", &[], user).await.assert_problem(404, "not-found");
}
