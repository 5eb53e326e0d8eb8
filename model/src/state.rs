//! The state of the model: both stores, all processes, and the counters of the scope. Everything is small and `Copy`,
//! because a state is its own key in the search. What users and the operator know is in `users`.

mod processes;
mod stores;

pub use self::processes::{
    Comparison, Joining, Publication, Rebuilder, Releasing, Server, Stage, Transition, TransitionKind, Worker,
};
pub use self::stores::{
    Coupon, Entry, Line, Marker, Place, Postgres, Redis, Row, Status, Stream, Withdrawal,
};
pub use crate::users::{ToCompare, Users};

/// Number of users, or of slots of the one user. Order `2 * user + attempt` belongs to `user`.
pub const USERS: usize = 2;
pub const ORDERS: usize = 2 * USERS;
pub const WORKERS: usize = 2;
pub const REBUILDERS: usize = 2;
/// The most entries that the model's stream holds; the search drops a step that would add more.
pub const ENTRIES: usize = 6;

pub type Order = u8;
/// A set of orders, one bit each.
pub type Orders = u8;
/// An epoch: its counter times eight, plus a number in place of the random part, made of the number of faults so far
/// and of the process. It distinguishes two epochs with the same counter.
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
pub struct State {
    pub redis: Redis,
    /// A replica of Redis with older data.
    pub replica: Option<Redis>,
    pub postgres: Postgres,
    /// An older copy of Postgres.
    pub backup: Option<Postgres>,
    pub server: Server,
    pub workers: [Worker; WORKERS],
    pub rebuilders: [Rebuilder; REBUILDERS],
    /// The rebuilder that holds the lock.
    pub lock: Option<u8>,
    pub comparison: Comparison,
    pub users: Users,
    pub faults: u8,
    pub cancels: u8,
    pub confirms: u8,
    pub withdraws: u8,
    /// Orders whose time to pay has passed.
    pub due: Orders,
    pub edits: u8,
    pub orders: u8,
}

impl State {
    /// The first state: claims are accepted, one coupon is published, nothing is sold.
    #[must_use]
    pub fn first(total: i8) -> Self {
        let coupon = Coupon { total, stock: total, version: 1, paused: false };
        let epoch = 8;
        Self {
            redis: Redis {
                run: 1,
                noted: 1,
                marker: Marker::Ready(epoch),
                coupon: Some(coupon),
                stream: Some(Stream { has_group: true, ..Stream::default() }),
                ..Redis::default()
            },
            postgres: Postgres {
                identity: 1,
                position: 1,
                row: Row { epoch, run: 1, identity: 1, agreed_epoch: epoch, agreed: 1, ..Row::default() },
                coupon,
                published: 1,
                ..Postgres::default()
            },
            server: Server { session: Some(epoch), ..Server::default() },
            ..Self::default()
        }
    }

    /// Whether a recording transaction locks the coupon's row.
    #[must_use]
    pub fn row_is_locked(&self) -> bool {
        self.workers.iter().any(|worker| worker.has_open_transaction())
    }
}
