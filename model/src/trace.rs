//! Real runs held against the protocol. What Redis and Postgres did is read from their own logs (the append-only
//! file, the write-ahead log), one [`Line`] for each script, acknowledgement and transaction: nothing in the
//! program could leave one out or make one up. [`in_one_order`] puts both logs into one; [`Replay`] follows them
//! and names the first line that no rule allows.
//!
//! The rules here are those of the searched model, for any number of coupons, users and workers. `of_model` turns
//! the model's steps into lines; tests hold that every step of the model is allowed here, and that every way in
//! which the model breaks without a rule is refused.

mod of_model;
mod order;
mod postgres;
mod redis;
mod replay;
mod stores;

use serde::{Deserialize, Serialize};

pub use of_model::{Refused, hold_against_model, replay_path};
pub use order::in_one_order;
pub use replay::Replay;
pub use stores::{Coupon, Postgres, Redis, Row, Stores};

/// Milliseconds since 1970 and a number, as Redis counts.
pub type EntryId = (u64, u64);

/// One atomic step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A script or a command of the program's that wrote.
    Redis(Vec<Effect>),
    /// A transaction that wrote, by the end of its commit in the WAL.
    Postgres { lsn: u64, changes: Vec<Change> },
    /// What somebody else did to either store: anything is allowed.
    Hand { effects: Vec<Effect>, changes: Vec<Change> },
}

/// What was written to Redis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    Marked {
        is_ready: bool,
        epoch: String,
    },
    /// Postgres's position.
    Noted {
        lsn: u64,
    },
    /// A field of a claims hash set.
    Held {
        coupon: String,
        user: String,
        order: String,
    },
    /// A field of a claims hash deleted.
    Freed {
        coupon: String,
        user: String,
    },
    StockMoved {
        coupon: String,
        by: i64,
    },
    /// Fields of a coupon hash set.
    Defined {
        coupon: String,
        total: Option<i64>,
        stock: Option<i64>,
        version: Option<u64>,
    },
    /// An entry appended; without an event where it cannot be read as one.
    Sent {
        entry: EntryId,
        event: Option<Event>,
    },
    /// In the pending list of a consumer from now on, or out of every one if the entry was deleted.
    Delivered {
        entry: EntryId,
        consumer: String,
    },
    Acknowledged {
        entry: EntryId,
    },
    /// Entries with a lower id deleted.
    Trimmed {
        below: EntryId,
    },
    GroupMade {
        at_start: bool,
    },
    ConsumerGone {
        consumer: String,
    },
    GroupGone,
    EntryGone {
        entry: EntryId,
    },
    Gone {
        key: Key,
    },
    Flushed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    Marker,
    Stream,
    Position,
    Coupon(String),
    Claims(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub order: String,
    pub coupon: String,
    pub user: String,
}

/// What was committed to Postgres: a row as it stands from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Order {
        order: String,
        coupon: String,
        user: String,
        status: String,
    },
    OrderGone {
        order: String,
    },
    Coupon {
        coupon: String,
        total: i64,
        stock: i64,
        version: u64,
        published: u64,
    },
    /// An outbox row.
    Waiting {
        order: String,
    },
    /// An outbox row deleted.
    Returned {
        order: String,
    },
    Letter {
        entry: Option<EntryId>,
        order: Option<String>,
    },
    Fence {
        epoch: String,
        lost: bool,
    },
}
