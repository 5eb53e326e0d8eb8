//! Checks the settings of `serve` before anything starts, and finds or generates its credentials.

use anyhow::bail;

use crate::cli::{ServeArgs, WrongUsage};
use crate::config::{self, CredentialSettings, StoreAddresses};
use crate::data_dir::{ADMIN_TOKEN, DataDir, JWT_SECRET};
use crate::domain::Partition;
use crate::postgres::Postgres;
use crate::redis::RedisServer;

/// Checks the settings that can be checked before a port is bound or a store is started.
pub fn check_settings(args: &ServeArgs, external: Option<&StoreAddresses>) -> anyhow::Result<()> {
    if let Some(addresses) = external {
        required_credentials(&args.credentials)?;
        RedisServer::new(addresses, &args.stores.redis_prefix, Partition::DEFAULT)?;
        Postgres::new(&addresses.database_url, &args.stores.db_schema)?;
    }
    let least = config::JWT_SECRET_MIN_BYTES;
    match args.credentials.jwt_secret.as_deref().map(str::len) {
        Some(length) if length < least => {
            bail!(WrongUsage(format!("SECKILL_JWT_SECRET has {length} bytes: use at least {least}")))
        }
        _ => Ok(()),
    }
}

/// With external stores the credentials must be set: otherwise each replica would generate different ones.
pub fn required_credentials(settings: &CredentialSettings) -> anyhow::Result<CredentialSettings> {
    if settings.admin_token.is_none() || settings.jwt_secret.is_none() {
        bail!(WrongUsage(
            "with REDIS_URL and DATABASE_URL set, SECKILL_ADMIN_TOKEN and SECKILL_JWT_SECRET must be set too: \
             every replica needs the same ones"
                .into()
        ));
    }
    Ok(settings.clone())
}

pub fn generated_credentials(
    settings: &CredentialSettings,
    dir: &DataDir,
) -> anyhow::Result<CredentialSettings> {
    let mut credentials = settings.clone();
    if credentials.admin_token.is_none() {
        credentials.admin_token = Some(dir.secret(ADMIN_TOKEN)?);
    }
    if credentials.jwt_secret.is_none() {
        credentials.jwt_secret = Some(dir.secret(JWT_SECRET)?);
    }
    Ok(credentials)
}
