//! Who asks: a user by an HS256 token whose `sub` is the user, or the admin by the one admin token.

use anyhow::ensure;
use http::{HeaderMap, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::problem::{Code, Problem};
use crate::config::{self, CredentialSettings};
use crate::model::UserId;

pub struct Auth {
    admin_token: String,
    key: DecodingKey,
    validation: Validation,
}

/// Somebody with valid credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    User(UserId),
    Admin,
}

#[derive(Deserialize)]
struct TokenClaims {
    sub: String,
}

impl Auth {
    pub fn new(credentials: &CredentialSettings) -> anyhow::Result<Self> {
        let secret = credentials.jwt_secret.as_deref().unwrap_or_default();
        let least = config::JWT_SECRET_MIN_BYTES;
        ensure!(secret.len() >= least, "SECKILL_JWT_SECRET must have at least {least} bytes");
        let admin_token = credentials.admin_token.clone().unwrap_or_default();
        ensure!(!admin_token.is_empty(), "SECKILL_ADMIN_TOKEN must be set");
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = config::JWT_LEEWAY_SECONDS;
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(audience) = &credentials.jwt_audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        } else {
            validation.validate_aud = false;
        }
        if let Some(issuer) = &credentials.jwt_issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        Ok(Self { admin_token, key: DecodingKey::from_secret(secret.as_bytes()), validation })
    }

    /// The user of a user's token.
    pub fn user(&self, headers: &HeaderMap) -> Result<UserId, Problem> {
        let token = bearer(headers)?;
        let decoded = jsonwebtoken::decode::<TokenClaims>(token, &self.key, &self.validation)
            .map_err(|error| unauthorized(format!("the token is not valid: {error}")))?;
        decoded.claims.sub.parse().map_err(|error| unauthorized(format!("the token's sub: {error}")))
    }

    pub fn admin(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.is_admin(bearer(headers)?) {
            return Ok(());
        }
        Err(unauthorized("this address wants the admin token"))
    }

    /// A user's token or the admin's.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        if self.is_admin(bearer(headers)?) {
            return Ok(Caller::Admin);
        }
        self.user(headers).map(Caller::User)
    }

    fn is_admin(&self, token: &str) -> bool {
        token.as_bytes().ct_eq(self.admin_token.as_bytes()).into()
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || unauthorized("send Authorization: Bearer <token>");
    let value = headers.get(header::AUTHORIZATION).ok_or_else(missing)?;
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(missing()) }
}

fn unauthorized(detail: impl Into<String>) -> Problem {
    Problem::new(Code::Unauthorized, detail)
}
