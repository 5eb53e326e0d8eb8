//! What both Redises, Postgres and the processes hold in the model of shares.

use super::Broken;
pub use crate::state::{Epoch, Marker, Order, Orders, bit, counter, each};

pub const SHARES: usize = 2;
pub const MOVERS: usize = 2;
/// Publications to one partition that may be on their way at the same time.
pub const PUBLICATIONS: usize = 2;

/// The coupon's hash of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hash {
    pub version: u8,
    pub total: i8,
    pub stock: i8,
    /// The total of all shares.
    pub whole: i8,
    pub taken: i8,
    /// The version in which Postgres shall no longer have the taken units in this share; 0 without a take.
    pub taken_for: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Redis {
    pub run: u8,
    /// The run for which the last rebuild set the marker.
    pub ready_run: u8,
    pub marker: Marker,
    pub hash: Option<Hash>,
    pub held: Orders,
    /// Events that are not acknowledged.
    pub stream: Orders,
}

impl Redis {
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.hash.is_some_and(|hash| hash.stock + count(self.held) == hash.total)
    }

    /// Whether claims are accepted: a process has found this server to be the one of the marker.
    #[must_use]
    pub fn sells(&self) -> bool {
        matches!(self.marker, Marker::Ready(_)) && self.run == self.ready_run
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Share {
    pub version: u8,
    pub total: i8,
    pub stock: i8,
}

/// What Postgres has of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rows {
    pub epoch: Epoch,
    /// The run of the Redis of this epoch.
    pub run: u8,
    /// Whether a Postgres loss waits for the operator.
    pub lost: bool,
    pub share: Share,
    pub live: Orders,
    pub dead: Orders,
    pub outbox: Orders,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Postgres {
    /// The total that the admin has set.
    pub whole: i8,
    pub rows: [Rows; SHARES],
}

impl Postgres {
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.rows.iter().any(|rows| rows.lost)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Publication {
    pub epoch: Epoch,
    pub version: u8,
    pub total: i8,
    pub whole: i8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Take {
    pub from: u8,
    pub epoch: Epoch,
    pub version: u8,
    pub units: i8,
    pub run: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MoverStage {
    #[default]
    Idle,
    /// The take is sent.
    Sent,
    Answered,
    /// The other share has the units although nothing is committed.
    Given,
    /// The transaction has made its checks and holds its locks.
    Open,
}

/// A process that moves units, or lowers the total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mover {
    pub stage: MoverStage,
    /// Units by which the total shall be lowered; 0 for a move.
    pub lowers: i8,
    /// The share of the take.
    pub from: u8,
    pub units: i8,
    pub epochs: [Epoch; SHARES],
    pub versions: [u8; SHARES],
    /// Units taken from each share.
    pub got: [i8; SHARES],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stage {
    #[default]
    Idle,
    EpochWritten,
    Opened,
    DefinitionRead,
    Read,
    Decided,
    Set,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rebuilder {
    pub stage: Stage,
    pub epoch: Epoch,
    pub run: u8,
    pub lost: bool,
    /// Whether Redis is not older than Postgres.
    pub is_current: bool,
    pub share: Share,
    pub whole: i8,
    pub kept: Orders,
    pub resend: Orders,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub redis: [Redis; SHARES],
    /// A replica of one partition's Redis with older data.
    pub replica: Option<(u8, Redis)>,
    pub postgres: Postgres,
    pub backup: Option<Postgres>,
    pub movers: [Mover; MOVERS],
    /// A take whose sender no longer waits for it.
    pub late: Option<Take>,
    pub publications: [[Option<Publication>; PUBLICATIONS]; SHARES],
    /// An event that a worker has read, and the epoch.
    pub recording: [Option<(Epoch, Order)>; SHARES],
    pub releasing: [Option<(Epoch, Order)>; SHARES],
    pub rebuilders: [Rebuilder; SHARES],
    pub accepted: Orders,
    /// Accepted orders that a fault has taken from both stores.
    pub excused: Orders,
    pub broken: Option<Broken>,
    /// The highest total that an admin has set.
    pub highest: i8,
    pub faults: u8,
    pub moves: u8,
    pub raises: u8,
    pub lowers: u8,
    pub cancels: u8,
}

impl State {
    #[must_use]
    pub fn first(units: [i8; SHARES]) -> Self {
        let epoch = 8;
        let whole = units.iter().sum();
        let mut state = Self { highest: whole, ..Self::default() };
        state.postgres.whole = whole;
        for (p, &total) in units.iter().enumerate() {
            let run = 1 + p as u8;
            let share = Share { version: 1, total, stock: total };
            state.postgres.rows[p] = Rows { epoch, run, share, ..Rows::default() };
            let hash = Hash { version: 1, total, stock: total, whole, ..Hash::default() };
            let marker = Marker::Ready(epoch);
            state.redis[p] = Redis { run, ready_run: run, marker, hash: Some(hash), ..Redis::default() };
        }
        state
    }

    /// Whether a process that looks at this partition accepts claims.
    #[must_use]
    pub fn is_up(&self, p: usize) -> bool {
        let (redis, rows) = (&self.redis[p], &self.postgres.rows[p]);
        !rows.lost && redis.run == rows.run && redis.marker == Marker::Ready(rows.epoch) && redis.adds_up()
    }

    /// Whether an open transaction has locked the shares.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.movers.iter().any(|mover| mover.stage == MoverStage::Open)
    }
}

#[must_use]
pub fn home(order: Order) -> usize {
    usize::from(order) / 2
}

#[must_use]
pub fn count(orders: Orders) -> i8 {
    orders.count_ones() as i8
}
