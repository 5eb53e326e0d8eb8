//! Replays the append-only file that Redis wrote, transaction by transaction, and checks after each one that the sale's
//! rules hold: stock + held = total, no unit twice, an order event for each claim. Each partition has a state of its own.
//! `winners` then compares the holders at the end with Postgres. Reads only; `docs/RECEIPT.md` lists the rules.

mod commands;
mod coupons;
mod files;
mod group;
mod holders;
mod markers;
mod partitions;
mod replay;
mod state;
mod stream;
mod transaction;
pub mod winners;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

pub use commands::Tail;
pub use coupons::Coupon;
pub use files::Log;
use partitions::Partitions;
pub use state::{Rules, State};

/// A position in one of the log's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The number of the file in [`Log::files`].
    pub file: usize,
    /// Bytes from the start of the file.
    pub offset: usize,
}

/// The first transaction that breaks a rule or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The start of the transaction.
    pub place: Place,
    pub why: String,
}

impl Violation {
    fn new(place: Place, why: impl Into<String>) -> Self {
        Self { place, why: why.into() }
    }
}

/// The state at the end of a log in which every transaction keeps the rules.
#[derive(Debug)]
pub struct Replayed {
    /// Of each partition.
    pub states: Vec<State>,
    pub transactions: u64,
    /// An incomplete transaction at the end, as a crash leaves it. Redis ignores it, too.
    pub tail: Option<Tail>,
}

/// Replays all files of a log by the rules of each partition. `read_bytes` follows the position in it.
///
/// # Errors
/// The first transaction that breaks a rule or cannot be read.
pub fn replay(log: &Log, rules: &[Rules], read_bytes: &AtomicU64) -> Result<Replayed, Violation> {
    let is_own = rules.iter().any(|rules| rules.is_own);
    let mut partitions = Partitions::new(rules);
    let (mut transactions, mut tail) = (0, None);
    let mut earlier_bytes = 0;
    let last = log.files.len().saturating_sub(1);
    for (number, file) in log.files.iter().enumerate() {
        let mut reader = commands::Reader::new(number, file.bytes.clone(), number == last);
        while let Some(transaction) = reader.next_transaction()? {
            if file.is_base {
                partitions.load(&transaction)?;
            } else {
                partitions.apply(&transaction, log)?;
            }
            transactions += 1;
            read_bytes.store((earlier_bytes + transaction.place.offset) as u64, Ordering::Relaxed);
        }
        earlier_bytes += file.bytes.len();
        if file.is_base {
            partitions.loaded(Place { file: number, offset: 0 })?;
        }
        tail = reader.tail();
        if let Some(tail) =
            tail.filter(|_| is_own && !reader.in_tail.iter().all(|command| is_written(&command[0])))
        {
            return Err(Violation::new(tail.place, "a command that the program does not send"));
        }
    }
    let states = partitions.end()?;
    Ok(Replayed { states, transactions, tail })
}

/// Whether Redis logs commands of this name for the program.
fn is_written(name: &[u8]) -> bool {
    let names = [
        "SET", "HSET", "HDEL", "HINCRBY", "XADD", "XACK", "XCLAIM", "XTRIM", "XGROUP", "ZADD", "ZREM", "DEL",
    ];
    names.iter().any(|known| known.as_bytes() == name)
}

/// The folder with the manifest: `dir` itself, or one of the folders in it in which the program and Redis put it.
#[must_use]
pub fn folder_of(dir: &Path) -> std::path::PathBuf {
    let candidates = ["", "appendonlydir", "redis/appendonlydir"].map(|below| dir.join(below));
    let has_manifest = |folder: &&std::path::PathBuf| folder.join(files::MANIFEST).is_file();
    candidates.iter().find(has_manifest).unwrap_or(&candidates[2]).clone()
}

/// The start of each transaction of a file.
#[must_use]
pub fn starts(bytes: &bytes::Bytes) -> Vec<usize> {
    let mut reader = commands::Reader::new(0, bytes.clone(), true);
    let mut starts = Vec::new();
    while let Ok(Some(transaction)) = reader.next_transaction() {
        starts.push(transaction.place.offset);
    }
    starts
}
