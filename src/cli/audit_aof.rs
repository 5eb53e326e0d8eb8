//! `seckill audit --aof`: replays the log that Redis wrote, and compares the holders at its end with Postgres. Reads the
//! files and Postgres, and sends nothing to Redis.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::output::{columns, print_line, with_bar};
use super::store_tools;
use crate::aof::winners::{self, Mismatch};
use crate::aof::{self, Coupon, Log, Place, Replayed, Rules, Violation};
use crate::config::StoreSettings;
use crate::domain::{CouponId, Partition};
use crate::embedded::commands_of_rdb;
use crate::postgres::{Postgres, fence, known};
use crate::redis::keys::Keys;

/// What one pass over the log has found.
struct Pass {
    log: Log,
    outcome: Result<Replayed, Violation>,
    mismatches: Vec<Mismatch>,
}

/// # Errors
/// If the log or Postgres cannot be read, or something is wrong in them.
pub async fn run(dir: &Path, mut stores: StoreSettings, is_json: bool) -> anyhow::Result<()> {
    let folder = aof::folder_of(dir);
    // A data directory has both stores.
    if stores.data_dir.is_none() && dir.join("postgres").is_dir() {
        stores.data_dir = Some(dir.to_owned());
    }
    let is_own = stores.external_addresses()?.is_none();
    let addresses = store_tools::answering_addresses(&stores)
        .await
        .context("the winners are compared with Postgres, which must run")?;
    let postgres = Postgres::new(&addresses.database_url, &stores.db_schema)?;
    let database = if is_own { 0 } else { database_of(&addresses.redis_url) };
    let reader = Reader { folder, postgres, prefix: stores.redis_prefix, is_own, database };
    let mut pass = reader.pass().await?;
    // An order that has moved since its log was read shows no difference in the next pass: its release is in that log.
    if !pass.mismatches.is_empty() {
        let before = std::mem::replace(&mut pass, reader.pass().await?).mismatches;
        pass.mismatches.retain(|mismatch| before.iter().any(|earlier| earlier.is_same(mismatch)));
    }
    reader.postgres.close().await;
    print(&reader.folder, &pass, is_json)
}

struct Reader {
    folder: PathBuf,
    postgres: Postgres,
    /// Of the names of the keys.
    prefix: String,
    is_own: bool,
    database: u64,
}

impl Reader {
    /// Reads Postgres, then the log: the claim of each order that Postgres has is then in the log.
    async fn pass(&self) -> anyhow::Result<Pass> {
        let pool = &self.postgres.pool;
        let (rules, live, mut log) = loop {
            let partitions = fence::partitions(pool).await?;
            let rules = self.rules(&partitions).await?;
            let live = known::live_orders(pool).await?;
            let log = Log::read(&self.folder)?;
            // A partition that was added since may be in the log.
            if fence::partitions(pool).await? == partitions {
                break (rules, live, log);
            }
        };
        for file in log.files.iter_mut().filter(|file| file.is_rdb) {
            let commands = commands_of_rdb(&file.bytes).await;
            file.bytes = commands
                .with_context(|| format!("{}, byte 0: the base file cannot be loaded", file.name))?
                .into();
        }
        let (replayed, read_bytes) = (log.clone(), Arc::new(AtomicU64::new(0)));
        let bytes: u64 = log.files.iter().map(|file| file.bytes.len() as u64).sum();
        let of_task = read_bytes.clone();
        let replay = tokio::task::spawn_blocking(move || aof::replay(&replayed, &rules, &of_task));
        let outcome = with_bar("replaying the log", bytes, &read_bytes, replay).await?;
        let mismatches = match &outcome {
            Ok(replayed) => winners::compare(&replayed.states, &live, pool).await?,
            Err(_) => Vec::new(),
        };
        Ok(Pass { log, outcome, mismatches })
    }

    /// The rules of each partition.
    async fn rules(&self, partitions: &[Partition]) -> anyhow::Result<Vec<Rules>> {
        let mut rules = Vec::with_capacity(partitions.len());
        for &partition in partitions {
            let (epoch, known) = known::coupons(&self.postgres.pool, partition).await?;
            rules.push(Rules {
                keys: Keys::new(&self.prefix, partition),
                is_own: self.is_own,
                database: self.database,
                epoch: Some(epoch.to_string()),
                known: Some(known),
            });
        }
        Ok(rules)
    }
}

/// The number of the database in an address of Redis.
fn database_of(address: &str) -> u64 {
    let path = url::Url::parse(address).ok().filter(|url| url.scheme() != "redis+unix");
    path.and_then(|url| url.path().trim_start_matches('/').parse().ok()).unwrap_or(0)
}

fn print(folder: &Path, pass: &Pass, is_json: bool) -> anyhow::Result<()> {
    let at = |place: Place| format!("{}, byte {}", pass.log.name(place.file), place.offset);
    match &pass.outcome {
        Err(Violation { place, why }) => {
            if is_json {
                let file = pass.log.name(place.file);
                let found = json!({"adds_up": false, "file": file, "offset": place.offset, "why": why});
                print_line(&found.to_string())?;
            }
            bail!("{}: {why}", at(*place))
        }
        Ok(replayed) => {
            let mismatches = &pass.mismatches;
            if is_json {
                print_line(&as_json(pass, replayed).to_string())?;
            } else {
                print_line(&as_text(folder, pass, replayed))?;
            }
            let Some(first) = mismatches.first() else { return Ok(()) };
            let place = first.place.map_or_else(|| "no transaction".to_owned(), at);
            let user = first.user.as_ref().map_or_else(String::new, |user| format!(" of {user}"));
            let order = first.order.map_or_else(String::new, |order| format!(", order {order}{user}"));
            let more = match mismatches.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            bail!("{place}: coupon {}{order}: {}{more}", first.coupon, first.why)
        }
    }
}

fn as_json(pass: &Pass, replayed: &Replayed) -> Value {
    let place =
        |place: Option<Place>| place.map(|place| (pass.log.name(place.file).to_owned(), place.offset));
    let mismatches = pass.mismatches.iter().map(|mismatch| {
        let at = place(mismatch.place);
        json!({
            "file": at.as_ref().map(|at| &at.0), "offset": at.as_ref().map(|at| at.1), "coupon": mismatch.coupon,
            "user": mismatch.user, "order": mismatch.order, "why": mismatch.why,
        })
    });
    let coupons = coupons(replayed).into_iter().map(|(id, coupon)| {
        let [total, stock] = ["total", "stock"].map(|field| coupon.number(field));
        json!({"coupon": id, "total": total, "stock": stock, "held": coupon.held_units()})
    });
    json!({
        "adds_up": pass.mismatches.is_empty(),
        "transactions": replayed.transactions,
        "incomplete_bytes": replayed.tail.map_or(0, |tail| tail.bytes),
        "coupons": coupons.collect::<Vec<_>>(),
        "mismatches": mismatches.collect::<Vec<_>>(),
    })
}

/// The coupons of all partitions, sorted by id.
fn coupons(replayed: &Replayed) -> Vec<(&CouponId, &Coupon)> {
    let mut coupons: Vec<_> = replayed.states.iter().flat_map(|state| &state.coupons).collect();
    coupons.sort_by_key(|(id, _)| *id);
    coupons
}

fn as_text(folder: &Path, pass: &Pass, replayed: &Replayed) -> String {
    let bytes: usize = pass.log.files.iter().map(|file| file.bytes.len()).sum();
    let mut lines = vec![format!(
        "{}: {} transactions in {} files, {bytes} bytes",
        folder.display(),
        replayed.transactions,
        pass.log.files.len()
    )];
    if let Some(tail) = replayed.tail {
        lines.push(format!(
            "the last {} bytes, from byte {} of {}, are an incomplete transaction, as a crash leaves it: Redis ignores it",
            tail.bytes,
            tail.place.offset,
            pass.log.name(tail.place.file)
        ));
    }
    lines.push(
        "after each transaction: stock + held = total, no unit is held twice, each claim has its event"
            .to_owned(),
    );
    let mut rows = vec![["COUPON", "TOTAL", "STOCK", "HELD"].map(str::to_owned).to_vec()];
    for (id, coupon) in coupons(replayed) {
        let number = |field| coupon.number(field).map_or_else(|| "-".to_owned(), |number| number.to_string());
        rows.push(vec![id.to_string(), number("total"), number("stock"), coupon.held_units().to_string()]);
    }
    lines.push(columns(&rows));
    if pass.mismatches.is_empty() {
        lines.push(
            "the holders at the end are the live orders in Postgres, and those on their way".to_owned(),
        );
    }
    lines.join("\n")
}
