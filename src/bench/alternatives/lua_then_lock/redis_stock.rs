//! The stock in Redis: a number and a set of users, changed by two small scripts.

use anyhow::{Context, Result, bail};

use crate::config::TOTAL_MAX_UNITS;
use crate::domain::UserId;
use crate::redis::{Redis, integer, script_args, text};

const STOCK: &str = "bench:stock";
const BUYERS: &str = "bench:buyers";
const DEDUCT: &str = include_str!("deduct.lua");
const RETURN_UNIT: &str = include_str!("return_unit.lua");

/// The stock, with the digests of its scripts. Clones share one pipelined connection.
#[derive(Clone)]
pub struct RedisStock {
    redis: Redis,
    deduct: String,
    return_unit: String,
}

impl RedisStock {
    /// Deletes the keys of an earlier measurement, and sets the same stock as in Postgres.
    pub async fn open(redis: Redis) -> Result<Self> {
        let (deduct, return_unit) = (load(&redis, DEDUCT).await?, load(&redis, RETURN_UNIT).await?);
        let stock = Self { redis, deduct, return_unit };
        stock.delete().await?;
        stock.redis.call("SET", vec![STOCK.into(), TOTAL_MAX_UNITS.into()]).await?;
        Ok(stock)
    }

    /// Returns the same stock with another connection.
    pub fn with_connection(&self, redis: Redis) -> Self {
        Self { redis, ..self.clone() }
    }

    /// Takes a unit for the user; `false` if none is left, or if the user has one.
    pub async fn deduct(&self, user: &UserId) -> Result<bool> {
        self.run(&self.deduct, user).await
    }

    pub async fn return_unit(&self, user: &UserId) -> Result<()> {
        if self.run(&self.return_unit, user).await? {
            Ok(())
        } else {
            bail!("the user had no unit to return")
        }
    }

    async fn run(&self, digest: &str, user: &UserId) -> Result<bool> {
        let mut args = script_args("", [STOCK, BUYERS], [user.as_str()]);
        args[0] = digest.into();
        Ok(integer(&self.redis.call("EVALSHA", args).await?, "bench script")? == 1)
    }

    /// The number of units left, and the number of users who have one.
    pub async fn counts(&self) -> Result<(i64, i64)> {
        let stock = text(&self.redis.call("GET", vec![STOCK.into()]).await?).context("no stock in Redis")?;
        let buyers = integer(&self.redis.call("SCARD", vec![BUYERS.into()]).await?, "SCARD")?;
        Ok((stock.parse()?, buyers))
    }

    pub async fn delete(&self) -> Result<()> {
        self.redis.call("DEL", vec![STOCK.into(), BUYERS.into()]).await?;
        Ok(())
    }
}

async fn load(redis: &Redis, script: &'static str) -> Result<String> {
    let digest = redis.call("SCRIPT", vec!["LOAD".into(), script.into()]).await?;
    text(&digest).context("SCRIPT LOAD answers no digest")
}
