//! A coupon with shares in several partitions: whether a user is told "sold out" while a unit is free, how many moves a sale
//! takes, and how long the claims take that wait for a move. The users are spread evenly over the shares, or many or all of
//! them claim at one share.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::fairness::simultaneous::{Attempt, send_simultaneously};
use super::fairness::{UNITS, USERS, quantile};
use super::measurements::Measurements;
use super::rate::to_f64;
use super::scenarios::{Bench, CONNECTIONS, COUPON};
use crate::domain::{Partition, home};

const SHARES: usize = 4;
/// How many of a hundred users claim at the first share.
const SKEWS: [(&str, usize); 3] = [("even", 25), ("half at one share", 50), ("all at one share", 100)];
const ACCEPTED: u16 = 202;
const SOLD_OUT: u16 = 409;

impl Bench<'_> {
    pub async fn spread(&self, results: &mut Measurements) -> anyhow::Result<()> {
        for (skew, percent) in SKEWS {
            let server = self.fixture.start_partitions(SHARES).await?;
            server.create_spread(COUPON, UNITS as u64, SHARES).await?;
            let mut claims = vec![Vec::new(); CONNECTIONS];
            for (number, user) in self.users_by_home(percent)?.into_iter().enumerate() {
                claims[number % CONNECTIONS].push(self.users.claim(user, COUPON, ""));
            }
            let attempts = send_simultaneously(server.address, claims, None).await?;
            let moves = server.metric("seckill_moves_total").await?;
            let units_moved = server.metric("seckill_moved_units_total").await?;
            server.stop().await?;
            let accepted = attempts.iter().filter(|attempt| attempt.status == ACCEPTED).count();
            ensure!(accepted == UNITS, "{skew}: {accepted} of {UNITS} units were sold");
            let mut took: Vec<Duration> =
                attempts.iter().map(|attempt| attempt.answered - attempt.sent).collect();
            took.sort_unstable();
            let mut add =
                |what: &str, value: f64, unit| results.add("spread", format!("{what}, {skew}"), value, unit);
            add("users told \"sold out\" too early", to_f64(told_too_early(&attempts)), "");
            add("moves", moves, "");
            add("units moved", units_moved, "");
            add("claim p50", quantile(&took, 0.5).as_secs_f64() * 1e3, "ms");
            add("longest claim", quantile(&took, 1.0).as_secs_f64() * 1e3, "ms");
        }
        Ok(())
    }

    /// `USERS` users, of which so many of a hundred claim at the first share, in an order that mixes the shares.
    fn users_by_home(&self, percent: usize) -> anyhow::Result<Vec<usize>> {
        let mut shares: Vec<Partition> =
            Partition::NUMBERS.into_iter().take(SHARES).map(Partition::new).collect();
        shares.sort();
        let (mut first, mut others): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        for user in 0..self.users.count() {
            let name = format!("user-{user}").parse()?;
            if home(&shares, &name) == Some(shares[0]) { first.push(user) } else { others.push(user) }
        }
        let (mut first, mut others) = (first.into_iter(), others.into_iter());
        (0..USERS)
            .map(|number| if number % 100 < percent { first.next() } else { others.next() })
            .collect::<Option<_>>()
            .context("too few users are prepared for this scenario")
    }
}

/// The claims that were answered "sold out" before a later claim was sent that got a unit: that unit was free.
fn told_too_early(attempts: &[Attempt]) -> u64 {
    let last_accepted =
        attempts.iter().filter(|attempt| attempt.status == ACCEPTED).map(|attempt| attempt.sent).max();
    let early = attempts.iter().filter(|attempt| {
        attempt.status == SOLD_OUT && last_accepted.is_some_and(|sent| attempt.answered < sent)
    });
    early.count() as u64
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_refusal_is_too_early_if_a_later_claim_gets_a_unit() {
        let start = Instant::now();
        let attempt = |(sent, answered, status)| Attempt {
            connection: 0,
            sent: start + Duration::from_millis(sent),
            answered: start + Duration::from_millis(answered),
            status,
        };
        let early = |attempts: &[(u64, u64, u16)]| {
            told_too_early(&attempts.iter().copied().map(attempt).collect::<Vec<_>>())
        };
        assert_eq!(early(&[(0, 1, 202), (1, 2, 409), (3, 4, 202)]), 1);
        assert_eq!(early(&[(0, 1, 202), (1, 5, 409), (3, 4, 202), (5, 6, 409)]), 0);
    }
}
