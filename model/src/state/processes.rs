//! What the processes hold in memory in the model: the server, the workers, the rebuilds, the comparison.

use super::{Coupon, Epoch, Line, Order, Orders, Status, USERS};

/// The serving process: its fence, its publisher, its release of units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Server {
    /// The epoch in which claims are accepted.
    pub session: Option<Epoch>,
    /// The epoch of a known loss, and whether Postgres lost it.
    pub loss: Option<(Epoch, bool)>,
    pub publishing: Option<Publication>,
    pub releasing: Releasing,
    /// A confirm, a cancel or a revocation that is not finished.
    pub transition: Option<Transition>,
    /// An expiry that is not finished.
    pub sweep: Option<Transition>,
    pub joining: Joining,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Joining {
    #[default]
    Idle,
    /// The row of the ticket is committed at this WAL position; the place in Redis is still to be taken.
    Row(Epoch, Order, u8),
    /// The row of the ticket is to be deleted.
    Unwanted(Order),
}

/// A change of an order's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transition {
    pub kind: TransitionKind,
    pub epoch: Epoch,
    pub order: Order,
    /// The WAL position of its commit.
    pub committed: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransitionKind {
    Confirm,
    /// A cancel of a reserved order, or a revocation of a confirmed one that returns the unit.
    End,
    /// A revocation that withdraws the unit.
    Withdraw,
    Expire,
}

/// A definition that is being published to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Publication {
    pub epoch: Epoch,
    pub version: u8,
    pub total: i8,
    pub paused: bool,
    /// Postgres's WAL position when the definition was read.
    pub position: u8,
    pub is_answered: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Releasing {
    #[default]
    Idle,
    /// The outbox row was read at this WAL position of Postgres.
    Picked(Epoch, Order, u8),
    /// Redis has released the unit; the outbox row is still to be deleted.
    Answered(Epoch, Order),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Worker {
    #[default]
    Idle,
    /// Has read the marker.
    Marked(Epoch),
    /// Has an event of the stream with this generation.
    Has(Epoch, u8, Order),
    /// Postgres refuses the event permanently.
    Refused(Epoch, u8, Order),
    /// A transaction is open. It inserts the order with this status; other processes do not see it yet.
    Open(Epoch, u8, Order, Status),
    /// The event has ended in Postgres and is still to be acknowledged. The last part: whether this worker rejected it.
    Ended(Epoch, u8, Order, bool),
}

impl Worker {
    #[must_use]
    pub fn has_open_transaction(self) -> bool {
        matches!(self, Self::Open(..))
    }
}

/// The last step that a rebuild has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    #[default]
    Idle,
    Locked,
    Probed,
    EpochWritten,
    Opened,
    DefinitionRead,
    ClaimsRead,
    EventsRead,
    Decided,
    FieldsApplied,
    CouponSet,
    Resent,
    Ready,
    Published,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is set at a step of its own")]
pub struct Rebuilder {
    /// The WAL position that the rebuild records with its `ready` marker.
    pub position: u8,
    pub stage: Stage,
    /// Whether the operator ordered it.
    pub ordered: bool,
    /// Whether its Postgres session is alive; the rebuild notices a dead one at its next statement.
    pub session_lives: bool,
    pub epoch: Epoch,
    pub run: u8,
    pub postgres_lost: bool,
    /// Whether Redis is not older than Postgres: then live orders that Redis does not hold have ended.
    pub may_cancel: bool,
    pub definition: Coupon,
    /// The coupon's hash as it was read with the claims, and whether `stock + claims = total`.
    pub hash: Option<Coupon>,
    pub is_consistent: bool,
    pub claims: [Option<Order>; USERS],
    /// The users who wait, as Redis had them, and as they shall wait.
    pub line: Line,
    pub events: Orders,
    /// Orders of pending entries that were deleted.
    pub deleted: Orders,
    /// The order that each user shall hold.
    pub kept: [Option<Order>; USERS],
    pub resend: Orders,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Comparison {
    #[default]
    Idle,
    /// The orders in the claims hash.
    ClaimsRead(Epoch, Orders),
    /// The orders in the claims hash that have no event.
    EventsRead(Epoch, Orders),
    /// Orders to requeue, and orders to release.
    Found(Epoch, Orders, Orders),
    /// Live orders in Postgres.
    LiveRead(Epoch, Orders),
    /// Live orders that the claims hash does not hold.
    Unheld(Epoch, Orders),
}

impl Comparison {
    /// The epoch in which it began.
    #[must_use]
    pub fn epoch(self) -> Option<Epoch> {
        match self {
            Self::Idle => None,
            Self::ClaimsRead(epoch, _)
            | Self::EventsRead(epoch, _)
            | Self::Found(epoch, ..)
            | Self::LiveRead(epoch, _)
            | Self::Unheld(epoch, _) => Some(epoch),
        }
    }
}
