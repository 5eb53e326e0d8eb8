//! A second model: one coupon whose units are divided over two partitions, and moves of units between them. Each partition
//! has a Redis, an epoch and a share of the coupon; both have the same Postgres. Searched like the first model.
//!
//! `state` is what the stores and the processes hold. `moves` is the protocol of a move, `sell` what goes on beside it,
//! `rebuild` the rebuild of a partition and the restore after a Postgres loss, `inject` the faults, `promise` what must hold.
//!
//! Coarser than the first model in what that one has searched: a rebuild writes a partition in one step, an event is
//! one entry until it is acknowledged, and publications are repeated until Redis has Postgres's version.

mod inject;
mod moves;
mod promise;
mod rebuild;
mod sell;
mod state;

pub use state::State;

use crate::search::{Model, StepsOf};
use crate::steps::Steps as AllSteps;

type Steps<'a> = AllSteps<'a, State, Fault>;

/// A rule of moves that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Units leave Redis before Postgres moves them.
    TakeFirst,
    /// A take requires that the hash has exactly the version that it names.
    TakeOfItsVersion,
    /// A take gets at most the stock.
    TakeAtMostStock,
    /// A take requires the marker of its epoch.
    TakeOfItsEpoch,
    /// A take that is repeated for a version is answered with what it took.
    TakeIsNoted,
    /// A take reaches only the Redis to which it was sent.
    TakeOfItsServer,
    /// The commit moves as many units as the take was answered.
    CommitOfTheAnswer,
    /// The commit requires the epoch of the take.
    CommitOfItsEpoch,
    /// The commit requires the version of the take.
    CommitOfItsVersion,
    /// A rebuild waits for open transactions of moves.
    CommitHoldsTheFence,
    /// The other share gets its units only by a publication of the commit.
    CommitBeforeUnits,
    /// A publication changes the stock by the difference to the total that the hash has.
    DifferenceToTheHash,
    /// A rebuild drops what was taken.
    RebuildDropsTakes,
    /// A publication drops what was taken.
    PublicationDropsTakes,
    /// A take is cancelled by a new version in Postgres, not in Redis.
    CancelInPostgres,
    /// After a Postgres loss, a share gets the total that Redis has with a higher version.
    LossTakesOverShares,
    /// After a Postgres loss, a share gets the total that Redis has, also where only a take explains it.
    LossTakesOverTakes,
    /// After a Postgres loss, one transaction sets all shares before any of them sells.
    LossSetsAllShares,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A replica with older data replaces a partition's Redis.
    FailedOver,
    Flushed,
    RebuilderKilled,
    /// An older copy replaces Postgres.
    PostgresOlderCopy,
}

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// An accepted claim was rejected for want of stock.
    Rejected,
    /// The stock of a share is below zero.
    BelowZero,
    /// `stock + claims = total` does not hold in Redis.
    SumBroken,
    /// The shares in Postgres do not add up to the coupon's total while one of them sells.
    SharesDoNotAddUp,
    /// The shares in Redis have more units than the coupon.
    TooManyUnits,
    /// The coupon's total was raised above every total that an admin had set.
    Raised,
    /// The system is quiet, and an accepted claim has no order.
    Forgotten,
    NeverAtRest,
}

/// What a search includes.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Units of each share.
    pub units: [i8; state::SHARES],
    /// How many users claim in each partition; at most two.
    pub claims: [u8; state::SHARES],
    pub movers: usize,
    /// How many moves may begin.
    pub moves: u8,
    /// How many units a move asks for.
    pub sizes: &'static [i8],
    /// Whether another step may come between the checks and the commit of a move.
    pub opens: bool,
    /// By how much the total is raised, one edit after the other.
    pub raises: &'static [i8],
    /// By how much the total is lowered, one edit after the other.
    pub lowers: &'static [i8],
    /// How many orders may be cancelled.
    pub cancels: u8,
    /// Whether partitions may be rebuilt.
    pub rebuilds: bool,
    pub faults: &'static [Fault],
    pub max_faults: u8,
    /// Rules that are switched off.
    pub without: &'static [Rule],
}

impl Scope {
    /// A unit and a user in each partition, one move of one unit, no fault.
    #[must_use]
    pub const fn small() -> Self {
        Self {
            units: [1, 1],
            claims: [1, 1],
            movers: 1,
            moves: 1,
            sizes: &[1],
            opens: false,
            raises: &[],
            lowers: &[],
            cancels: 0,
            rebuilds: true,
            faults: &[],
            max_faults: 0,
            without: &[],
        }
    }

    #[must_use]
    pub fn has(&self, rule: Rule) -> bool {
        !self.without.contains(&rule)
    }

    /// Whether these steps, one directly after the other, are possible from the first state, and every promise holds then.
    #[must_use]
    pub fn allows(&self, names: &[&str]) -> bool {
        let mut states = vec![self.first()];
        for name in names {
            let next = |state: &State| self.steps(state).0.into_iter().filter(|step| step.name == *name);
            states = states.iter().flat_map(next).map(|step| step.to).collect();
        }
        !states.is_empty() && states.iter().all(|state| self.broken(state).is_none())
    }
}

impl Model for Scope {
    type State = State;
    type Fault = Fault;
    type Broken = Broken;
    const NEVER_AT_REST: Broken = Broken::NeverAtRest;

    fn first(&self) -> State {
        State::first(self.units)
    }

    fn steps(&self, state: &State) -> (StepsOf<Self>, usize) {
        let mut steps = Steps::of(state);
        sell::steps(state, self, &mut steps);
        moves::steps(state, self, &mut steps);
        rebuild::steps(state, self, &mut steps);
        inject::steps(state, self, &mut steps);
        (steps.next, steps.unfollowed)
    }

    fn broken(&self, state: &State) -> Option<Broken> {
        promise::broken(state)
    }

    fn is_quiet(&self, state: &State) -> bool {
        promise::is_quiet(state)
    }
}
