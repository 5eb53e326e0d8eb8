//! Checks recorded runs of the program against the protocol. The input comes from the stores' own logs (the
//! append-only file, the write-ahead log), so the program can neither hide nor invent a step. There is one [`Line`]
//! for each script, acknowledgement and transaction. [`in_one_order`] merges both logs; [`Replay`] follows the lines
//! and names the first one that no rule allows.
//!
//! The rules are those of the searched model, for any number of coupons, users and workers. `of_model` turns the
//! model's steps into lines. Tests check that the replay allows every step of the model, and refuses each path to a
//! broken promise that the model finds without a rule.

mod entries;
mod group;
mod line;
mod memory;
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

/// A Redis entry id: milliseconds since 1970, and a sequence number.
pub type EntryId = (u64, u64);

/// One atomic step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A script or a command of the program that wrote.
    Redis(Vec<Effect>),
    /// A transaction that wrote; `lsn` is the end of its commit in the WAL.
    Postgres { lsn: u64, changes: Vec<Change> },
    /// A write by another program or by hand, to either store: everything is allowed.
    Hand { effects: Vec<Effect>, changes: Vec<Change> },
}

/// One write to Redis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    Marked {
        is_ready: bool,
        epoch: String,
    },
    /// Postgres's WAL position was recorded.
    Noted {
        lsn: u64,
    },
    /// A field of a claims hash was set. In every step `user` is the whole field: if a user may hold several units,
    /// each slot counts as a user. `key` is the claim's Idempotency-Key.
    Held {
        coupon: String,
        user: String,
        order: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
    /// A field of a claims hash was deleted.
    Freed {
        coupon: String,
        user: String,
    },
    StockMoved {
        coupon: String,
        by: i64,
    },
    /// A user got a place in a waiting list; the lowest place is served first.
    Placed {
        coupon: String,
        user: String,
        place: u64,
    },
    /// The order that a user in a waiting list gets was set.
    Promised {
        coupon: String,
        user: String,
        order: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
    /// A user was removed from a waiting list.
    Unplaced {
        coupon: String,
        user: String,
    },
    /// The order that a user in a waiting list gets was deleted.
    Unpromised {
        coupon: String,
        user: String,
    },
    /// Fields of a coupon hash were set.
    Defined {
        coupon: String,
        total: Option<i64>,
        stock: Option<i64>,
        version: Option<u64>,
    },
    /// An entry was appended; `event` is `None` if the entry is unreadable.
    Sent {
        entry: EntryId,
        event: Option<Event>,
    },
    /// The entry moved to the pending list of this consumer; if it was deleted, it left every pending list.
    Delivered {
        entry: EntryId,
        consumer: String,
    },
    Acknowledged {
        entry: EntryId,
    },
    /// Entries with a lower id were deleted.
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
    /// The places of a waiting list.
    Places(String),
    /// The orders of the users in a waiting list.
    Promises(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub order: String,
    pub coupon: String,
    pub user: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Separates the user from the slot in a field of the claims hash.
const SLOT_SEPARATOR: char = '\u{1f}';

/// The user of a field of the claims hash.
#[must_use]
pub fn user_of_field(field: &str) -> &str {
    field.split(SLOT_SEPARATOR).next().unwrap_or_default()
}

/// One committed change in Postgres: the row as it is after the commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Order {
        order: String,
        coupon: String,
        user: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
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
    /// An outbox row was inserted.
    Waiting {
        order: String,
    },
    /// An outbox row was deleted.
    Returned {
        order: String,
    },
    /// A dead letter was inserted.
    Letter {
        entry: Option<EntryId>,
        order: Option<String>,
    },
    /// A row of a waiting list was inserted.
    Joined {
        order: String,
        coupon: String,
        user: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
    /// A row of a waiting list was deleted.
    JoinGone {
        order: String,
    },
    Fence {
        epoch: String,
        lost: bool,
    },
}
