//! What Redis and Postgres hold in the model.

use super::{ENTRIES, Epoch, ORDERS, Order, Orders, USERS, bit, user_of};

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

/// Tickets of the users who wait, in the order in which they joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Line([Option<Order>; USERS + 1]);

impl Line {
    #[must_use]
    pub fn first(self) -> Option<Order> {
        self.0[0]
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        self.first().is_none()
    }

    /// The first ticket of the user.
    #[must_use]
    pub fn of(self, user: usize) -> Option<Order> {
        self.tickets().find(|&ticket| user_of(ticket) == user)
    }

    pub fn add(&mut self, ticket: Order) {
        if !self.0.contains(&Some(ticket))
            && let Some(place) = self.0.iter_mut().find(|place| place.is_none())
        {
            *place = Some(ticket);
        }
    }

    pub fn remove(&mut self, ticket: Order) {
        let mut left = self.0.into_iter().flatten().filter(|&waiting| waiting != ticket);
        self.0 = std::array::from_fn(|_| left.next());
    }

    pub fn tickets(self) -> impl Iterator<Item = Order> {
        self.0.into_iter().flatten()
    }

    /// The line with the first place of each user only.
    #[must_use]
    pub fn one_for_each_user(self) -> Self {
        let mut line = Self::default();
        for ticket in self.tickets() {
            if line.of(user_of(ticket)).is_none() {
                line.add(ticket);
            }
        }
        line
    }
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
    /// Distinguishes the entries of this stream from those of a stream that was deleted.
    pub generation: u8,
    pub has_group: bool,
    /// Sorted, because their order does not matter.
    pub entries: [Entry; ENTRIES],
}

impl Stream {
    /// Returns `false` if there is no room for the entry.
    #[must_use]
    pub fn add(&mut self, order: Order) -> bool {
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
    /// Stands for the run id and the replication id.
    pub run: u8,
    pub marker: Marker,
    pub coupon: Option<Coupon>,
    /// The claims hash: the order that each user holds.
    pub claims: [Option<Order>; USERS],
    pub stream: Option<Stream>,
    pub line: Line,
    /// Held orders without their key in the claims hash.
    pub keyless: Orders,
    /// The highest position of Postgres's WAL that was recorded in Redis.
    pub noted: u8,
}

impl Redis {
    #[must_use]
    pub fn held(&self) -> i8 {
        self.claims.iter().flatten().count() as i8
    }

    /// Whether the stream exists and `stock + claims = total`, which every script checks first.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        self.stream.is_some() && self.consistent_coupon().is_some()
    }

    /// The coupon's hash, if `stock + claims = total`.
    #[must_use]
    pub fn consistent_coupon(&self) -> Option<Coupon> {
        self.coupon.filter(|coupon| coupon.stock + self.held() == coupon.total)
    }

    /// Whether Redis holds no data of the program.
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
    Reserved,
    Confirmed,
    Cancelled,
    Expired,
    Rejected,
}

impl Status {
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Reserved | Self::Confirmed)
    }

    #[must_use]
    pub fn is_dead(self) -> bool {
        matches!(self, Self::Cancelled | Self::Expired | Self::Rejected)
    }
}

/// A revoked order whose unit was withdrawn, and the version of the coupon with the lowered total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Withdrawal {
    pub order: Order,
    pub version: u8,
}

/// The fence row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Row {
    pub epoch: Epoch,
    /// The run of the Redis of this epoch; 0 while a rebuild uses another Redis.
    pub run: u8,
    pub identity: u8,
    pub lost: bool,
    /// The epoch of the last agreement, and the Postgres of it.
    pub agreed_epoch: Epoch,
    pub agreed: u8,
    /// At the last agreement, commits waited for a synchronous standby.
    pub with_standby: bool,
}

impl Row {
    #[must_use]
    pub const fn has_agreed(self) -> bool {
        self.agreed_epoch == self.epoch && self.agreed == self.identity
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Postgres {
    pub identity: u8,
    /// The WAL position, as a number of commits; counted only if an older copy may come back.
    pub position: u8,
    /// The positions at which promoted standbys have left the timelines 1, 2 and 3.
    pub left_at: [u8; 3],
    pub row: Row,
    pub coupon: Coupon,
    pub published: u8,
    pub status: [Status; ORDERS],
    pub outbox: Orders,
    pub withdrawn: Option<Withdrawal>,
    pub line: Line,
}

impl Postgres {
    /// Records what the agreement of the epoch rests on.
    pub fn agree(&mut self) {
        (self.row.agreed_epoch, self.row.agreed) = (self.row.epoch, self.row.identity);
        if self.identity == self.row.agreed {
            // Of no use any more.
            self.left_at = Default::default();
        }
    }

    #[must_use]
    pub fn live(&self, user: usize) -> Option<Order> {
        (0..ORDERS as u8).find(|&order| user_of(order) == user && self.status[usize::from(order)].is_live())
    }

    #[must_use]
    pub fn live_count(&self) -> i8 {
        self.status.iter().filter(|status| status.is_live()).count() as i8
    }

    /// Orders that have ended.
    #[must_use]
    pub fn dead(&self) -> Orders {
        let is_dead = |order: &u8| self.status[usize::from(*order)].is_dead();
        (0..ORDERS as u8).filter(is_dead).fold(0, |set, order| set | bit(order))
    }

    /// The version of the coupon that Redis must have before the unit of this order is released.
    #[must_use]
    pub fn released_after(&self, order: Order) -> u8 {
        // A restored definition may have a lower version for ever: then the unit would never return.
        let withdrawn = self.withdrawn.filter(|withdrawn| withdrawn.order == order);
        withdrawn.map_or(0, |withdrawn| withdrawn.version.min(self.coupon.version))
    }

    #[must_use]
    pub fn has_row(&self, order: Order) -> bool {
        self.status[usize::from(order)] != Status::None
    }
}
