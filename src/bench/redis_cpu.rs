//! How much processor time Redis has used, so that a scenario can say what one claim costs it.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::redis::{Redis, server_info};

/// Processor time of the whole Redis process since its start, user and system, all its threads (the
/// main thread's own lines in INFO are a part of these). Take it before and after.
///
/// # Errors
/// When Redis does not answer or does not say.
pub async fn redis_cpu(redis: &Redis) -> Result<Duration> {
    let info = server_info::read(redis).await?.context("this Redis does not allow INFO")?;
    let seconds = |name: &str| {
        let text = info.text(name);
        text.parse::<f64>().with_context(|| format!("INFO cpu: {name} is {text:?}"))
    };
    let total = seconds("used_cpu_user")? + seconds("used_cpu_sys")?;
    Duration::try_from_secs_f64(total).context("INFO cpu: a time below zero")
}
