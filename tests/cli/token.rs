//! Tokens that `token` prints, verified as a server verifies them.

use std::fs;

use serde_json::Value;

use crate::harness::{JWT_SECRET, Sandbox};

#[test]
fn a_token_is_one_line_that_verifies() {
    let sandbox = Sandbox::new().env("SECKILL_JWT_AUDIENCE", "shop").env("SECKILL_JWT_ISSUER", "till");
    let sandbox = sandbox.env("SECKILL_JWT_SECRET", JWT_SECRET);
    let run = sandbox.run(&["token", "--user", "älice", "--ttl", "2h"]);
    assert_eq!((run.status, run.stdout.lines().count()), (0, 1), "{run:?}");
    let claims = verified(run.stdout.trim_end());
    assert_eq!(
        (claims["sub"].as_str(), claims["aud"].as_str(), claims["iss"].as_str()),
        (Some("älice"), Some("shop"), Some("till"))
    );
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 7200);
}

#[test]
fn the_token_secret_is_read_from_the_data_directory() {
    let sandbox = Sandbox::new();
    sandbox.run(&["token", "--user", "alice"]).refused_with("jwt-secret");
    fs::write(sandbox.path("jwt-secret"), format!("{JWT_SECRET}\n")).unwrap();
    let run = sandbox.run(&["token", "--user", "alice", "--data-dir", "."]);
    let claims = verified(run.stdout.trim_end());
    assert_eq!((&claims["aud"], &claims["iss"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_short_token_secret_is_refused() {
    let sandbox = Sandbox::new().env("SECKILL_JWT_SECRET", "x".repeat(31).as_str());
    sandbox.run(&["token", "--user", "alice"]).refused_with("31 bytes");
}

fn verified(token: &str) -> Value {
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    rules.validate_aud = false;
    let key = jsonwebtoken::DecodingKey::from_secret(JWT_SECRET.as_bytes());
    jsonwebtoken::decode::<Value>(token, &key, &rules).unwrap().claims
}
