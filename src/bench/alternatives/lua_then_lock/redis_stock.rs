//! The stock in Redis: a number and a set, moved by two small scripts.

use anyhow::{Context, Result, bail};

use crate::config::TOTAL_MAX_UNITS;
use crate::domain::UserId;
use crate::redis::{Redis, integer, script_args, text};

const STOCK: &str = "bench:stock";
const BUYERS: &str = "bench:buyers";
const DEDUCT: &str = include_str!("deduct.lua");
const GIVE_BACK: &str = include_str!("give_back.lua");

/// Clones share one pipelined connection.
#[derive(Clone)]
pub struct RedisStock {
    redis: Redis,
    /// Digests of the scripts.
    deduct: String,
    give_back: String,
}

impl RedisStock {
    /// Deletes what an earlier round has left and begins with as many units as Postgres has.
    pub async fn open(redis: Redis) -> Result<Self> {
        let (deduct, give_back) = (load(&redis, DEDUCT).await?, load(&redis, GIVE_BACK).await?);
        let stock = Self { redis, deduct, give_back };
        stock.delete().await?;
        stock.redis.call("SET", vec![STOCK.into(), TOTAL_MAX_UNITS.into()]).await?;
        Ok(stock)
    }

    /// The same stock over another connection.
    pub fn on(&self, redis: Redis) -> Self {
        Self { redis, ..self.clone() }
    }

    /// Whether the unit is the user's: none may be left, or he may have one.
    pub async fn deduct(&self, user: &UserId) -> Result<bool> {
        self.run(&self.deduct, user).await
    }

    pub async fn give_back(&self, user: &UserId) -> Result<()> {
        if self.run(&self.give_back, user).await? { Ok(()) } else { bail!("there was no unit to give back") }
    }

    async fn run(&self, digest: &str, user: &UserId) -> Result<bool> {
        let mut args = script_args("", [STOCK, BUYERS], [user.as_str()]);
        args[0] = digest.into();
        Ok(integer(&self.redis.call("EVALSHA", args).await?, "bench script")? == 1)
    }

    /// Units left, and users who have one.
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
