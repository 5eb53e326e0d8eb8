//! The program's own script without the gate: one claim in each EVALSHA. Shows what batching is worth.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::crowd::{Answer, Buyer, sell};
use super::{Figure, fastest};
use crate::bench::redis_cpu;
use crate::model::{Claim, ClaimOutcome, CouponId};
use crate::redis::claim::{BatchOutcome, claim_batch};
use crate::redis::{Redis, info};

const TASKS: [usize; 4] = [1, 16, 64, 256];

/// The best of the rounds, and what it cost.
#[derive(Clone, Copy, Debug)]
pub struct PerRequest {
    pub figure: Figure,
    /// Processor time of the whole Redis process for each accepted claim; a worker's reads are in it if one
    /// runs meanwhile.
    pub redis_cpu_per_claim: Duration,
}

/// Accepted claims with each number of tasks on one pipelined connection, `run_for` each; the best. `coupon` is
/// in force under the marker `ready`, has enough stock, and nobody else claims it.
///
/// # Errors
/// When a claim is not accepted, or the claims held do not grow by as many as were accepted.
pub async fn per_request(
    redis: &Redis,
    ready: &str,
    coupon: &CouponId,
    run_for: Duration,
) -> Result<PerRequest> {
    let mut rounds = Vec::new();
    for clients in TASKS {
        rounds.push(round(redis, ready, coupon, clients, run_for).await?);
    }
    let best = fastest(rounds.iter().map(|round| &round.figure)).context("no rounds")?.clients;
    rounds.into_iter().find(|round| round.figure.clients == best).context("no best round")
}

async fn round(
    redis: &Redis,
    ready: &str,
    coupon: &CouponId,
    clients: usize,
    run_for: Duration,
) -> Result<PerRequest> {
    let buyers = (0..clients).map(|_| OneClaim { redis: redis.clone(), ready: ready.to_owned() }).collect();
    let (held_before, cpu_before) = (info::held_units(redis, coupon).await?, redis_cpu(redis).await?);
    let purchases = sell(coupon, buyers, run_for).await?;
    let cpu = redis_cpu(redis).await?.saturating_sub(cpu_before);

    let held = info::held_units(redis, coupon).await? - held_before;
    ensure!(held == purchases.units, "{} claims were accepted, and {held} are held", purchases.units);
    let wrong = info::first_wrong_sum(redis, std::slice::from_ref(coupon)).await?;
    ensure!(wrong.is_none(), "stock and claims of {coupon} do not add up");
    let figure = Figure { name: "one claim per EVALSHA", clients, rate: purchases.rate };
    Ok(PerRequest { figure, redis_cpu_per_claim: cpu / u32::try_from(purchases.units)? })
}

struct OneClaim {
    redis: Redis,
    ready: String,
}

impl Buyer for OneClaim {
    async fn buy(&mut self, claim: &Claim) -> Result<Answer> {
        let batch = std::slice::from_ref(claim);
        // No deadline: whoever measures waits.
        match claim_batch(&self.redis, &self.ready, i64::MAX, batch, |_| true).await?.outcome {
            BatchOutcome::Done(outcomes) => match outcomes[..] {
                [ClaimOutcome::Accepted { .. }] => Ok(Answer::Sold),
                [ClaimOutcome::Held { .. } | ClaimOutcome::SoldOut] => Ok(Answer::Refused),
                _ => bail!("a claim was answered {outcomes:?}"),
            },
            other => bail!("a batch was answered {other:?}"),
        }
    }
}
