//! What the stores and the processes hold. Everything is small and copied: a state is its own key. What users and
//! people know is in `users`.

pub use crate::users::{ToCompare, Users};

/// Users, and the orders that they may ask for: order `2 * user + attempt`.
pub const USERS: usize = 2;
pub const ORDERS: usize = 2 * USERS;
pub const WORKERS: usize = 2;
pub const REBUILDERS: usize = 2;
/// Entries that the stream holds at most; a state with more is not followed.
pub const ENTRIES: usize = 6;

pub type Order = u8;
/// A set of orders, one bit each.
pub type Orders = u8;
/// Counter times eight, and for the random part that tells two of one counter apart: how many faults had happened,
/// and which process made it.
pub type Epoch = u8;

#[must_use]
pub fn user_of(order: Order) -> usize {
    usize::from(order) / 2
}

#[must_use]
pub fn bit(order: Order) -> Orders {
    1 << order
}

pub fn each(orders: Orders) -> impl Iterator<Item = Order> {
    (0..ORDERS as u8).filter(move |&order| orders & bit(order) != 0)
}

#[must_use]
pub fn counter(epoch: Epoch) -> u8 {
    epoch / 8
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Marker {
    #[default]
    None,
    Building(Epoch),
    Ready(Epoch),
}

impl Marker {
    #[must_use]
    pub fn epoch(self) -> Epoch {
        match self {
            Self::None => 0,
            Self::Building(epoch) | Self::Ready(epoch) => epoch,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Coupon {
    pub total: i8,
    pub stock: i8,
    pub version: u8,
    pub paused: bool,
}

/// Where an entry stands in the consumer group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// No entry.
    #[default]
    Empty,
    Undelivered,
    Pending(u8),
    /// Deleted from the stream, still in the pending list of this consumer.
    Deleted(u8),
    Acknowledged,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    pub place: Place,
    pub order: Order,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stream {
    /// Tells the entries of this stream from those of one that was deleted.
    pub generation: u8,
    pub has_group: bool,
    /// Sorted: their order plays no part.
    pub entries: [Entry; ENTRIES],
}

impl Stream {
    /// `false` where there is no room: the state is then not followed.
    #[must_use]
    pub fn add(&mut self, order: Order) -> bool {
        // An acknowledged entry of the same order says nothing that a second one would not.
        let Some(free) = self.entries.iter_mut().find(|entry| entry.place == Place::Empty) else {
            return false;
        };
        *free = Entry { place: Place::Undelivered, order };
        self.sort();
        true
    }

    pub fn sort(&mut self) {
        self.entries.sort_unstable();
    }

    /// Orders whose events are neither acknowledged nor deleted.
    #[must_use]
    pub fn unacknowledged(&self) -> Orders {
        self.orders(|place| matches!(place, Place::Undelivered | Place::Pending(_)))
    }

    #[must_use]
    pub fn orders(&self, which: impl Fn(Place) -> bool) -> Orders {
        self.entries.iter().filter(|entry| which(entry.place)).fold(0, |set, entry| set | bit(entry.order))
    }

    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.place, Place::Empty | Place::Acknowledged))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Redis {
    /// Run id and replication id.
    pub run: u8,
    pub marker: Marker,
    pub coupon: Option<Coupon>,
    /// Who holds what.
    pub claims: [Option<Order>; USERS],
    pub stream: Option<Stream>,
    /// The highest position of Postgres's WAL that was noted.
    pub noted: u8,
}

impl Redis {
    #[must_use]
    pub fn held(&self) -> i8 {
        self.claims.iter().flatten().count() as i8
    }

    /// The sum that every script looks at first, and the stream.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.stream.is_some() && self.believable().is_some()
    }

    /// The coupon's hash, if it adds up with the claims.
    #[must_use]
    pub fn believable(&self) -> Option<Coupon> {
        self.coupon.filter(|coupon| coupon.stock + self.held() == coupon.total)
    }

    /// Nothing of the program's is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self { run: self.run, ..Self::default() }
    }

    #[must_use]
    pub fn holds(&self, order: Order) -> bool {
        self.claims[user_of(order)] == Some(order)
    }

    #[must_use]
    pub fn has_group(&self) -> bool {
        self.stream.is_some_and(|stream| stream.has_group)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Status {
    #[default]
    None,
    Live,
    Cancelled,
    Rejected,
}

/// The fence row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Row {
    pub epoch: Epoch,
    /// The run of the Redis of the agreement; 0 while a rebuild makes one with another.
    pub run: u8,
    pub identity: u8,
    pub lost: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Postgres {
    pub identity: u8,
    /// Commits that matter to the position; counted only where an older copy may come back.
    pub position: u8,
    pub row: Row,
    pub coupon: Coupon,
    pub published: u8,
    pub status: [Status; ORDERS],
    pub outbox: Orders,
}

impl Postgres {
    #[must_use]
    pub fn live(&self, user: usize) -> Option<Order> {
        (0..ORDERS as u8)
            .find(|&order| user_of(order) == user && self.status[usize::from(order)] == Status::Live)
    }

    #[must_use]
    pub fn live_count(&self) -> i8 {
        self.status.iter().filter(|&&status| status == Status::Live).count() as i8
    }

    /// Orders that have ended.
    #[must_use]
    pub fn dead(&self) -> Orders {
        let is_dead =
            |order: &u8| matches!(self.status[usize::from(*order)], Status::Cancelled | Status::Rejected);
        (0..ORDERS as u8).filter(is_dead).fold(0, |set, order| set | bit(order))
    }

    #[must_use]
    pub fn has_row(&self, order: Order) -> bool {
        self.status[usize::from(order)] != Status::None
    }
}

/// The serving process: its fence, its publisher, its returner of units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Server {
    /// The epoch in which claims are taken.
    pub session: Option<Epoch>,
    /// An epoch of which something is known to be lost, and whether Postgres lost it.
    pub loss: Option<(Epoch, bool)>,
    pub publishing: Option<Publication>,
    pub returning: Returning,
}

/// A definition on its way to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Publication {
    pub epoch: Epoch,
    pub version: u8,
    pub total: i8,
    pub paused: bool,
    /// Postgres's position when it was read.
    pub position: u8,
    pub is_answered: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Returning {
    #[default]
    Idle,
    /// Seen waiting at this position of Postgres's.
    Picked(Epoch, Order, u8),
    Answered(Order),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Worker {
    #[default]
    Idle,
    /// Has read the marker.
    Marked(Epoch),
    /// Has an event of the stream of that generation.
    Has(Epoch, u8, Order),
    /// Postgres refuses the event for good.
    Refused(Epoch, u8, Order),
    /// A transaction is open: the order is inserted, or rejected, for this worker alone.
    Open(Epoch, u8, Order, Status),
    /// Ended in Postgres; to be acknowledged. The last part is whether it was rejected here.
    Ended(Epoch, u8, Order, bool),
}

impl Worker {
    #[must_use]
    pub fn has_open_transaction(self) -> bool {
        matches!(self, Self::Open(..))
    }
}

/// How far a rebuild has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    #[default]
    Idle,
    Locked,
    Looked,
    EpochWritten,
    Begun,
    Defined,
    HashRead,
    EventsRead,
    Decided,
    FieldsApplied,
    CouponSet,
    Resent,
    Ready,
    Published,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is seen at a step of its own")]
pub struct Rebuilder {
    pub stage: Stage,
    /// A person ordered it.
    pub ordered: bool,
    /// Postgres still knows the session; a dead one is noticed at its next statement.
    pub session_lives: bool,
    pub epoch: Epoch,
    pub run: u8,
    pub postgres_lost: bool,
    /// Redis is not behind what Postgres has: live orders that it does not hold have ended.
    pub may_cancel: bool,
    pub definition: Coupon,
    /// The coupon's hash as it was read with the claims, and whether it adds up with them.
    pub hash: Option<Coupon>,
    pub is_believed: bool,
    pub claims: [Option<Order>; USERS],
    pub events: Orders,
    /// Of pending entries that somebody had deleted.
    pub deleted: Orders,
    /// What each user is to hold.
    pub kept: [Option<Order>; USERS],
    pub resend: Orders,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Comparison {
    #[default]
    Idle,
    /// Claims that the hash holds.
    HashRead(Epoch, Orders),
    /// Those without an event.
    EventsRead(Epoch, Orders),
    /// Orders to send again, and orders to release.
    Found(Epoch, Orders, Orders),
    /// Live orders in Postgres.
    LiveRead(Epoch, Orders),
    /// Those that the hash does not hold.
    Unheld(Epoch, Orders),
}

impl Comparison {
    /// The epoch in which it began.
    #[must_use]
    pub fn epoch(self) -> Option<Epoch> {
        match self {
            Self::Idle => None,
            Self::HashRead(epoch, _)
            | Self::EventsRead(epoch, _)
            | Self::Found(epoch, ..)
            | Self::LiveRead(epoch, _)
            | Self::Unheld(epoch, _) => Some(epoch),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub redis: Redis,
    /// A replica of Redis, behind it.
    pub replica: Option<Redis>,
    pub postgres: Postgres,
    /// An older copy of Postgres.
    pub backup: Option<Postgres>,
    pub server: Server,
    pub workers: [Worker; WORKERS],
    pub rebuilders: [Rebuilder; REBUILDERS],
    /// Which rebuilder holds the lock.
    pub lock: Option<u8>,
    pub comparison: Comparison,
    pub users: Users,
    pub faults: u8,
    pub cancels: u8,
    pub edits: u8,
    pub orders: u8,
}

impl State {
    /// An agreement in force, one coupon published, nothing sold.
    #[must_use]
    pub fn first(total: i8) -> Self {
        let coupon = Coupon { total, stock: total, version: 1, paused: false };
        let epoch = 8;
        Self {
            redis: Redis {
                run: 1,
                marker: Marker::Ready(epoch),
                coupon: Some(coupon),
                stream: Some(Stream { has_group: true, ..Stream::default() }),
                ..Redis::default()
            },
            postgres: Postgres {
                identity: 1,
                row: Row { epoch, run: 1, identity: 1, lost: false },
                coupon,
                published: 1,
                ..Postgres::default()
            },
            server: Server { session: Some(epoch), ..Server::default() },
            ..Self::default()
        }
    }

    /// A recording transaction holds the coupon's row.
    #[must_use]
    pub fn row_is_locked(&self) -> bool {
        self.workers.iter().any(|worker| worker.has_open_transaction())
    }
}
