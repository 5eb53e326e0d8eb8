//! Facts about the server: INFO, its clock, and whether it has any of our keys.

use fred::types::Value;

use super::{Redis, RedisError, array, integer, text};
use crate::config;

/// Redis's clock, ms since 1970.
pub async fn now_ms(redis: &Redis) -> Result<i64, RedisError> {
    let time = array(redis.call("TIME", vec![]).await?, "TIME")?;
    let part = |index: usize| integer(time.get(index).unwrap_or(&Value::Null), "TIME");
    Ok(part(0)? * 1_000 + part(1)? / 1_000)
}

/// Whether Redis has none of our keys.
pub async fn has_no_keys(redis: &Redis) -> Result<bool, RedisError> {
    let count = i64::try_from(config::SCAN_PAGE_ENTRIES).unwrap_or(i64::MAX);
    let mut cursor = "0".to_owned();
    loop {
        let args =
            vec![cursor.into(), "MATCH".into(), redis.keys.every_key().into(), "COUNT".into(), count.into()];
        let mut reply = array(redis.call("SCAN", args).await?, "SCAN")?.into_iter();
        cursor = reply.next().as_ref().and_then(text).unwrap_or_else(|| "0".into());
        let found = array(reply.next().unwrap_or(Value::Null), "SCAN keys")?;
        if !found.is_empty() || cursor == "0" {
            return Ok(found.is_empty());
        }
    }
}

/// The name of the server process.
pub async fn run_id(redis: &Redis) -> Result<String, RedisError> {
    Ok(section(redis, "server").await?.text("run_id"))
}

/// Whether a replica confirms within a second what Redis has written. The connection waits.
pub async fn has_replica(redis: &Redis) -> Result<bool, RedisError> {
    let ms = i64::try_from(config::DOCTOR_REPLICA_WAIT.as_millis()).unwrap_or(i64::MAX);
    Ok(integer(&redis.call("WAIT", vec![1.into(), ms.into()]).await?, "WAIT")? > 0)
}

/// The reply of INFO; `None` if the user may not run it.
pub async fn read(redis: &Redis) -> Result<Option<Info>, RedisError> {
    match redis.call("INFO", vec![]).await {
        Err(RedisError::Refused(_)) => Ok(None),
        info => Ok(Some(Info(text(&info?).unwrap_or_default()))),
    }
}

/// One section of INFO.
pub(super) async fn section(redis: &Redis, section: &'static str) -> Result<Info, RedisError> {
    Ok(Info(text(&redis.call("INFO", vec![section.into()]).await?).unwrap_or_default()))
}

/// The reply of INFO.
pub struct Info(String);

impl Info {
    /// The value of a line; empty if there is no such line.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name).parse().ok()
    }
}
