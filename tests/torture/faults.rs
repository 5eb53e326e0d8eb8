//! The kinds of fault, what each may lose, and the schedule of a seed. `inject` says how a fault is caused.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::history::Loses;

macro_rules! kinds {
    ($($kind:ident $name:literal),+ $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($kind),+
        }

        impl Kind {
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// Its name in `SECKILL_TORTURE_FAULTS`.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind)),+
                }
            }

            /// Its description in the history and the report.
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$kind => $name),+
                }
            }
        }
    };
}

kinds! {
    KillProgram "kill -9 of the program that owns the stores",
    StopProgram "SIGTERM of the program that owns the stores",
    PauseProgram "pause of the program that owns the stores",
    KillServer "kill -9 of the second server",
    KillWorker "kill -9 of a worker",
    PauseWorker "pause of a worker, longer than reclaim",
    PauseSweepers "pause of every process that expires orders, longer than the time to pay",
    KillRedis "kill -9 of Redis",
    StopRedis "SIGTERM of Redis",
    PauseRedis "pause of Redis",
    KillPostgres "kill -9 of the postmaster",
    KillBackend "kill -9 of a Postgres backend",
    PausePostgres "pause of Postgres",
    RestartPostgres "fast restart of Postgres",
    CutReplies "connections to Redis cut in the middle of a reply",
    CutCommits "connections to Postgres cut at the reply to a commit",
    CutRelease "connection to Redis cut at a release",
    KillClients "CLIENT KILL of all Redis connections",
    TerminateBackends "pg_terminate_backend of all sessions",
    LockCoupon "a coupon's row locked by another session for seconds",
    FlushScripts "SCRIPT FLUSH",
    DieAfterScript "kill -9 after the claim script",
    DieBeforeInsert "kill -9 before the insert",
    DieBeforeCommit "kill -9 between insert and commit",
    DieBeforeAck "kill -9 between commit and XACK",
    DieInRelease "kill -9 in the middle of a release",
    DieInConfirm "kill -9 around the commit of a confirm",
    DieInCancel "kill -9 around the commit of a cancel",
    DieInRevoke "kill -9 around the commit of a revocation",
    DieInExpiry "kill -9 around the commit of an expiry",
    DieInJoin "kill -9 around the commit of a join of a waiting list",
    DieBetweenChunks "kill -9 between two chunks of a rebuild",
    DeleteMarker "DEL of the marker",
    DeleteClaims "DEL of a claims hash",
    DeleteCoupon "DEL of a coupon hash",
    DeleteStream "DEL of the stream",
    DestroyGroup "XGROUP DESTROY with events unread",
    TrimStream "XTRIM of all entries, then a comparison",
    TrimPending "XTRIM of all entries while a worker records, then its kill",
    FlushRedis "FLUSHALL",
    LateInsert "FLUSHALL while a worker is held before its transaction",
    LateCommit "FLUSHALL while a worker waits for a row in its transaction",
    KillMaster "kill -9 of a partition's master, which fails over",
    StopMaster "a partition's master stopped for longer than its failover takes",
    PauseMajority "most masters of the cluster, or most Sentinels, paused while a server starts",
    MoveSlot "a partition's slot moved to another master",
    Hoard "a foreign consumer holds more entries than a reclaim examines",
}

impl Kind {
    /// What the fault may remove from Redis without a trace in Postgres.
    pub const fn loses(self) -> Loses {
        match self {
            Self::FlushRedis | Self::LateInsert | Self::LateCommit => Loses::Claims,
            _ if self.may_fail_over() => Loses::Claims,
            Self::DeleteStream | Self::TrimStream | Self::TrimPending => Loses::Events,
            _ => Loses::Nothing,
        }
    }

    /// Whether a replica may take over, without what it had not received. After a pause of most masters it may, once they
    /// wake.
    const fn may_fail_over(self) -> bool {
        matches!(self, Self::KillMaster | Self::StopMaster | Self::PauseMajority)
    }

    /// Whether the fault deletes data. Two such faults at once could lose more than each of them alone.
    pub const fn deletes(self) -> bool {
        matches!(
            self,
            Self::DieBetweenChunks
                | Self::DeleteMarker
                | Self::DeleteClaims
                | Self::DeleteCoupon
                | Self::DeleteStream
                | Self::DestroyGroup
                | Self::TrimStream
                | Self::TrimPending
                | Self::FlushRedis
                | Self::LateInsert
                | Self::LateCommit
        )
    }

    /// Whether a run of this mode has it.
    fn is_in(self, mode: Mode) -> bool {
        match self {
            // A hoard lasts to the end of the run and would slow down every later fault.
            Self::Hoard => false,
            Self::MoveSlot => mode == Mode::Cluster,
            _ if self.needs_group() => mode.has_group(),
            _ => !mode.has_group() || self.needs_no_proxy_of_redis(),
        }
    }

    pub const fn needs_group(self) -> bool {
        self.may_fail_over() || matches!(self, Self::MoveSlot)
    }

    /// Processes find the masters of a group themselves, so that no proxy is between.
    const fn needs_no_proxy_of_redis(self) -> bool {
        matches!(
            self,
            Self::KillProgram
                | Self::StopProgram
                | Self::PauseProgram
                | Self::KillServer
                | Self::KillWorker
                | Self::PauseWorker
                | Self::PauseSweepers
                | Self::KillBackend
                | Self::CutCommits
                | Self::KillClients
                | Self::TerminateBackends
                | Self::LockCoupon
                | Self::FlushScripts
                | Self::DieBeforeInsert
                | Self::DieBeforeCommit
                | Self::DeleteMarker
                | Self::DeleteClaims
                | Self::DeleteCoupon
                | Self::DeleteStream
                | Self::DestroyGroup
        )
    }
}

/// What a run may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: what Redis loses is also in Postgres or in another key.
    Safe,
    /// Accepted claims that are not recorded yet, lost with a flush.
    Flush,
    /// The same, lost with a failover of a Redis Cluster. Three partitions.
    Cluster,
    /// The same, lost with a failover by Sentinels. Two partitions.
    Sentinels,
}

impl Mode {
    pub const ALL: [Self; 4] = [Self::Safe, Self::Flush, Self::Cluster, Self::Sentinels];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Flush => "flush",
            Self::Cluster => "cluster",
            Self::Sentinels => "sentinels",
        }
    }

    /// Whether its Redis is several servers that fail over.
    pub const fn has_group(self) -> bool {
        matches!(self, Self::Cluster | Self::Sentinels)
    }

    pub const fn partitions(self) -> usize {
        match self {
            Self::Safe | Self::Flush => 1,
            Self::Cluster => 3,
            Self::Sentinels => 2,
        }
    }

    /// Every kind once, in random order; in mode `Flush` a flush precedes every other fault.
    fn shuffled_kinds(self, rng: &mut StdRng) -> Vec<Kind> {
        let all = Kind::ALL.iter().filter(|kind| kind.is_in(self));
        if self.has_group() {
            let mut kinds: Vec<Kind> = all.copied().collect();
            kinds.shuffle(rng);
            return kinds;
        }
        let (mut flushes, mut others): (Vec<Kind>, Vec<Kind>) =
            all.partition(|kind| kind.loses() == Loses::Claims);
        flushes.shuffle(rng);
        others.shuffle(rng);
        match self {
            Self::Safe | Self::Cluster | Self::Sentinels => others,
            Self::Flush => {
                flushes.iter().cycle().zip(others).flat_map(|(&flush, other)| [flush, other]).collect()
            }
        }
    }
}

/// Endless faults with the pause before each, the same for the same seed: every kind comes once before any kind
/// comes twice.
pub fn schedule(seed: u64, mode: Mode) -> impl Iterator<Item = (Duration, Kind)> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut kinds = Vec::new();
    std::iter::from_fn(move || {
        if kinds.is_empty() {
            kinds = mode.shuffled_kinds(&mut rng);
        }
        let gap = Duration::from_millis(rng.random_range(300..3_000));
        kinds.pop().map(|kind| (gap, kind))
    })
}

#[test]
fn a_seed_determines_its_schedule_and_every_kind_occurs() {
    let first = |seed, mode, length| schedule(seed, mode).take(length).collect::<Vec<_>>();
    assert_eq!(first(1, Mode::Safe, 100), first(1, Mode::Safe, 100));
    assert_ne!(first(1, Mode::Safe, 100), first(2, Mode::Safe, 100));
    let count = |mode, loses_claims| {
        let of_mode = Kind::ALL.iter().filter(|kind| kind.is_in(mode));
        of_mode.filter(|kind| (kind.loses() == Loses::Claims) == loses_claims).count()
    };
    let (flushes, others) = (count(Mode::Flush, true), count(Mode::Flush, false));
    assert_eq!(flushes + others, Kind::ALL.len() - 5, "all but four of groups, and the hoard");
    let whole = |mode| count(mode, true) + count(mode, false);
    assert_eq!(whole(Mode::Cluster), whole(Mode::Sentinels) + 1, "no slot moves with Sentinels");
    for (mode, length, kinds) in [
        (Mode::Safe, others, others),
        (Mode::Flush, 2 * others, others + flushes),
        (Mode::Cluster, whole(Mode::Cluster), whole(Mode::Cluster)),
        (Mode::Sentinels, whole(Mode::Sentinels), whole(Mode::Sentinels)),
    ] {
        let seen: std::collections::BTreeSet<Kind> =
            first(7, mode, length).into_iter().map(|(_, kind)| kind).collect();
        assert_eq!(seen.len(), kinds, "{mode:?}");
    }
}
