//! Takes the fence up: joins the agreement that exists, or rebuilds first, and then lends out a session. `rebuild`
//! makes the decisions of a rebuild, `retry` chooses the pause after a failed one.

use std::sync::Arc;
use std::time::Instant;

use super::probe::{self, Difference};
use super::rebuild::{self, Cause, Refused};
use super::retry::Down;
use super::{Fence, FenceState, OrderedRebuild, RedisClock, Session, lock, postgres_loss};
use crate::config;
use crate::postgres::fence::FenceRow;
use crate::postgres::{self, Postgres, coupons};
use crate::redis::{Redis, RedisServer, coupon_hash};

impl Fence {
    /// Joins the agreement if there is one, else rebuilds first. Then lends out a session.
    pub(super) async fn come_up(
        &self,
        server: &RedisServer,
        postgres: &Postgres,
        is_repeated: bool,
    ) -> Result<Arc<Session>, Down> {
        let mut is_rebuilt = false;
        loop {
            let redis = server.connect().await.map_err(Down::soon)?;
            let (seen, row) = self.probe(&redis, postgres).await.map_err(Down::soon)?;
            // The clock estimate may lag but never lead: an early deadline only refuses the claim.
            let probed_at = Instant::now();
            let evidence = lock(&self.shared.evidence).clone().filter(|evidence| evidence.epoch == row.epoch);
            let order = lock(&self.shared.ordered).take();
            let verdict = match (&order, &evidence) {
                (Some(_), _) => {
                    let sentence = "a rebuild was ordered".into();
                    Err(Difference { cause: "ordered", sentence, is_normal: true })
                }
                (None, Some(evidence)) => Err(evidence.as_difference()),
                (None, None) => probe::compare(&seen, &row),
            };
            if let Err(difference) = verdict {
                if order.is_none() && row.postgres_lost {
                    let why = postgres_loss::noticed_before(&seen, &row, evidence.as_ref());
                    return Err(self.waits(&why));
                }
                if order.is_none() && is_rebuilt {
                    return Err(Down::Failed(format!("a rebuild has not helped: {difference}")));
                }
                // When a rebuild fails repeatedly, the fence keeps the reason of the failure.
                if order.is_some() || !is_repeated {
                    self.stay_down(&difference.sentence, difference.is_normal);
                }
                let ordered_by = order.as_ref().map(|order| order.origin.clone());
                let cause = Cause { evidence, difference, ordered_by, is_repeated };
                self.rebuild(server, postgres, &cause, order).await?;
                is_rebuilt = true;
                continue;
            }
            if let Some(why) = self.lost_definition(&redis, &row, postgres).await {
                self.report_postgres_loss(&row.epoch, &why);
                continue;
            }
            let clock = RedisClock::new(seen.now_ms, probed_at);
            let session = Arc::new(Session::new(row.epoch, redis, clock));
            self.record_probe(&seen);
            if !self.lend_out(&session) {
                continue;
            }
            tracing::info!(
                fence.epoch = session.epoch.as_str(),
                "fence up: claims are accepted in epoch {}",
                session.epoch
            );
            return Ok(session);
        }
    }

    /// Why Postgres has lost an edit or a coupon although everything else agrees; `None` if it has not, or if a store
    /// does not answer.
    async fn lost_definition(&self, redis: &Redis, row: &FenceRow, postgres: &Postgres) -> Option<String> {
        row.lsn.as_ref()?;
        // Redis first: an edit reaches Postgres before Redis.
        let in_redis = coupon_hash::versions(redis).await.ok()?;
        let pool = postgres.pool.clone();
        let partition = self.partition();
        let read = async move { coupons::versions(&pool, partition).await };
        let in_postgres = postgres::with_timeout(config::PROBE_INTERVAL, read).await.ok()?;
        postgres_loss::Definitions::compare(redis, &in_redis, &in_postgres).await.ok()?.why()
    }

    fn waits(&self, why: &str) -> Down {
        let mut known = lock(&self.shared.waits);
        Down::Waits(known.get_or_insert_with(|| postgres_loss::sentence(why).into()).clone())
    }

    /// Lends out the session; `false` if there is new evidence against its epoch. Checks this again because a worker
    /// reports evidence only once, perhaps while the fence is down.
    fn lend_out(&self, session: &Arc<Session>) -> bool {
        let mut evidence = lock(&self.shared.evidence);
        if evidence.as_ref().is_some_and(|evidence| evidence.epoch == session.epoch) {
            return false;
        }
        *evidence = None;
        *lock(&self.shared.waits) = None;
        // Under the lock: a later report of evidence finds the session and takes it down.
        self.shared.state.send_replace(FenceState::Up(session.clone()));
        true
    }

    async fn rebuild(
        &self,
        server: &RedisServer,
        postgres: &Postgres,
        cause: &Cause,
        order: Option<OrderedRebuild>,
    ) -> Result<(), Down> {
        let rebuilding = rebuild::rebuild(server, postgres, cause);
        let outcome = match tokio::time::timeout(config::REBUILD_TIMEOUT, rebuilding).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("the rebuild took too long")),
        };
        let down = outcome.as_ref().err().map(|error| match error.downcast_ref() {
            Some(Refused::Waits(why)) => self.waits(why),
            _ => Down::after_rebuild(error),
        });
        if let Some(order) = order {
            // The client that ordered the rebuild may be gone.
            drop(
                order
                    .answer
                    .send(outcome.map(Option::unwrap_or_default).map_err(|error| format!("{error:#}"))),
            );
        }
        down.map_or(Ok(()), Err)
    }
}
