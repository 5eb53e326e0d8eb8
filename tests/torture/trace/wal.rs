//! Postgres's write-ahead log through logical decoding: one line for each transaction, in commit order.

use std::collections::HashMap;
use std::time::Duration;

use model::trace::{Change, Line};
use seckill::redis::claims_hash::encode_field;
use serde::Deserialize;

use super::aof;
use crate::cluster::{TIMEOUT, wait};
use crate::stores::Stores;

const SCHEMA: &str = "table seckill.";
/// Timeout for decoding the log of a whole run.
const DECODING_TIMEOUT: Duration = Duration::from_mins(2);

/// Keeps the log from a moment before the first claim.
pub struct ReplicationSlot {
    epoch: String,
}

#[derive(Deserialize)]
struct Decoded {
    lsn: String,
    data: String,
}

impl ReplicationSlot {
    /// Enables logical decoding, which needs a restart of Postgres by `restart`, and creates the slot.
    pub async fn open(stores: &Stores, restart: impl AsyncFn()) -> Self {
        stores.psql("alter system set wal_level = logical").await.unwrap();
        restart().await;
        let make = "select slot_name from pg_create_logical_replication_slot('trace', 'test_decoding')";
        let is_made = async || stores.psql(make).await.ok().filter(|name| name == "trace");
        wait(is_made).await.expect("Postgres runs again with logical decoding");
        let epoch = stores.psql_within("select epoch from fence", TIMEOUT).await.unwrap();
        Self { epoch }
    }

    /// The state of Postgres when the slot was created.
    pub fn start(&self) -> Line {
        let fence = Change::Fence { epoch: self.epoch.clone(), lost: false };
        Line::Hand { effects: Vec::new(), changes: vec![fence] }
    }

    /// Every transaction since then that changed a table of the program.
    pub async fn read(&self, stores: &Stores) -> Result<Vec<Line>, String> {
        let all = "select lsn::text, data from pg_logical_slot_peek_changes('trace', null, null)";
        let decoded: Vec<Decoded> = stores.rows_within(all, DECODING_TIMEOUT).await?;
        let mut lines = Vec::new();
        let mut changes = Vec::new();
        let mut fence = (self.epoch.clone(), false);
        for Decoded { lsn, data } in decoded {
            if data.starts_with("COMMIT") {
                let lsn = aof::lsn(&lsn).ok_or_else(|| format!("no position: {lsn}"))?;
                let changes = std::mem::take(&mut changes);
                if !changes.is_empty() {
                    lines.push(Line::Postgres { lsn, changes });
                }
            } else if let Some(row) = data.strip_prefix(SCHEMA) {
                let change = change(row).map_err(|what| format!("the log has no {what} in {data:?}"))?;
                if let Some(Change::Fence { epoch, lost }) = &change {
                    // Other columns of the row show no step: an epoch is a sign only where it begins.
                    let before = std::mem::replace(&mut fence, (epoch.clone(), *lost));
                    if before == fence {
                        continue;
                    }
                }
                changes.extend(change);
            }
        }
        Ok(lines)
    }
}

/// `Err` names the column that is missing.
fn change(row: &str) -> Result<Option<Change>, &'static str> {
    let Some((table, rest)) = row.split_once(": ") else { return Err("table") };
    let Some((operation, columns)) = rest.split_once(':') else { return Err("operation") };
    let columns = columns_of(columns);
    let get = |name: &'static str| columns.get(name).cloned().flatten().ok_or(name);
    let number = |name: &'static str| get(name)?.parse().map_err(|_| name);
    let count = |name: &'static str| get(name)?.parse().map_err(|_| name);
    Ok(match (table, operation) {
        ("orders", "INSERT" | "UPDATE") => Some(Change::Order {
            order: get("id")?,
            coupon: get("coupon_id")?,
            user: encode_field(&get("user_id")?, get("slot")?.parse().map_err(|_| "slot")?),
            key: get("idempotency_key").ok(),
            status: get("status")?,
        }),
        ("orders", _) => Some(Change::OrderGone { order: get("id")? }),
        ("coupons", "INSERT" | "UPDATE") => Some(Change::Coupon {
            coupon: get("id")?,
            total: number("total")?,
            stock: number("stock")?,
            version: count("version")?,
            published: count("published_version")?,
        }),
        ("outbox", "INSERT") => Some(Change::Waiting { order: get("order_id")? }),
        ("outbox", "DELETE") => Some(Change::Returned { order: get("order_id")? }),
        ("dead_letters", "INSERT") => Some(Change::Letter {
            entry: get("entry_id").ok().as_deref().and_then(aof::id),
            order: get("order_id").ok(),
        }),
        ("waitlist", "INSERT") => Some(Change::Joined {
            order: get("order_id")?,
            coupon: get("coupon_id")?,
            user: get("user_id")?,
            key: get("idempotency_key").ok(),
        }),
        ("waitlist", "DELETE") => Some(Change::JoinGone { order: get("order_id")? }),
        ("fence", "INSERT" | "UPDATE") => {
            Some(Change::Fence { epoch: get("epoch")?, lost: get("postgres_lost")? == "true" })
        }
        _ => None,
    })
}

/// ` id[uuid]:'…' coupon_id[text]:'water' paused[boolean]:false …`, nulls as `None`.
fn columns_of(mut text: &str) -> HashMap<&str, Option<String>> {
    let mut columns = HashMap::new();
    while let Some((name, rest)) = text.trim_start().split_once('[') {
        let Some((_, rest)) = rest.split_once("]:") else { break };
        let (value, after) = if let Some(quoted) = rest.strip_prefix('\'') {
            let end = closing_quote(quoted);
            (Some(quoted[..end].replace("''", "'")), quoted.get(end + 1..).unwrap_or_default())
        } else {
            let (value, after) = rest.split_once(' ').unwrap_or((rest, ""));
            (Some(value.to_owned()).filter(|value| value != "null"), after)
        };
        columns.insert(name, value);
        text = after;
    }
    columns
}

/// Index of the closing quote; a quote inside the text is doubled.
fn closing_quote(quoted: &str) -> usize {
    let bytes = quoted.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'\'', Some(b'\'')) => at += 2,
            (b'\'', _) => return at,
            _ => at += 1,
        }
    }
    bytes.len()
}
