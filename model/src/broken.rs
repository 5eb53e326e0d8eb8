//! The promises, each by the way in which it breaks.

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// Postgres's stock is not total − live orders, or there are more live orders than units.
    Oversold,
    /// An order was confirmed after its time to pay.
    ConfirmedLate,
    /// A client was told that an order is confirmed, but the order ended, or is not confirmed when the system is quiet.
    ConfirmLost,
    /// A claim was accepted although the order of an earlier claim with the same key had not ended.
    SecondUnitForKey,
    /// A claim was accepted while other users waited in line.
    Barged,
    /// The system is quiet, and a user who was told a place in line is not in it and was not served.
    WaitForgotten,
    /// A user who had joined once was served twice.
    ServedTwice,
    /// A repeat got an order that had ended.
    DeadOrderAnswered,
    /// Claims were accepted after a Postgres loss, before the operator had ordered a rebuild.
    SoldOverLoss,
    /// A unit was sold under a definition that had been replaced, and no operator was told.
    SoldByOldDefinition,
    /// The system is quiet, and Redis's stock is not Postgres's.
    StocksDiffer,
    /// The system is quiet, and a user holds a unit in one store only.
    ClaimsDiffer,
    /// The system is quiet, and an accepted claim has no order although a store still held it after every fault.
    Forgotten,
    /// The system is quiet, and an accepted claim was rejected without a lowered total or a cancellation.
    Rejected,
    /// Claims wait for the operator although Postgres has lost nothing.
    WaitsInVain,
    /// No quiet state can be reached from this state.
    NeverAtRest,
}
