//! The sizes and durations of the scenarios. A full run shows the spread of its figures; a quick run only shows that
//! the bench works.

use std::time::Duration;

/// Numbers of connections of the `few-connections` scenario in a full run.
pub const FEW_CONNECTIONS: [usize; 3] = [1, 8, 64];

pub struct Parameters {
    /// How often every scenario runs, except `loaded`, which runs once.
    pub rounds: usize,
    /// Duration of a scenario's load.
    pub duration: Duration,
    /// Small numbers of connections for which the end-to-end rate is measured, and the duration of each.
    pub few_connections: &'static [usize],
    pub few_connections_duration: Duration,
    /// Duration of an alternative with each number of clients.
    pub alternative_duration: Duration,
    /// Duration with pgbench, in whole seconds.
    pub pgbench_duration: Duration,
    /// Numbers of clients of an alternative.
    pub clients: &'static [usize],
    /// Numbers of clients of two-phase commit, each of which has two connections.
    pub two_phase_clients: &'static [usize],
    /// Numbers of clients for the comparison of our clients with pgbench.
    pub checked_clients: &'static [usize],
    /// Numbers of clients of the textbook TCC.
    pub textbook_clients: &'static [usize],
    /// Numbers of connections that claim and confirm.
    pub cycle_connections: &'static [usize],
    /// Number of units that expire and are claimed again.
    pub expiring_units: usize,
    /// Numbers of workers that are compared with one worker.
    pub workers: &'static [usize],
    /// Number of order events that a worker drains.
    pub backlog: usize,
    /// Number of coupons on sale at the same time.
    pub coupons: usize,
    /// Number of claims that a coupon has before the second measurement of `loaded`.
    pub loaded_claims: usize,
    /// Number of keep-alive connections that are open at the same time.
    pub connections: usize,
    /// Number of event streams that are open while claims are made.
    pub streams: usize,
    /// Number of recorded claims whose memory in Redis is measured.
    pub recorded_claims: usize,
}

impl Parameters {
    pub const fn full() -> Self {
        Self {
            rounds: 3,
            duration: Duration::from_secs(5),
            few_connections: &FEW_CONNECTIONS,
            few_connections_duration: Duration::from_secs(3),
            alternative_duration: Duration::from_secs(2),
            pgbench_duration: Duration::from_secs(2),
            clients: &[1, 4, 8, 64],
            two_phase_clients: &[4, 8, 32],
            checked_clients: &[8],
            textbook_clients: &[1, 4, 8, 64],
            cycle_connections: &[256, 1_024],
            expiring_units: 100_000,
            workers: &[2, 4],
            backlog: 1_000_000,
            coupons: 10_000,
            loaded_claims: 5_000_000,
            connections: 10_000,
            streams: 5_000,
            recorded_claims: 100_000,
        }
    }

    pub const fn quick() -> Self {
        Self {
            rounds: 1,
            duration: Duration::from_secs(1),
            few_connections: &[64],
            few_connections_duration: Duration::from_secs(1),
            alternative_duration: Duration::from_millis(400),
            pgbench_duration: Duration::from_secs(1),
            clients: &[4, 64],
            two_phase_clients: &[4, 32],
            checked_clients: &[8],
            textbook_clients: &[4],
            cycle_connections: &[1_024],
            expiring_units: 10_000,
            workers: &[2],
            backlog: 50_000,
            coupons: 1_000,
            loaded_claims: 200_000,
            connections: 2_000,
            streams: 1_000,
            recorded_claims: 20_000,
        }
    }
}
