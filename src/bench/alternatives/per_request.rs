//! The program's own script without the batcher: one claim in each EVALSHA. Shows the effect of batching.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;

use super::buyers::{Answer, Buyer, run_buyers};
use super::{Figure, fastest};
use crate::bench::redis_cpu;
use crate::domain::{Claim, ClaimOutcome, CouponId, Refusal};
use crate::redis::scripts::claim::{BatchOutcome, claim_batch};
use crate::redis::{Redis, RedisServer, claims_hash, coupon_hash};

const TASKS: [usize; 4] = [1, 16, 64, 256];
/// Redis reads 16 KiB of a connection between two flushes (its `PROTO_IOBUF_LEN`), about fifty claims. Measured with 256
/// tasks: four connections were a third faster than one, sixteen were no faster than four.
const CONNECTIONS_PER_THREAD_MAX: usize = 2;

/// The best measurement, and its cost.
#[derive(Clone, Copy, Debug)]
pub struct PerRequest {
    pub figure: Figure,
    /// Processor time of the whole Redis process for each accepted claim; includes the reads of a worker if one runs.
    pub redis_cpu_per_claim: Duration,
}

/// Measures accepted claims for each number of tasks, `run_for` long, on a few pipelined connections. Returns the best
/// measurement. `coupon` must be in force under the marker `ready`, have enough stock, and have no other claims.
///
/// # Errors
/// When a claim is not accepted, or the number of held claims does not match the accepted claims.
pub async fn per_request(
    server: &RedisServer,
    ready: &str,
    coupon: &CouponId,
    run_for: Duration,
) -> Result<PerRequest> {
    let redis = server.connect().await?;
    let mut rounds = Vec::new();
    for clients in TASKS {
        rounds.push(measure(server, &redis, ready, coupon, clients, run_for).await?);
    }
    let best = fastest(rounds.iter().map(|round| &round.figure)).context("no measurements")?.clients;
    rounds.into_iter().find(|round| round.figure.clients == best).context("no best measurement")
}

async fn measure(
    server: &RedisServer,
    redis: &Redis,
    ready: &str,
    coupon: &CouponId,
    clients: usize,
    run_for: Duration,
) -> Result<PerRequest> {
    let (server, ready) = (server.clone(), ready.to_owned());
    let connect = async move |clients: usize| {
        let connections = clients.min(CONNECTIONS_PER_THREAD_MAX);
        let connections = try_join_all((0..connections).map(|_| server.connect())).await?;
        let buyer = |redis: &Redis| OneClaim { redis: redis.clone(), ready: ready.clone() };
        Ok(connections.iter().cycle().take(clients).map(buyer).collect())
    };
    let (held_before, cpu_before) = (claims_hash::held_units(redis, coupon).await?, redis_cpu(redis).await?);
    let purchases = run_buyers(coupon, clients, run_for, connect).await?;
    let cpu = redis_cpu(redis).await?.saturating_sub(cpu_before);

    let held = claims_hash::held_units(redis, coupon).await? - held_before;
    ensure!(held == purchases.units, "{} claims were accepted, and {held} are held", purchases.units);
    let wrong = coupon_hash::first_inconsistent(redis, std::slice::from_ref(coupon)).await?;
    ensure!(wrong.is_none(), "stock plus claims of {coupon} is not its total");
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
        // No deadline: the bench waits for every claim.
        match claim_batch(&self.redis, &self.ready, i64::MAX, batch, |_| true).await?.outcome {
            BatchOutcome::Done(outcomes) => match outcomes[..] {
                [ClaimOutcome::Accepted { .. }] => Ok(Answer::Sold),
                [ClaimOutcome::Held { .. } | ClaimOutcome::Refused(Refusal::SoldOut)] => Ok(Answer::Refused),
                _ => bail!("a claim was answered {outcomes:?}"),
            },
            other => bail!("a batch was answered {other:?}"),
        }
    }
}
