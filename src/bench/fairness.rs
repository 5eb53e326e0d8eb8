//! Who gets the units when far more users want one than there are: how much later somebody may come and still
//! be served before a user who was refused, and whether a connection gets more than its share.

mod race;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::report::whole;
use super::round::Round;
use super::scenarios::{Bench, CONNECTIONS, COUPON};
use race::{Attempt, race};

pub const USERS: usize = 5_000;
const UNITS: usize = 500;
const ACCEPTED: u16 = 202;
const SOLD_OUT: u16 = 409;
/// The claim waited for longer than its deadline and was not made.
const UNAVAILABLE: u16 = 503;

impl Bench<'_> {
    /// Everybody's claim is due at the start: by a schedule the program would wait for claims most of the time, and
    /// nobody would race anybody. Over the usual connections each brings its next user as soon as the last is answered;
    /// where each user has one, all claims go out at once and wait for nobody's answer.
    pub async fn fairness(&self, round: &mut Round) -> anyhow::Result<()> {
        let attempts = self.rush(CONNECTIONS, None).await?;
        note_lateness(round, CONNECTIONS, &attempts);
        let shares = shares(&attempts, CONNECTIONS);
        let largest = number(*shares.iter().max().context("no connections")?);
        let fair = number(UNITS) / number(CONNECTIONS);
        round.add("fairness", "largest share of a connection ÷ fair share", largest / fair, "");
        note_lateness(round, USERS, &self.rush(USERS, None).await?);
        Ok(())
    }

    /// One connection sends all its requests at once, the others wait for each answer. Requests on one connection
    /// are served one after the other: what the pipeliner can save is the way of its answers to it and back.
    pub async fn pipelining(&self, round: &mut Round) -> anyhow::Result<()> {
        let shares = shares(&self.rush(CONNECTIONS, Some(0)).await?, CONNECTIONS);
        let (pipeliner, others) = shares.split_first().context("no connections")?;
        let mean = number(others.iter().sum()) / number(others.len());
        round.add("pipelining", "units of the pipeliner ÷ mean of the others", number(*pipeliner) / mean, "");
        Ok(())
    }

    async fn rush(&self, connections: usize, pipeliner: Option<usize>) -> anyhow::Result<Vec<Attempt>> {
        let server = self.stage.serve(1).await?;
        server.create(COUPON, UNITS as u64).await?;
        let mut claims = vec![Vec::new(); connections];
        for user in 0..USERS {
            claims[user % connections].push(self.users.claim(user, COUPON, ""));
        }
        let attempts = race(server.address, claims, pipeliner).await?;
        server.stop().await?;
        let with = |status| attempts.iter().filter(|attempt| attempt.status == status).count();
        let (accepted, refused, unavailable) = (with(ACCEPTED), with(SOLD_OUT), with(UNAVAILABLE));
        ensure!(
            accepted == UNITS && accepted + refused + unavailable == USERS,
            "of {USERS} users {accepted} were given one of {UNITS} units, and {refused} were told that they are gone"
        );
        if unavailable > 0 {
            tracing::warn!(
                "this machine is too slow for {connections} claims at once: {unavailable} were put off"
            );
        }
        Ok(attempts)
    }
}

fn note_lateness(round: &mut Round, connections: usize, attempts: &[Attempt]) {
    let lateness = lateness(attempts);
    let connections = whole(connections);
    for (name, share) in [("p99 lateness", 0.99), ("largest lateness", 1.0)] {
        let what = format!("{name}, {connections} connections");
        round.add("fairness", what, quantile(&lateness, share).as_secs_f64() * 1e3, "ms");
    }
}

/// Of each accepted claim: how much later it was sent than the earliest refused one that was sent before it.
fn lateness(attempts: &[Attempt]) -> Vec<Duration> {
    let sent = |status| attempts.iter().filter(move |a| a.status == status).map(|a| a.sent);
    let first_refused: Option<Instant> = sent(SOLD_OUT).min();
    sent(ACCEPTED)
        .map(|at| first_refused.map_or(Duration::ZERO, |refused| at.saturating_duration_since(refused)))
        .collect()
}

/// The smallest value that this share of the values does not exceed; zero of none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank among as many values as there are users"
)]
fn quantile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (number(sorted.len()) * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Units that each connection's users were given.
fn shares(attempts: &[Attempt], connections: usize) -> Vec<usize> {
    let mut shares = vec![0; connections];
    for attempt in attempts.iter().filter(|attempt| attempt.status == ACCEPTED) {
        shares[attempt.connection] += 1;
    }
    shares
}

#[expect(clippy::cast_precision_loss, reason = "there are not so many users")]
fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Claims of two connections in turn, each sent so many ms after the start.
    fn attempts(sent: &[(u64, u16)]) -> Vec<Attempt> {
        let start = Instant::now();
        let attempt = |(user, &(at, status))| Attempt { connection: user % 2, sent: start + ms(at), status };
        sent.iter().enumerate().map(attempt).collect()
    }

    #[test]
    fn lateness_is_counted_from_the_first_who_was_refused() {
        let all = attempts(&[(9, 202), (3, 202), (5, 409), (4, 409), (4, 202), (40, 409)]);
        assert_eq!(lateness(&all), [ms(5), ms(0), ms(0)], "4 ms is the first refusal");
        assert_eq!(
            lateness(&attempts(&[(1, 202), (2, 202), (3, 409)])),
            [ms(0), ms(0)],
            "first come, first served"
        );
        assert_eq!(lateness(&attempts(&[(1, 202), (2, 202)])), [ms(0), ms(0)], "nobody was refused");
        assert!(lateness(&attempts(&[(1, 409)])).is_empty(), "nobody was accepted");
    }

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let hundred: Vec<Duration> = (1..=100).rev().map(ms).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| quantile(&hundred, share)), [1, 50, 99, 100].map(ms));
        assert_eq!(quantile(&[ms(7)], 0.99), ms(7));
        assert_eq!(quantile(&[], 0.99), ms(0));
    }

    #[test]
    fn a_share_is_what_was_accepted() {
        let all = attempts(&[(1, 202), (2, 202), (3, 202), (4, 409)]);
        assert_eq!(shares(&all, 3), [2, 1, 0]);
    }
}
