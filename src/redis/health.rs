//! Settings of the server, its workers and its backlog, for the operator. Reads only; `doctor` judges them. Managed
//! services forbid some of these reads: the result is then `None`, not an error.

use super::keys::GROUP;
use super::{Redis, RedisError, array, integer, order_stream, text};
use fred::types::Value;

/// Whether an answered claim survives a kill of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A claim is on disk before it is answered.
    Always,
    /// A claim may not survive, because of this setting.
    Weaker(String),
    /// The settings may not be read.
    Unreadable,
}

pub async fn durability(redis: &Redis) -> Result<Durability, RedisError> {
    let [appendonly, appendfsync] = settings(redis, ["appendonly", "appendfsync"]).await?;
    Ok(match (appendonly.as_deref(), appendfsync.as_deref()) {
        (Some("yes"), Some("always")) => Durability::Always,
        (Some("yes"), Some(other)) => Durability::Weaker(format!("appendfsync {other}")),
        (Some(other), _) => Durability::Weaker(format!("appendonly {other}")),
        _ => Durability::Unreadable,
    })
}

/// Settings of the server; each is `None` if the user may not read it.
pub async fn settings<const N: usize>(
    redis: &Redis,
    names: [&'static str; N],
) -> Result<[Option<String>; N], RedisError> {
    let mut args: Vec<Value> = vec!["GET".into()];
    args.extend(names.map(Value::from));
    let pairs = match redis.call("CONFIG", args).await {
        Err(RedisError::Refused(_)) => Vec::new(),
        pairs => array(pairs?, "CONFIG GET")?,
    };
    let value_of = |name: &str| {
        let pair = pairs.chunks_exact(2).find(|pair| pair[0].as_str().as_deref() == Some(name))?;
        text(&pair[1])
    };
    Ok(names.map(value_of))
}

/// How often a command ran since Redis started, calls from scripts included; the name in lower case.
pub async fn calls(redis: &Redis, command: &str) -> Result<u64, RedisError> {
    let stats = text(&redis.call("INFO", vec!["commandstats".into()]).await?).unwrap_or_default();
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    Ok(line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0))
}

/// Number of connections of workers; `None` if the user may not list connections.
pub async fn workers(redis: &Redis) -> Result<Option<u64>, RedisError> {
    let clients = match redis.call("CLIENT", vec!["LIST".into()]).await {
        Err(RedisError::Refused(_)) => return Ok(None),
        clients => text(&clients?).unwrap_or_default(),
    };
    let name = format!("name={}", redis.keys.worker);
    let is_ours = |line: &&str| line.split(' ').any(|field| field == name);
    Ok(Some(clients.lines().filter(is_ours).count() as u64))
}

/// Pending entries that no consumer has read for a long time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleEntries {
    /// The number of such entries on the first page.
    pub count: usize,
    pub oldest_idle_ms: i64,
    pub consumer: String,
}

/// The first page of the pending entries that have been idle for at least `idle_ms`.
pub async fn idle_entries(redis: &Redis, idle_ms: i64) -> Result<Option<IdleEntries>, RedisError> {
    let args = vec![
        (&*redis.keys.orders).into(),
        GROUP.into(),
        "IDLE".into(),
        idle_ms.into(),
        "-".into(),
        "+".into(),
        order_stream::page(crate::config::SCAN_PAGE_ENTRIES),
    ];
    let rows = array(redis.call("XPENDING", args).await?, "XPENDING IDLE")?;
    let mut found: Option<IdleEntries> = None;
    for row in rows {
        let row = array(row, "XPENDING row")?;
        let idle_ms = integer(row.get(2).unwrap_or(&Value::Null), "idle time")?;
        let consumer = row.get(1).and_then(text).unwrap_or_default();
        let found =
            found.get_or_insert_with(|| IdleEntries { count: 0, oldest_idle_ms: 0, consumer: String::new() });
        found.count += 1;
        if idle_ms >= found.oldest_idle_ms {
            found.oldest_idle_ms = idle_ms;
            found.consumer = consumer;
        }
    }
    Ok(found)
}

/// The id of the oldest order event that is not acknowledged; `None` if all are.
pub async fn oldest_unacknowledged(
    redis: &Redis,
    group: &order_stream::GroupInfo,
) -> Result<Option<String>, RedisError> {
    if group.pending > 0
        && let Some(id) = order_stream::first_pending_id(redis).await?
    {
        return Ok(Some(id));
    }
    order_stream::first_id_after(redis, &group.last_delivered_id).await
}
