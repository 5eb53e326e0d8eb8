//! Measures which users get a unit when there are far more users than units. How much later was an accepted claim sent
//! than a refused one? Does one connection get more than its share?

pub(super) mod simultaneous;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::measurements::Measurements;
use super::rate::to_f64;
use super::report::format_count;
use super::scenarios::{Bench, CONNECTIONS, COUPON};
use simultaneous::{Attempt, send_simultaneously};

pub const USERS: usize = 5_000;
pub const UNITS: usize = 500;
const ACCEPTED: u16 = 202;
const SOLD_OUT: u16 = 409;
/// The status of a claim that waited for longer than its deadline and was not made.
const UNAVAILABLE: u16 = 503;

impl Bench<'_> {
    /// All claims are due at the start, so that they compete; with a schedule the program would mostly be idle. The
    /// first run uses the usual number of connections, and a connection sends its next claim when the last one is
    /// answered. The second run uses one connection for each user, and sends all claims at once.
    pub async fn fairness(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let attempts = self.run_claims(CONNECTIONS, None).await?;
        add_lateness(results, CONNECTIONS, &attempts);
        let shares = shares(&attempts, CONNECTIONS);
        let largest = to_f64(*shares.iter().max().context("no connections")?);
        let fair = to_f64(UNITS as u64) / to_f64(CONNECTIONS as u64);
        results.add("fairness", "largest share of a connection ÷ fair share", largest / fair, "");
        add_lateness(results, USERS, &self.run_claims(USERS, None).await?);
        Ok(())
    }

    /// One connection pipelines all its requests, the others wait for each answer. The server handles the requests of one
    /// connection one after the other, so pipelining can only save the round trips.
    pub async fn pipelining(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let shares = shares(&self.run_claims(CONNECTIONS, Some(0)).await?, CONNECTIONS);
        let (pipeliner, others) = shares.split_first().context("no connections")?;
        let mean = to_f64(others.iter().sum()) / to_f64(others.len() as u64);
        results.add(
            "pipelining",
            "units of the pipeliner ÷ mean of the others",
            to_f64(*pipeliner) / mean,
            "",
        );
        Ok(())
    }

    async fn run_claims(&self, connections: usize, pipeliner: Option<usize>) -> anyhow::Result<Vec<Attempt>> {
        let server = self.fixture.start_empty_server(1).await?;
        server.create(COUPON, UNITS as u64).await?;
        let mut claims = vec![Vec::new(); connections];
        for user in 0..USERS {
            claims[user % connections].push(self.users.claim(user, COUPON, ""));
        }
        let attempts = send_simultaneously(server.address, claims, pipeliner).await?;
        server.stop().await?;
        let with = |status| attempts.iter().filter(|attempt| attempt.status == status).count();
        let (accepted, refused, unavailable) = (with(ACCEPTED), with(SOLD_OUT), with(UNAVAILABLE));
        ensure!(
            accepted == UNITS && accepted + refused + unavailable == USERS,
            "of {USERS} users {accepted} got one of {UNITS} units, and {refused} were refused as sold out"
        );
        if unavailable > 0 {
            tracing::warn!(
                "this machine is too slow for {connections} claims at once: {unavailable} were answered 503"
            );
        }
        Ok(attempts)
    }
}

fn add_lateness(results: &mut Measurements, connections: usize, attempts: &[Attempt]) {
    let lateness = lateness(attempts);
    let connections = format_count(connections);
    for (name, share) in [("p99 lateness", 0.99), ("largest lateness", 1.0)] {
        let what = format!("{name}, {connections} connections");
        results.add("fairness", what, quantile(&lateness, share).as_secs_f64() * 1e3, "ms");
    }
}

/// For each accepted claim: how much later it was sent than the first refused claim; zero if it was sent before.
fn lateness(attempts: &[Attempt]) -> Vec<Duration> {
    let sent = |status| attempts.iter().filter(move |a| a.status == status).map(|a| a.sent);
    let first_refused: Option<Instant> = sent(SOLD_OUT).min();
    sent(ACCEPTED)
        .map(|at| first_refused.map_or(Duration::ZERO, |refused| at.saturating_duration_since(refused)))
        .collect()
}

/// The smallest value that is at least as large as this share (0 to 1) of the values; zero without values.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank among as many values as there are users"
)]
pub(super) fn quantile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (to_f64(sorted.len() as u64) * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Number of units that the users of each connection got.
fn shares(attempts: &[Attempt], connections: usize) -> Vec<u64> {
    let mut shares = vec![0; connections];
    for attempt in attempts.iter().filter(|attempt| attempt.status == ACCEPTED) {
        shares[attempt.connection] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Attempts, alternately of two connections, each with the ms after the start at which it was sent, and its status.
    fn attempts(sent: &[(u64, u16)]) -> Vec<Attempt> {
        let start = Instant::now();
        let attempt = |(user, &(at, status))| Attempt {
            connection: user % 2,
            sent: start + ms(at),
            answered: start + ms(at),
            status,
        };
        sent.iter().enumerate().map(attempt).collect()
    }

    #[test]
    fn lateness_is_measured_from_the_first_refused_claim() {
        let all = attempts(&[(9, 202), (3, 202), (5, 409), (4, 409), (4, 202), (40, 409)]);
        assert_eq!(lateness(&all), [ms(5), ms(0), ms(0)], "4 ms is the first refusal");
        assert_eq!(
            lateness(&attempts(&[(1, 202), (2, 202), (3, 409)])),
            [ms(0), ms(0)],
            "first come, first served"
        );
        assert_eq!(lateness(&attempts(&[(1, 202), (2, 202)])), [ms(0), ms(0)], "none was refused");
        assert!(lateness(&attempts(&[(1, 409)])).is_empty(), "none was accepted");
    }

    #[test]
    fn a_quantile_is_a_measured_value() {
        let hundred: Vec<Duration> = (1..=100).rev().map(ms).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| quantile(&hundred, share)), [1, 50, 99, 100].map(ms));
        assert_eq!(quantile(&[ms(7)], 0.99), ms(7));
        assert_eq!(quantile(&[], 0.99), ms(0));
    }

    #[test]
    fn the_share_of_a_connection_is_its_accepted_claims() {
        let all = attempts(&[(1, 202), (2, 202), (3, 202), (4, 409)]);
        assert_eq!(shares(&all, 3), [2, 1, 0]);
    }
}
