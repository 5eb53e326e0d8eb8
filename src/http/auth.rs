//! Identifies the client: a user by an HS256 token whose `sub` is the user, or the admin by the admin token.

use anyhow::ensure;
use http::{HeaderMap, header};
use quick_cache::sync::Cache;
use subtle::ConstantTimeEq;

use super::problem::{Code, Problem};
use super::request::Request;
use super::token::{TokenRules, Verified};
use crate::config::{self, CredentialSettings};
use crate::domain::{Origin, UserId};

/// The admin token: the only credential of a process without the API.
pub struct AdminToken(String);

impl AdminToken {
    /// # Errors
    /// When there is none: nothing would be protected.
    pub fn new(token: Option<&str>) -> anyhow::Result<Self> {
        let token = token.unwrap_or_default();
        ensure!(!token.is_empty(), "SECKILL_ADMIN_TOKEN must be set");
        Ok(Self(token.to_owned()))
    }

    pub fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.is(bearer(headers)?) {
            return Ok(());
        }
        Err(unauthorized("this address requires the admin token"))
    }

    fn is(&self, token: &str) -> bool {
        token.as_bytes().ct_eq(self.0.as_bytes()).into()
    }
}

pub struct Auth {
    pub admin_token: AdminToken,
    rules: TokenRules,
    /// Tokens whose signature was verified, so that it is not verified again.
    verified: Cache<Box<str>, Verified>,
}

/// A client with valid credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    User(UserId),
    Admin,
}

impl Caller {
    /// `None` for the admin.
    pub const fn user(&self) -> Option<&UserId> {
        match self {
            Self::User(user) => Some(user),
            Self::Admin => None,
        }
    }
}

impl Auth {
    /// # Errors
    /// When a credential is missing or too short.
    pub fn new(credentials: &CredentialSettings) -> anyhow::Result<Self> {
        let admin_token = AdminToken::new(credentials.admin_token.as_deref())?;
        let rules = TokenRules::new(credentials)?;
        Ok(Self { admin_token, rules, verified: Cache::new(config::VERIFIED_TOKENS_MAX) })
    }

    /// The user of a user's token.
    pub fn user(&self, headers: &HeaderMap) -> Result<UserId, Problem> {
        let token = bearer(headers)?;
        // A verified token can become invalid only by time.
        if let Some(Verified { user, .. }) = self.verified.get(token).filter(Verified::is_in_time) {
            return Ok(user);
        }
        let verified = self.rules.verify(token).map_err(unauthorized)?;
        let user = verified.user.clone();
        if token.len() <= config::VERIFIED_TOKEN_MAX_BYTES {
            self.verified.insert(token.into(), verified);
        }
        Ok(user)
    }

    pub fn admin(&self, headers: &HeaderMap) -> Result<(), Problem> {
        self.admin_token.check(headers)
    }

    /// The admin, as the origin of a change that goes into the audit log.
    pub fn admin_origin(&self, request: &Request) -> Result<Origin, Problem> {
        self.admin(&request.headers)?;
        Ok(Origin::admin(request.id.to_str().unwrap_or_default()))
    }

    /// A user's token or the admin's.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        if self.admin_token.is(bearer(headers)?) {
            return Ok(Caller::Admin);
        }
        self.user(headers).map(Caller::User)
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
    fn a_verified_token_is_cached_once() {
        let auth = auth();
        let headers = headers(60);
        for _ in 0..2 {
            assert_eq!(auth.user(&headers).unwrap().as_str(), "alice");
        }
        assert_eq!(auth.verified.len(), 1);
    }

    #[test]
    fn an_invalid_token_is_never_cached() {
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
