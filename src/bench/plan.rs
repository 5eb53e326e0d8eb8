//! How much of everything is measured: a full run says how far its figures spread, a quick one that all of it works.

use std::time::Duration;

pub const FEW_CONNECTIONS: [usize; 3] = [1, 8, 64];

pub struct Plan {
    /// Every scenario is run so often, but for the one whose set-up takes a minute.
    pub rounds: usize,
    /// How long the load of a scenario lasts.
    pub lasts: Duration,
    /// Numbers of connections, fewer than usual, over which all is measured from claim to row, and for how long.
    pub few_connections: &'static [usize],
    pub few_lasts: Duration,
    /// How long each number of clients of an alternative buys.
    pub alternative_lasts: Duration,
    /// The same where pgbench drives them, which counts in whole seconds.
    pub pgbench_lasts: Duration,
    /// Numbers of clients of an alternative.
    pub clients: &'static [usize],
    /// The same of two-phase commit, each of which has two connections.
    pub two_phase_clients: &'static [usize],
    /// Numbers of clients by which ours are compared with pgbench's.
    pub checked_clients: &'static [usize],
    /// Numbers of workers that are compared with one.
    pub workers: &'static [usize],
    /// Events of the backlog that a worker drains.
    pub backlog: usize,
    /// Coupons on sale at once.
    pub coupons: usize,
    /// Claims that a coupon has before it is measured once more.
    pub loaded_claims: usize,
    /// Keep-alive connections that are open at once.
    pub connections: usize,
    /// Claims whose remains in Redis are measured.
    pub recorded_claims: usize,
}

impl Plan {
    pub const fn full() -> Self {
        Self {
            rounds: 3,
            lasts: Duration::from_secs(5),
            few_connections: &FEW_CONNECTIONS,
            few_lasts: Duration::from_secs(3),
            alternative_lasts: Duration::from_secs(2),
            pgbench_lasts: Duration::from_secs(2),
            clients: &[1, 4, 8, 64],
            two_phase_clients: &[4, 8, 32],
            checked_clients: &[8],
            workers: &[2, 4],
            backlog: 1_000_000,
            coupons: 10_000,
            loaded_claims: 5_000_000,
            connections: 10_000,
            recorded_claims: 100_000,
        }
    }

    pub const fn quick() -> Self {
        Self {
            rounds: 1,
            lasts: Duration::from_secs(2),
            few_connections: &[64],
            few_lasts: Duration::from_secs(2),
            alternative_lasts: Duration::from_millis(400),
            pgbench_lasts: Duration::from_secs(1),
            clients: &[4, 64],
            two_phase_clients: &[4, 32],
            checked_clients: &[8],
            workers: &[2],
            backlog: 50_000,
            coupons: 1_000,
            loaded_claims: 200_000,
            connections: 2_000,
            recorded_claims: 20_000,
        }
    }
}
