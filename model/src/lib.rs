//! A model of the protocol between Redis and Postgres. It has the program's steps, one for each script,
//! transaction and acknowledgement. The search takes them in every order, with faults between any two, and
//! checks each state that it reaches: no promise is broken, and the system can still come to rest.
//!
//! `state` is what both stores and all processes hold. `serve`, `record`, `transition`, `rebuild` and `compare` are the
//! program's steps; `decide` and `postgres_loss` are the decisions that they share. `fault` and `inject` are what
//! goes wrong, `promise` is what must hold, `search` is the search. Each rule of the protocol can be switched off ([`Rule`]):
//! the search then finds a shortest path to a broken promise. `trace` checks a recorded run against the rules.
//!
//! With a limit of one unit the two holders of units are two users. With a limit of two they are the two slots of one
//! user, whose claims have idempotency keys.
//!
//! Not modelled: several coupons and partitions, sale times, batches, unreadable entries. The only clock is that of the
//! time to pay. One coupon, two users and two workers showed every failure of the protocol that is known so far.

#![expect(clippy::cast_possible_truncation, reason = "all numbers of a scope are below ten")]

mod broken;
mod compare;
mod decide;
mod fault;
mod inject;
mod postgres_loss;
mod promise;
mod rebuild;
mod record;
mod search;
mod serve;
mod state;
mod steps;
pub mod trace;
mod transition;
mod users;
mod waitlist;

pub use broken::Broken;
pub use fault::Fault;
pub use search::{Outcome, Path, Search, search};
pub use state::State;

/// A rule of the protocol that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Redis's run id and replication id must equal those in the fence row.
    RedisIdentity,
    /// Postgres's identity must equal the one in the fence row, and its WAL position must not be below the one that is
    /// recorded in Redis.
    PostgresIdentity,
    /// Scripts refuse unless `stock + claims = total`.
    Sum,
    /// A WAL position is recorded in Redis only if it is one of the fence row's Postgres.
    PositionOfTheRow,
    /// A promoted standby has every commit only if it has left its primary's timeline at the position in Redis or later.
    PromotionIsCompared,
    /// A rebuild compares a promoted standby again when no process can record a position any more.
    PromotionIsComparedAgain,
    /// The fence row keeps the Postgres of the last agreement until the next agreement.
    AgreedPostgresStays,
    /// Another Redis than that of the agreement shows nothing about a promoted standby, unless commits waited for it.
    OwnRedisShowsPromotion,
    /// A rebuild waits until every open recording transaction has ended.
    FenceLock,
    /// A recording transaction writes only if the fence row has the epoch that its worker read from the marker
    /// before it read the entry.
    RecordingEpoch,
    /// An event for which Postgres has no stock is rejected.
    StockShortRejects,
    /// The claims hash alone decides whether a unit goes back to stock, not the answer of XACK.
    HashArbitrates,
    /// A release returns the unit only if the user holds it for the order that the release names.
    ReleaseNamesTheOrder,
    /// The WAL position of a commit is recorded in Redis before any effect of the commit.
    EffectsNotePosition,
    /// The outbox row of a released unit is deleted only on the Postgres whose row it was.
    OutboxOfItsPostgres,
    /// A lowered total may make Redis's stock negative.
    NoClamp,
    /// A publication never creates a coupon that Redis has lost.
    PublishNeverCreates,
    /// A publication is repeated until Redis has Postgres's version of the definition.
    PublishRepeats,
    /// A publication is recorded only in the epoch in which Redis accepted it, and never above the row's version.
    PublicationOfItsEpoch,
    /// A session ends when the fence row names another epoch.
    SessionOfTheRow,
    /// An acknowledged entry does not prove that its order will be recorded.
    AcknowledgedDoNotCount,
    /// The rebuild decides on the session that holds its lock, and only while the fence row has its epoch.
    DecisionIsFenced,
    /// Every write of a rebuild to Redis requires the rebuild's own `building` marker.
    BuildingMarker,
    /// A rebuild sets a coupon only if the claims hash has the number of claims that the rebuild decided.
    CouponCountsClaims,
    /// A Postgres loss is recorded in the fence row before the rebuild acts on it.
    LossIsNoted,
    /// After a Postgres loss, live orders that Redis does not hold are cancelled.
    LossCancels,
    /// After a Postgres loss, orders are cancelled only if Redis cannot be older than Postgres.
    OnlyCurrentRedisCancels,
    /// After a Postgres loss, a user's newer claim without a row, or its event, proves that the user's live order had
    /// ended, whether or not the coupon is consistent.
    NewerClaimCancels,
    /// A Postgres loss waits for the operator whatever happens to Redis, unless Redis is empty and the loss was not
    /// recorded before.
    LossWaits,
    /// A definition in Redis with a higher version than Postgres's proves a Postgres loss.
    HigherVersionIsALoss,
    /// After a Postgres loss, a definition in Redis with a higher version replaces Postgres's.
    HigherVersionWins,
    /// After a Postgres loss, a coupon is paused if Redis does not confirm its definition.
    UnconfirmedPauses,
    /// After a Postgres loss, more claims than units do not confirm a definition: the total is raised to the claims.
    ExcessClaimsUnconfirm,
    /// Nothing is cancelled because of a claims hash for which `stock + claims = total` does not hold.
    LossChecksSum,
    /// The comparison beside live claims never writes the stock.
    CompareWritesNoStock,
    /// A repeat whose order has ended releases the unit and claims again.
    RepeatAsksPostgres,
    /// A deleted pending entry counts as a loss: the fence comes down.
    DeletedEntriesAreALoss,
    /// A deleted entry stays in the pending list until a rebuild has repaired it.
    DeletedEntriesStay,
    /// The consumer group is created at the beginning of the stream.
    GroupAtZero,
    /// An order is confirmed, cancelled or expired only in the epoch of its session, and never on a Postgres that lost
    /// commits.
    TransitionsAreFenced,
    /// The statement that confirms or ends an order checks its status and its time to pay itself.
    TransitionsAreConditional,
    /// A confirm is in time only before `reserved_until`, whether or not the sweeper has come.
    DeadlineDecides,
    /// A confirm is answered only after its WAL position is recorded in Redis.
    ConfirmNotesPosition,
    /// The transaction that ends an order also puts its unit into the outbox.
    EndsReturnTheUnit,
    /// After a Postgres loss, the time to pay of every reserved order starts again: its confirm may be lost.
    LossRestartsDeadlines,
    /// A withdrawn unit is released only after Redis has the lowered total.
    ReleaseAwaitsVersion,
    /// If one of the user's slots has the key of a claim, the answer to the claim is the order in that slot.
    KeyIsHeld,
    /// Events and rows carry the key, and a rebuild writes it into the claims hash.
    RebuildKeepsKeys,
    /// After a Postgres loss, a claim or event without a row proves that a live order with the same key had ended.
    SameKeyCancels,
    /// A claim is refused while users wait in line.
    LineBlocksClaims,
    /// A user joins the line in Postgres first, then in Redis.
    JoinCommitsFirst,
    /// A rebuild restores the line from Postgres.
    RebuildRestoresLine,
    /// A rebuild leaves users out of the line who hold a unit.
    HoldersDoNotWait,
    /// A rebuild leaves tickets out of the line that have an order's row.
    ServedDoNotWait,
    /// After a Postgres loss, users in Redis's line get their rows back.
    LossAdoptsLine,
    /// Each request to join the line has a ticket of its own.
    TicketForEachJoin,
}

/// What a search includes.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a feature of the coupon or of the program")]
pub struct Scope {
    /// Units of the coupon.
    pub total: i8,
    /// How many claims each user makes, one after the other; at most two. With slots: how many claims with each key.
    pub claims: [u8; state::USERS],
    /// Whether there is one user with two slots and two keys. Otherwise there are two users with one unit each.
    pub slots: bool,
    pub workers: usize,
    pub rebuilders: usize,
    /// Whether the comparison beside live claims runs.
    pub compares: bool,
    /// How many orders may be cancelled or revoked, with their units returned to stock.
    pub cancels: u8,
    /// Whether orders are recorded as reserved, and expire.
    pub reserves: bool,
    /// How many confirms arrive.
    pub confirms: u8,
    /// How many orders may be revoked with their units withdrawn from the total.
    pub withdraws: u8,
    /// Changes of the total, in this order; 0 pauses the coupon instead.
    pub edits: &'static [i8],
    /// Whether the coupon has a waiting list.
    pub waitlist: bool,
    /// How many rebuilds the operator may order although nothing is wrong.
    pub orders: u8,
    /// Which faults may happen.
    pub faults: &'static [Fault],
    /// How many faults may happen in all.
    pub max_faults: u8,
    /// Rules that are switched off.
    pub without: &'static [Rule],
}

impl Scope {
    /// One unit, two users, one worker, no fault.
    #[must_use]
    pub const fn small() -> Self {
        Self {
            total: 1,
            claims: [1, 1],
            slots: false,
            workers: 1,
            rebuilders: 1,
            compares: false,
            cancels: 0,
            reserves: false,
            confirms: 0,
            withdraws: 0,
            edits: &[],
            waitlist: false,
            orders: 0,
            faults: &[],
            max_faults: 0,
            without: &[],
        }
    }

    /// Whether commits wait for a synchronous standby.
    #[must_use]
    pub fn is_synchronous(&self) -> bool {
        self.faults.contains(&Fault::PostgresFailedOver) && !self.faults.contains(&Fault::PostgresPromoted)
    }

    /// Whether Postgres loses nothing, and Redis at most what a replica did not have: then no operator is needed.
    #[must_use]
    pub fn needs_no_operator(&self) -> bool {
        let is_harmless = |fault: &Fault| {
            matches!(
                fault,
                Fault::PostgresFailedOver
                    | Fault::RedisFailedOver
                    | Fault::RedisRestarted
                    | Fault::WorkerKilled
                    | Fault::RebuilderKilled
                    | Fault::ServerKilled
                    | Fault::SessionDropped
            )
        };
        // A second rebuilder that takes over in the middle may see the position of the first one.
        self.rebuilders == 1 && self.is_synchronous() && self.faults.iter().all(is_harmless)
    }

    #[must_use]
    pub fn has(&self, rule: Rule) -> bool {
        !self.without.contains(&rule)
    }
}
