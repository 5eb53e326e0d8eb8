//! Who asks: a user by an HS256 token whose `sub` is the user, or the admin by the one admin token.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use http::{HeaderMap, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use quick_cache::sync::Cache;
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::problem::{Code, Problem};
use crate::config::{self, CredentialSettings};
use crate::model::UserId;

pub struct Auth {
    admin_token: String,
    key: DecodingKey,
    validation: Validation,
    /// Tokens whose signature was verified: who asks again is known at once.
    verified: Cache<Box<str>, Verified>,
}

#[derive(Clone)]
struct Verified {
    user: UserId,
    /// Seconds since 1970.
    expires_at: f64,
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
    exp: f64,
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
        let key = DecodingKey::from_secret(secret.as_bytes());
        Ok(Self { admin_token, key, validation, verified: Cache::new(config::VERIFIED_TOKENS_MAX) })
    }

    /// The user of a user's token.
    pub fn user(&self, headers: &HeaderMap) -> Result<UserId, Problem> {
        let token = bearer(headers)?;
        // All else that was looked at when it was verified is the same for ever.
        if let Some(Verified { user, .. }) = self.verified.get(token).filter(|it| self.is_alive(it)) {
            return Ok(user);
        }
        let decoded = jsonwebtoken::decode::<TokenClaims>(token, &self.key, &self.validation)
            .map_err(|error| unauthorized(format!("the token is not valid: {error}")))?;
        let TokenClaims { sub, exp } = decoded.claims;
        let user: UserId = sub.parse().map_err(|error| unauthorized(format!("the token's sub: {error}")))?;
        if token.len() <= config::VERIFIED_TOKEN_MAX_BYTES {
            self.verified.insert(token.into(), Verified { user: user.clone(), expires_at: exp });
        }
        Ok(user)
    }

    fn is_alive(&self, verified: &Verified) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::MAX);
        let leeway = Duration::from_secs(self.validation.leeway);
        verified.expires_at + leeway.as_secs_f64() >= now.as_secs_f64()
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

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::header::AUTHORIZATION;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;
    use time::OffsetDateTime;

    use super::Auth;
    use crate::config::{self, CredentialSettings};

    const SECRET: &str = "a secret that is long enough for a test";

    fn auth() -> Auth {
        let credentials = CredentialSettings {
            admin_token: Some("admin".into()),
            jwt_secret: Some(SECRET.into()),
            jwt_audience: None,
            jwt_issuer: None,
        };
        Auth::new(&credentials).unwrap()
    }

    fn headers(expires_in: i64) -> HeaderMap {
        let claims = json!({"sub": "alice", "exp": OffsetDateTime::now_utc().unix_timestamp() + expires_in});
        let token =
            encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
        HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
    }

    #[test]
    fn a_token_that_was_verified_is_known_and_dies_all_the_same() {
        let auth = auth();
        let headers = headers(60);
        for _ in 0..2 {
            assert_eq!(auth.user(&headers).unwrap().as_str(), "alice");
        }
        assert_eq!(auth.verified.len(), 1);
        // As if the time had come.
        let (token, mut verified) = auth.verified.iter().next().unwrap();
        verified.expires_at -= 3_600.0;
        assert!(!auth.is_alive(&verified));
        auth.verified.insert(token, verified);
        assert!(auth.user(&headers).is_ok(), "it is verified anew, and by its own word it lives");
    }

    #[test]
    fn what_is_not_valid_is_never_remembered() {
        let auth = auth();
        let leeway = i64::try_from(config::JWT_LEEWAY_SECONDS).unwrap();
        assert!(auth.user(&headers(-leeway - 5)).is_err());
        let mut forged = headers(60);
        let text = forged[AUTHORIZATION].to_str().unwrap().to_owned();
        let (signed, _) = text.rsplit_once('.').unwrap();
        forged.insert(AUTHORIZATION, format!("{signed}.AAAA").parse().unwrap());
        assert!(auth.user(&forged).is_err());
        assert_eq!(auth.verified.len(), 0);
    }
}
