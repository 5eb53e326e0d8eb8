//! What a run did and what it was told, as plain data: one line of JSON each, in memory and in a file. Nothing
//! here knows the program; times are microseconds since 1970 on one clock that never goes back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// From the moment before something was sent to the moment after its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub began_us: u64,
    pub ended_us: u64,
}

/// What an answer means for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Class {
    /// Done: an accepted claim, an edit in force, a row that was written.
    Ok,
    /// The user has it already.
    Dup,
    SoldOut,
    /// Any other definite no.
    Refused,
    /// A time-out, a reset, a 5xx: it may have been done, now or later.
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
    pub class: Class,
    /// Status and problem code, or what broke.
    pub told: String,
    pub order: Option<String>,
    pub status: Option<String>,
    /// The client sends it again if it was not answered.
    pub insists: bool,
}

/// An order's status as its owner was told when he asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub span: Span,
    pub order: String,
    pub told: String,
}

/// A new total, as the admin asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    pub span: Span,
    pub coupon: String,
    pub total: i64,
    /// Less than the total before it.
    pub lowers: bool,
    pub class: Class,
}

/// An order that was ended by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    pub span: Span,
    pub order: String,
    pub class: Class,
}

/// A hand-made event that can never be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poison {
    pub span: Span,
    pub kind: String,
    /// Unknown where Redis gave no answer.
    pub entry: Option<String>,
    /// Where it has a readable one.
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
}

/// What a fault takes out of Redis for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loses {
    #[default]
    Nothing,
    /// Events, of which the claims hash still names the real ones.
    Events,
    /// Accepted claims that were not recorded yet.
    Claims,
}

/// A store as it stood at some moment between the span's ends; `None` where it gave no answer or was not asked.
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
    /// Users with more than one live order.
    pub doubled: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisState {
    /// Empty where it is absent.
    pub marker: String,
    /// Delivered, not acknowledged; -1 without the stream or its group.
    pub pending: i64,
    /// Entries nobody has read, counted to one.
    pub unread: i64,
    pub coupons: Vec<RedisCoupon>,
}

impl RedisState {
    /// Every event that was in the stream is recorded.
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
    Status(Status),
    Edit(Edit),
    Cancel(Cancel),
    Poison(Poison),
    Fault(Fault),
    Sample(Sample),
}

/// All lines by what they are, in the order in which they ended.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Requests that could be under way at once.
    pub clients: usize,
    /// Total of each coupon at the start.
    pub coupons: BTreeMap<String, i64>,
    pub claims: Vec<Claim>,
    pub statuses: Vec<Status>,
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
            Line::Edit(edit) => self.edits.push(edit),
            Line::Cancel(cancel) => self.cancels.push(cancel),
            Line::Poison(poison) => self.poisons.push(poison),
            Line::Fault(fault) => self.faults.push(fault),
            Line::Sample(sample) => self.samples.push(sample),
        }
    }
}

/// Takes lines from everybody who does or sees something.
pub struct Recorder {
    started: Instant,
    started_us: u64,
    kept: Mutex<(History, BufWriter<File>)>,
}

impl Recorder {
    pub fn new(path: &Path, clients: usize, coupons: BTreeMap<String, i64>) -> Self {
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

    /// Everything so far, with the file whole on disk.
    pub fn history(&self) -> History {
        let mut kept = self.kept.lock().unwrap();
        kept.1.flush().unwrap();
        kept.0.clone()
    }
}
