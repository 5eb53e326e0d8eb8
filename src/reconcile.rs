//! Rule 8: compares Redis with Postgres beside live claims, and repairs what may be repaired beside them. It
//! reads the claims hash, then unacknowledged entries, then Postgres, the direction in which an event moves:
//! what is found nowhere is lost, not late. It never writes a stock in Redis and never adopts an order; what it must
//! not repair takes the fence down.

mod definitions;
mod pace;
mod pass;

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;

use crate::config;
use crate::coupons::in_force::describe;
use crate::domain::{CouponId, FieldDifference, OrderId};
use crate::fence::{Fence, FenceState, MARKER_CHANGED, Session, deleted};
use crate::fence::{StoreError, wal_position};
use crate::metrics;
use crate::postgres::{Postgres, PostgresError, coupons};
use crate::redis::probe::Tally;
use crate::redis::{RedisError, info, order_stream, probe};
use pass::Pass;

/// What a comparison found. Lists name at most `REPORT_MAX_NAMES`; counts are whole.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    pub coupons: usize,
    pub claims: usize,
    /// Claims whose event nobody has recorded yet: no difference.
    pub in_flight: usize,
    /// Claims with neither entry nor row: their events are lost.
    pub lost_events: usize,
    /// Claims whose order has ended: their units did not go back.
    pub missed_releases: usize,
    /// Live orders that the claims hash does not hold.
    pub missing_claims: usize,
    /// Pending entries that somebody deleted or trimmed; the events among them that nobody recorded are lost events.
    pub deleted_entries: usize,
    /// Coupons whose stock does not add up, in Redis or in Postgres.
    pub stock_drift: usize,
    /// Coupons whose definition is not in force in Redis as Postgres has it.
    pub definition_drift: usize,
    /// Differences repaired beside live claims.
    pub fixed: usize,
    /// Whether the fence was taken down for what could not be.
    pub fenced: bool,
    pub named: Vec<Difference>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    pub kind: &'static str,
    pub coupon: CouponId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderId>,
    /// Of a definition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldDifference>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, coupon, order, fields } = self;
        match order {
            Some(order) => write!(f, "{kind} of order {order} of coupon {coupon}"),
            None if fields.is_empty() => write!(f, "{kind} of coupon {coupon}"),
            None => write!(f, "{kind} of coupon {coupon} ({})", describe(fields)),
        }
    }
}

impl From<StoreError> for ReconcileError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotReady(reason) => Self::Fenced(reason.to_string()),
            StoreError::Fenced => Self::Fenced(MARKER_CHANGED.to_owned()),
            StoreError::Redis(error) => Self::Redis(error),
            StoreError::Postgres(error) => Self::Postgres(error),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("claims are fenced off: {0}")]
    Fenced(String),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

/// What a comparison needs.
#[derive(Clone)]
pub struct Reconciler {
    pub fence: Fence,
    pub postgres: Postgres,
}

/// How far a comparison repairs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Nothing,
    /// What may be repaired beside live claims without a person.
    ByItself,
    /// Also what a person may have meant: a stock in Postgres that was edited.
    Ordered,
}

impl Extent {
    const fn repairs(self) -> bool {
        !matches!(self, Self::Nothing)
    }
}

/// What is due.
#[derive(Clone, Copy)]
enum Look {
    Definitions,
    /// What the fence's look of each second misses.
    Missed,
    Sums,
    Everything,
}

impl Reconciler {
    /// Compares everything once for a person and, with `fix`, repairs.
    pub async fn compare(&self, fix: bool) -> Result<Comparison, ReconcileError> {
        self.compare_to(if fix { Extent::Ordered } else { Extent::Nothing }).await
    }

    async fn compare_to(&self, extent: Extent) -> Result<Comparison, ReconcileError> {
        let session = self.fence.session().map_err(|reason| ReconcileError::Fenced(reason.to_string()))?;
        // Before the claims are read: whatever was lost with them is then found.
        let tally = if extent.repairs() { Some(self.tally(&session).await?) } else { None };
        let gone = order_stream::deleted_entries(&session.redis).await?;
        let found = Comparison { deleted_entries: gone.len(), ..Comparison::default() };
        let mut pass = Pass::new(self, &session, extent, found);
        let mut after = None;
        loop {
            let page = coupons::page(&self.postgres.pool, after.as_ref(), config::PAGE_MAX_ROWS).await?;
            let Some(last) = page.last().map(|row| row.definition.id.clone()) else { break };
            for row in page.iter().filter(|row| row.published_version > 0) {
                pass.coupon(row).await?;
                if pass.found.fenced {
                    // The rest is the rebuild's.
                    count(&pass.found);
                    return Ok(pass.found);
                }
                pass.pace.rest().await;
            }
            after = Some(last);
        }
        pass.look_for_events().await?;
        let found = pass.found;
        // Another epoch may have begun: what was read in two of them is no difference.
        if order_stream::marker(&session.redis).await?.as_deref() != Some(&*session.ready) {
            return Err(self.fenced(&session));
        }
        count(&found);
        if let Some(tally) = tally {
            if !gone.is_empty() {
                // Some of their orders are recorded, and are acknowledged with this.
                wal_position::record(&self.fence, &session, &self.postgres).await?;
            }
            deleted::settle(&session.redis, &gone).await?;
            if !probe::settle(&session.redis, &session.ready, &tally).await? {
                return Err(self.fenced(&session));
            }
        }
        Ok(found)
    }

    async fn tally(&self, session: &Session) -> Result<Tally, ReconcileError> {
        probe::tally(&session.redis, &session.ready).await?.ok_or_else(|| self.fenced(session))
    }

    fn fenced(&self, session: &Session) -> ReconcileError {
        self.fence.marker_changed(session);
        ReconcileError::Fenced(MARKER_CHANGED.to_owned())
    }

    /// The cheap look: sums, and the pending entries list, which is as long as what is being recorded.
    pub async fn check(&self) -> Result<(), ReconcileError> {
        let session = self.fence.session().map_err(|reason| ReconcileError::Fenced(reason.to_string()))?;
        self.check_sums(&session).await?;
        if !order_stream::deleted_entries(&session.redis).await?.is_empty() {
            log(&self.compare_to(Extent::ByItself).await?);
        }
        Ok(())
    }

    async fn check_sums(&self, session: &Session) -> Result<(), ReconcileError> {
        let mut cursor = "0".to_owned();
        loop {
            let (ids, next) = info::scan_coupons(&session.redis, &cursor).await?;
            if let Some(wrong) = info::first_wrong_sum(&session.redis, &ids).await? {
                self.fence.sum_fails(&session.epoch, wrong);
                return Ok(());
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Compares for the entries that the fence's look has missed, unless another process has done so since.
    async fn look_for_missed(&self) -> Result<(), ReconcileError> {
        let session = self.fence.session().map_err(|reason| ReconcileError::Fenced(reason.to_string()))?;
        let tally = probe::probe_stream(&session.redis).await?.tally;
        if tally.misses_entries() {
            let found = self.compare_to(Extent::ByItself).await?;
            tracing::warn!(
                lost_events = found.lost_events,
                tally.now,
                tally.settled,
                "entries of the order stream were trimmed, deleted, skipped or acknowledged by another program: \
                 {} lost events are sent again",
                found.lost_events
            );
            log(&found);
        }
        Ok(())
    }

    /// Definitions every ten seconds, sums and the pending entries list every minute, everything at start, hourly and
    /// when the fence's look misses entries. May be dropped at any moment.
    pub async fn run(self) {
        let mut checks = tokio::time::interval(config::CHECK_INTERVAL);
        let mut comparisons = tokio::time::interval(config::RECONCILE_INTERVAL);
        let mut definitions = tokio::time::interval(config::DEFINITIONS_INTERVAL);
        // Beside thousands of coupons a look takes its time, and is not made up for.
        definitions.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut states = self.fence.subscribe();
        loop {
            let look = tokio::select! {
                () = self.fence.misses_entries() => Look::Missed,
                _ = definitions.tick() => Look::Definitions,
                _ = checks.tick() => Look::Sums,
                _ = comparisons.tick() => Look::Everything,
            };
            if states.wait_for(|state| matches!(state, FenceState::Up(_))).await.is_err() {
                return; // the fence is gone with the program
            }
            let outcome = match look {
                Look::Definitions => self.check_definitions().await,
                Look::Missed => self.look_for_missed().await,
                Look::Sums => self.check().await,
                Look::Everything => self.compare_to(Extent::ByItself).await.map(|found| log(&found)),
            };
            if let Err(error) = outcome {
                match look {
                    // The next look is soon, and what keeps it away has a line of its own.
                    Look::Definitions | Look::Missed => tracing::debug!("reconcile: {error}"),
                    Look::Sums | Look::Everything => tracing::warn!("reconcile: {error}"),
                }
                if matches!(look, Look::Everything) {
                    comparisons.reset_after(config::CHECK_INTERVAL);
                }
            }
        }
    }
}

fn count(found: &Comparison) {
    for (kind, differences) in [
        ("lost_event", found.lost_events),
        ("missing_claim", found.missing_claims),
        ("missed_release", found.missed_releases),
        ("stock_drift", found.stock_drift),
        ("definition", found.definition_drift),
    ] {
        metrics::DRIFT.set_count(kind, differences as u64);
        metrics::DRIFT_TOTAL.add(kind, differences as u64);
    }
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    metrics::RECONCILE_LAST.set(since_1970.as_secs_f64());
}

fn log(found: &Comparison) {
    let differences = found.lost_events
        + found.missed_releases
        + found.missing_claims
        + found.stock_drift
        + found.definition_drift;
    if differences == 0 {
        return tracing::debug!(claims = found.claims, "reconcile: {} claims agree", found.claims);
    }
    tracing::warn!(
        lost_events = found.lost_events,
        missed_releases = found.missed_releases,
        missing_claims = found.missing_claims,
        stock_drift = found.stock_drift,
        definition_drift = found.definition_drift,
        fixed = found.fixed,
        "reconcile: {differences} differences, {} repaired: {}",
        found.fixed,
        found.named.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    );
}
