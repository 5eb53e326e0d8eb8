//! What a run did and which answers it got, as plain data: one line of JSON each, in memory and in a file. It knows
//! nothing of the program. Times are microseconds since 1970 on a monotonic clock.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// From the moment before a request was sent to the moment after its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub began_us: u64,
    pub ended_us: u64,
}

/// What an answer means for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Class {
    /// Done: an accepted claim, an edit in force, a cancelled order.
    Ok,
    /// The user has a unit already.
    Dup,
    SoldOut,
    /// Any other refusal.
    Refused,
    /// A timeout, a reset or a 5xx: the request may have been executed, or may be later.
    Unknown,
}

impl Class {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Dup => "DUP",
            Self::SoldOut => "SOLD_OUT",
            Self::Refused => "REFUSED",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// One request for one unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub span: Span,
    pub coupon: String,
    pub user: String,
    /// Its `Idempotency-Key`; only claims of coupons with a limit above 1 have one.
    pub key: Option<String>,
    pub class: Class,
    /// Status and problem code, or what failed.
    pub answer: String,
    pub order: Option<String>,
    pub status: Option<String>,
    /// Whether the client repeats it if the outcome is unknown.
    pub retries: bool,
}

/// The answer to a user who requested the status of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusAnswer {
    pub span: Span,
    pub order: String,
    pub status: String,
}

/// What a client asks to become of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    Confirm,
    Cancel,
    /// The admin ends a confirmed order; its unit returns to stock.
    Revoke,
    /// The same, but the unit is withdrawn: the total falls by one.
    Withdraw,
}

impl Asked {
    /// The reason that the request gives, and that the order then keeps.
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Confirm | Self::Cancel => None,
            Self::Revoke => Some("returned by the test"),
            Self::Withdraw => Some("withdrawn by the test"),
        }
    }
}

/// A request to confirm, cancel or revoke an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    pub span: Span,
    pub coupon: String,
    pub order: String,
    pub asked: Asked,
    pub class: Class,
    /// Status and problem code, or what failed.
    pub answer: String,
    /// The order's status in the answer.
    pub status: Option<String>,
    /// Whether the answer says that a payment is to be refunded.
    pub refund_due: bool,
}

/// What a user asks of a waiting list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    Join,
    Look,
    Leave,
}

/// A request to a waiting list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    pub span: Span,
    pub coupon: String,
    pub user: String,
    /// The `Idempotency-Key` of a join; only coupons with a limit above 1 need one.
    pub key: Option<String>,
    pub wish: Wish,
    pub class: Class,
    /// Status and problem code, or what failed.
    pub answer: String,
    /// The order that the user gets, or has got.
    pub order: Option<String>,
    /// `waiting`, or the status of the order.
    pub status: Option<String>,
    pub place: Option<i64>,
}

impl Wait {
    /// Whether the answer tells a place in line.
    pub fn is_waiting(&self) -> bool {
        self.status.as_deref() == Some("waiting")
    }

    /// Whether the user left, or may have left.
    pub fn may_have_left(&self) -> bool {
        self.wish == Wish::Leave && self.class != Class::Refused
    }
}

/// A new total that the admin requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    pub span: Span,
    pub coupon: String,
    pub total: i64,
    /// Whether it is below the total before it.
    pub lowers: bool,
    pub class: Class,
}

/// An order that the test cancelled in Postgres.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    pub span: Span,
    pub order: String,
    pub class: Class,
}

/// An event that the test added to the stream and that can never be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poison {
    pub span: Span,
    pub kind: String,
    /// `None` if Redis gave no answer.
    pub entry: Option<String>,
    /// `None` if the event has no readable order id.
    pub order: Option<String>,
}

/// A planned fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub span: Span,
    pub kind: String,
    pub fired: bool,
    pub loses: Loses,
    pub note: String,
    /// What it must not slow down.
    pub spares: Option<Spared>,
}

/// Coupons whose claims must be answered although servers of other ones have failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spared {
    /// While those servers were away.
    pub span: Span,
    pub coupons: Vec<String>,
}

/// What a fault may remove from Redis without a trace in Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loses {
    #[default]
    Nothing,
    /// Events; the claims hash still has the claims of the real ones.
    Events,
    /// Accepted claims that are not recorded yet.
    Claims,
}

/// The state of a store at some moment of the span; `None` if it gave no answer or was not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub span: Span,
    pub postgres: Option<Vec<PostgresCoupon>>,
    pub redis: Option<RedisState>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresCoupon {
    pub id: String,
    pub total: i64,
    pub stock: i64,
    pub live: i64,
    /// Users with two live orders of one `Idempotency-Key`, or without any.
    pub doubled: i64,
    /// The most live orders of a user.
    pub most: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisState {
    /// Empty if it is absent.
    pub marker: String,
    /// Delivered and not acknowledged; -1 without the stream or its group.
    pub pending: i64,
    /// 1 if the group has unread entries, else 0.
    pub unread: i64,
    pub coupons: Vec<RedisCoupon>,
}

impl RedisState {
    /// Adds what another partition holds. The marker is that of a partition that is not ready, if there is one.
    pub fn add(&mut self, other: Self) {
        if self.marker.starts_with("ready:") {
            self.marker = other.marker;
        }
        let is_known = self.pending >= 0 && other.pending >= 0;
        self.pending = if is_known { self.pending + other.pending } else { -1 };
        self.unread += other.unread;
        for coupon in other.coupons {
            match self.coupons.iter_mut().find(|known| known.id == coupon.id) {
                Some(known) => {
                    let add = |a: Option<i64>, b: Option<i64>| a.map(|a| a + b.unwrap_or_default()).or(b);
                    known.total = add(known.total, coupon.total);
                    known.stock = add(known.stock, coupon.stock);
                    known.held += coupon.held;
                }
                None => self.coupons.push(coupon),
            }
        }
    }

    /// Whether every event in the stream is recorded.
    pub fn is_quiet(&self) -> bool {
        self.marker.starts_with("ready:") && self.pending == 0 && self.unread == 0
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisCoupon {
    pub id: String,
    pub total: Option<i64>,
    pub stock: Option<i64>,
    pub held: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    Claim(Claim),
    Status(StatusAnswer),
    Transition(Transition),
    Wait(Wait),
    Edit(Edit),
    Cancel(Cancel),
    Poison(Poison),
    Fault(Fault),
    Sample(Sample),
}

/// What was asked for when a coupon was created.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub total: i64,
    /// How many units a user may hold.
    pub limit: i64,
    /// How long an order is reserved; `None` if it is confirmed at once.
    pub reserve_seconds: Option<u64>,
    /// Whether a claim is answered only after its order is in Postgres.
    pub is_durable: bool,
    pub has_waitlist: bool,
}

/// All lines by kind, each kind in the order in which the requests ended.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Number of clients: at most this many claims are open at the same time.
    pub clients: usize,
    /// Each coupon as it was created.
    pub coupons: BTreeMap<String, Plan>,
    pub claims: Vec<Claim>,
    pub statuses: Vec<StatusAnswer>,
    pub transitions: Vec<Transition>,
    pub waits: Vec<Wait>,
    pub edits: Vec<Edit>,
    pub cancels: Vec<Cancel>,
    pub poisons: Vec<Poison>,
    pub faults: Vec<Fault>,
    pub samples: Vec<Sample>,
}

impl History {
    pub fn add(&mut self, line: Line) {
        match line {
            Line::Claim(claim) => self.claims.push(claim),
            Line::Status(status) => self.statuses.push(status),
            Line::Transition(transition) => self.transitions.push(transition),
            Line::Wait(wait) => self.waits.push(wait),
            Line::Edit(edit) => self.edits.push(edit),
            Line::Cancel(cancel) => self.cancels.push(cancel),
            Line::Poison(poison) => self.poisons.push(poison),
            Line::Fault(fault) => self.faults.push(fault),
            Line::Sample(sample) => self.samples.push(sample),
        }
    }
}

/// Collects the lines of all tasks of a run.
pub struct Recorder {
    started: Instant,
    started_us: u64,
    kept: Mutex<(History, BufWriter<File>)>,
}

impl Recorder {
    pub fn new(path: &Path, clients: usize, coupons: BTreeMap<String, Plan>) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let history = History { clients, coupons, ..History::default() };
        Self {
            started: Instant::now(),
            started_us: u64::try_from(since_1970.as_micros()).unwrap(),
            kept: Mutex::new((history, BufWriter::new(File::create(path).unwrap()))),
        }
    }

    pub fn now_us(&self) -> u64 {
        self.started_us + u64::try_from(self.started.elapsed().as_micros()).unwrap()
    }

    /// The span that ends now.
    pub fn since(&self, began_us: u64) -> Span {
        Span { began_us, ended_us: self.now_us() }
    }

    pub fn add(&self, line: Line) {
        let mut kept = self.kept.lock().unwrap();
        serde_json::to_writer(&mut kept.1, &line).unwrap();
        kept.1.write_all(b"\n").unwrap();
        kept.0.add(line);
    }

    /// Everything so far; the file is complete on disk.
    pub fn history(&self) -> History {
        let mut kept = self.kept.lock().unwrap();
        kept.1.flush().unwrap();
        kept.0.clone()
    }
}
