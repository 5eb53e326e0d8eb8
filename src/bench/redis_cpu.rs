//! Processor time of Redis, for the cost of one claim.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::redis::{Redis, server_info};

/// User and system time of the whole Redis process since its start, all threads included
/// (`used_cpu_user` and `used_cpu_sys` of <https://redis.io/docs/latest/commands/info/>).
/// The difference of two calls is the time between them.
///
/// # Errors
/// When Redis does not answer or does not allow INFO.
pub async fn redis_cpu(redis: &Redis) -> Result<Duration> {
    let info = server_info::read(redis).await?.context("this Redis does not allow INFO")?;
    let seconds = |name: &str| {
        let text = info.text(name);
        text.parse::<f64>().with_context(|| format!("INFO cpu: {name} is {text:?}"))
    };
    let total = seconds("used_cpu_user")? + seconds("used_cpu_sys")?;
    Duration::try_from_secs_f64(total).context("INFO cpu: a negative time")
}
