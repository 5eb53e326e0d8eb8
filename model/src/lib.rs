//! The agreement between Redis and Postgres as a model: the same steps as the program's, one for each
//! script, transaction and acknowledgement, taken in every order, with faults between any two. The search
//! asks of every state that can be reached: is a promise broken, and can the system still come to rest?
//!
//! `state` is what the two stores and every process hold; `serve`, `record`, `rebuild` and `compare` are
//! the steps of the program, named after its files, `lost` what they make of lost commits; `fault` is what happens to it; `promise` is what must
//! hold; `search` walks. Each rule that makes the promises hold can be switched off ([`Rule`]): then the
//! search finds the shortest way in which they break.
//!
//! Left out on purpose: several coupons and partitions, limits above one, windows, batches,
//! entries that cannot be read, time. One coupon, two users and two workers are enough for every way in
//! which an agreement was seen to break.

#![expect(clippy::cast_possible_truncation, reason = "all numbers of a scope are below ten")]

mod compare;
mod decide;
mod fault;
mod lost;
mod promise;
mod rebuild;
mod record;
mod search;
mod serve;
mod state;
pub mod trace;
mod users;

pub use fault::Fault;
pub use promise::Broken;
pub use search::{Outcome, Path, Search, search};
pub use state::State;

/// A rule of the protocol that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Redis's run id and replication id are compared with those of the agreement.
    RedisIdentity,
    /// Postgres's identity and WAL position are compared with those of the agreement.
    PostgresIdentity,
    /// Scripts refuse where `stock + claims = total` does not hold.
    Sum,
    /// A rebuild waits until every open recording transaction has ended.
    FenceLock,
    /// A recording transaction writes nothing in another epoch than the marker's, read before the entry.
    RecordingEpoch,
    /// Stock short in Postgres ends the event as rejected.
    StockShortRejects,
    /// The claims hash decides whether a unit goes back, not who asks or the answer of XACK.
    HashArbitrates,
    /// A release takes back the unit of its own order only.
    ReleaseNamesTheOrder,
    /// Postgres's position is noted in Redis before a commit's effect reaches it.
    EffectsNotePosition,
    /// A lowered total may push Redis's stock below zero.
    NoClamp,
    /// A published coupon that Redis does not have is a loss, not a coupon to be made.
    PublishNeverMakes,
    /// A publication is repeated until Redis has Postgres's version.
    PublishRepeats,
    /// A publication is noted only in the epoch in which Redis took it, and never above the row's version.
    PublicationOfItsEpoch,
    /// A session ends when the fence row names another epoch.
    SessionOfTheRow,
    /// Acknowledged entries are no proof that an order is on its way.
    AcknowledgedDoNotCount,
    /// The rebuild decides on the very session that holds its lock, and rejects in its own epoch only.
    DecisionIsFenced,
    /// Every write of a rebuild demands its own `building` marker.
    BuildingMarker,
    /// A rebuild sets a coupon only where the claims hash holds as many claims as it decided.
    CouponCountsClaims,
    /// What Postgres lost is noted in it before anything is done about it.
    LossIsNoted,
    /// With lost commits, live orders that Redis does not hold are cancelled.
    LossCancels,
    /// They are cancelled only where Redis cannot be behind Postgres.
    CancelsAsTheAgreement,
    /// A claim without a row that is newer than its user's live order shows that this one had ended.
    NewerClaimCancels,
    /// Lost commits wait for a person whatever has become of Redis, unless it is empty and nothing was noticed before.
    LossWaits,
    /// A definition in Redis of a higher version than Postgres's shows that Postgres has lost commits.
    HigherVersionIsALoss,
    /// With lost commits, a definition in Redis of a higher version replaces Postgres's.
    HigherVersionWins,
    /// With lost commits, a coupon whose definition Redis does not confirm is paused.
    UnconfirmedPauses,
    /// Nothing is cancelled for the sake of a claims hash whose sum does not hold.
    LossAsksTheSum,
    /// The live comparison never writes a stock.
    CompareWritesNoStock,
    /// A repeat that names a dead order releases it and claims again.
    RepeatAsksPostgres,
    /// Pending entries that somebody deleted are a loss.
    DeletedEntriesAreALoss,
    /// A deleted entry stays in the pending list until a rebuild has made it good.
    DeletedEntriesStay,
    /// The group is made at the stream's beginning.
    GroupAtZero,
}

/// How much of the world is searched.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Units of the coupon.
    pub total: i8,
    /// How many orders each user may ask for, one after the other; at most two.
    pub claims: [u8; state::USERS],
    pub workers: usize,
    pub rebuilders: usize,
    /// Whether the live comparison runs.
    pub compares: bool,
    /// Orders that a person or a deadline may end.
    pub cancels: u8,
    /// Edits of the total, in this order; 0 pauses the coupon.
    pub edits: &'static [i8],
    /// Rebuilds that a person may order although nothing is wrong.
    pub orders: u8,
    /// What may happen, and how often in all.
    pub faults: &'static [Fault],
    pub max_faults: u8,
    /// Taken away.
    pub without: &'static [Rule],
}

impl Scope {
    /// One unit, two users, one worker, nothing goes wrong.
    #[must_use]
    pub const fn small() -> Self {
        Self {
            total: 1,
            claims: [1, 1],
            workers: 1,
            rebuilders: 1,
            compares: false,
            cancels: 0,
            edits: &[],
            orders: 0,
            faults: &[],
            max_faults: 0,
            without: &[],
        }
    }

    #[must_use]
    pub fn has(&self, rule: Rule) -> bool {
        !self.without.contains(&rule)
    }
}
