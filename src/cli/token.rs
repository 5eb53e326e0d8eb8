//! `seckill token`: prints a user's bearer token, signed with the server's secret. `http` checks tokens.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use clap::Args;
use clap::builder::{NonEmptyStringValueParser, TypedValueParser};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Serialize;

use super::output::print_line;
use super::value_parsers::parse_token_lifetime;
use crate::config::{CredentialSettings, JWT_SECRET_MIN_BYTES};
use crate::data_dir::{DataDir, JWT_SECRET, read_secret};
use crate::domain::UserId;

#[derive(Args)]
pub struct TokenArgs {
    /// User that the token is for (`sub`)
    #[arg(long, value_name = "USER")]
    user: UserId,

    /// Time until the token expires
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_token_lifetime)]
    ttl: Duration,

    /// Data directory of the server, with its generated secrets [default: ./data]
    #[arg(long, env = "SECKILL_DATA_DIR", value_name = "DIR", value_parser = NonEmptyStringValueParser::new().map(PathBuf::from))]
    data_dir: Option<PathBuf>,

    #[command(flatten)]
    credentials: CredentialSettings,
}

/// The claims of a token (RFC 7519), times in seconds since 1970. The settings decide whether a token has the optional
/// claims.
#[derive(Serialize)]
struct TokenClaims<'a> {
    sub: &'a UserId,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
}

pub fn run(args: &TokenArgs) -> anyhow::Result<()> {
    let secret = secret(args)?;
    print_line(&mint_token(secret.as_bytes(), &args.user, args.ttl, &args.credentials)?)
}

/// Signs an HS256 token for `user`. Uses only the audience and the issuer of `settings`.
///
/// # Errors
/// When the secret is shorter than `JWT_SECRET_MIN_BYTES`, or the clock is before 1970.
pub fn mint_token(
    secret: &[u8],
    user: &UserId,
    lifetime: Duration,
    settings: &CredentialSettings,
) -> anyhow::Result<String> {
    ensure!(
        secret.len() >= JWT_SECRET_MIN_BYTES,
        "the JWT secret has {} bytes: SECKILL_JWT_SECRET needs at least {JWT_SECRET_MIN_BYTES}",
        secret.len()
    );
    let iat = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let claims = TokenClaims {
        sub: user,
        iat,
        exp: iat.saturating_add(lifetime.as_secs()),
        aud: settings.jwt_audience.as_deref(),
        iss: settings.jwt_issuer.as_deref(),
    };
    Ok(encode(&Header::default(), &claims, &EncodingKey::from_secret(secret))?)
}

fn secret(args: &TokenArgs) -> anyhow::Result<String> {
    if let Some(secret) = &args.credentials.jwt_secret {
        return Ok(secret.clone());
    }
    read_secret(&DataDir::locate(args.data_dir.as_deref()), JWT_SECRET)
}
