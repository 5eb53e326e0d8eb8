//! Rule 8: compares Redis with Postgres beside live claims, and repairs what may be repaired beside them. It
//! reads the claims hash, then unacknowledged entries, then Postgres, the direction in which an event moves:
//! what is found nowhere is lost, not late. It never writes a stock and never adopts an order; what it must
//! not repair takes the fence down.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use serde::Serialize;

use crate::config;
use crate::fence::position::{self, EffectError};
use crate::fence::release::release;
use crate::fence::{Fence, FenceState, MARKER_CHANGED, Session, deleted};
use crate::metrics;
use crate::model::{CouponId, OrderEvent, OrderId, UserId};
use crate::postgres::{Postgres, PostgresError, coupons, orders, outbox};
use crate::redis::{RedisError, info, script, stream};

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
}

impl From<EffectError> for ReconcileError {
    fn from(error: EffectError) -> Self {
        match error {
            EffectError::Fenced => Self::Fenced(MARKER_CHANGED.to_owned()),
            EffectError::Redis(error) => Self::Redis(error),
            EffectError::Postgres(error) => Self::Postgres(error),
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

impl Reconciler {
    /// Compares everything once and, with `fix`, repairs.
    pub async fn compare(&self, fix: bool) -> Result<Comparison, ReconcileError> {
        let session = self.fence.session().map_err(|reason| ReconcileError::Fenced(reason.to_string()))?;
        // Before the claims are read: whatever was lost with them is then found.
        let gone = stream::deleted_entries(&session.redis).await?;
        let mut found = Comparison { deleted_entries: gone.len(), ..Comparison::default() };
        let mut after = None;
        loop {
            let page = coupons::page(&self.postgres.pool, after.as_ref(), config::PAGE_MAX_ROWS).await?;
            let Some(last) = page.last().map(|row| row.definition.id.clone()) else { break };
            for row in page.iter().filter(|row| row.published_version > 0) {
                let mut coupon = Coupon { reconciler: self, session: &session, id: &row.definition.id, fix };
                coupon.compare(&mut found).await?;
            }
            after = Some(last);
        }
        // Another epoch may have begun: what was read in two of them is no difference.
        if stream::marker(&session.redis).await?.as_deref() != Some(&*session.ready) {
            return Err(self.fenced(&session));
        }
        count(&found);
        if fix {
            deleted::settle(&session.redis, &gone).await?;
        }
        Ok(found)
    }

    fn fenced(&self, session: &Session) -> ReconcileError {
        self.fence.marker_changed(session);
        ReconcileError::Fenced(MARKER_CHANGED.to_owned())
    }

    /// The cheap look: sums, and the pending entries list, which is as long as what is being recorded.
    pub async fn check(&self) -> Result<(), ReconcileError> {
        let session = self.fence.session().map_err(|reason| ReconcileError::Fenced(reason.to_string()))?;
        self.check_sums(&session).await?;
        if !stream::deleted_entries(&session.redis).await?.is_empty() {
            log(&self.compare(true).await?);
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

    /// Sums and the pending entries list every minute, everything at start and hourly. May be dropped at any moment.
    pub async fn run(self) {
        let mut checks = tokio::time::interval(config::CHECK_INTERVAL);
        let mut comparisons = tokio::time::interval(config::RECONCILE_INTERVAL);
        let mut states = self.fence.subscribe();
        loop {
            let is_whole = tokio::select! {
                _ = checks.tick() => false,
                _ = comparisons.tick() => true,
            };
            if states.wait_for(|state| matches!(state, FenceState::Up(_))).await.is_err() {
                return; // the fence is gone with the program
            }
            let outcome =
                if is_whole { self.compare(true).await.map(|found| log(&found)) } else { self.check().await };
            if let Err(error) = outcome {
                tracing::warn!("reconcile: {error}");
                if is_whole {
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
    ] {
        metrics::DRIFT.set_count(kind, differences as u64);
        metrics::DRIFT_TOTAL.add(kind, differences as u64);
    }
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    metrics::RECONCILE_LAST.set(since_1970.as_secs_f64());
}

fn log(found: &Comparison) {
    let differences = found.lost_events + found.missed_releases + found.missing_claims + found.stock_drift;
    if differences == 0 {
        return tracing::debug!(claims = found.claims, "reconcile: {} claims agree", found.claims);
    }
    tracing::warn!(
        lost_events = found.lost_events,
        missed_releases = found.missed_releases,
        missing_claims = found.missing_claims,
        stock_drift = found.stock_drift,
        fixed = found.fixed,
        "reconcile: {differences} differences, {} repaired: {:?}",
        found.fixed,
        found.named,
    );
}

/// One coupon under comparison.
struct Coupon<'a> {
    reconciler: &'a Reconciler,
    session: &'a Session,
    id: &'a CouponId,
    fix: bool,
}

impl Coupon<'_> {
    async fn compare(&mut self, found: &mut Comparison) -> Result<(), ReconcileError> {
        found.coupons += 1;
        if info::first_wrong_sum(&self.session.redis, std::slice::from_ref(self.id)).await?.is_some() {
            found.stock_drift += 1;
            self.name(found, "stock_drift", None);
            self.fence_off(found, "stock + claims is not its total in Redis");
            return Ok(());
        }
        self.compare_claims(found).await?;
        self.compare_orders(found).await?;
        if coupons::stock_drifts(&self.reconciler.postgres.pool, self.id).await? {
            found.stock_drift += 1;
            self.name(found, "stock_drift", None);
            tracing::error!(coupon = %self.id, "coupon {}: Postgres's stock is not total - live orders", self.id);
        }
        Ok(())
    }

    /// Claims without a live order: in flight, lost, or to be returned.
    async fn compare_claims(&self, found: &mut Comparison) -> Result<(), ReconcileError> {
        let mut cursor = "0".to_owned();
        let mut without_row: HashMap<OrderId, UserId> = HashMap::new();
        loop {
            let (page, next) = info::scan_claims(&self.session.redis, self.id, &cursor).await?;
            let mut claims: HashMap<OrderId, UserId> = HashMap::with_capacity(page.len());
            for (field, value) in page {
                match info::read_claim(&field, &value) {
                    Some((user, order)) => drop(claims.insert(order, user)),
                    None => self.fence_off(found, "the claims hash holds something else than claims"),
                }
            }
            found.claims += claims.len();
            self.settle(&mut claims, found).await?;
            without_row.extend(claims);
            if next == "0" {
                break;
            }
            cursor = next;
            tokio::time::sleep(config::RECONCILE_PACE).await;
        }
        // Once for all pages: a walk is as long as the backlog.
        if !without_row.is_empty() {
            self.look_for_events(without_row, found).await?;
        }
        Ok(())
    }

    /// Takes out the claims that have a row, and returns the units of those whose order has ended.
    async fn settle(
        &self,
        claims: &mut HashMap<OrderId, UserId>,
        found: &mut Comparison,
    ) -> Result<(), ReconcileError> {
        let pool = &self.reconciler.postgres.pool;
        let ids: Vec<OrderId> = claims.keys().copied().collect();
        let statuses = orders::statuses(pool, &ids).await?;
        let ended: Vec<OrderId> =
            statuses.iter().filter(|(_, status)| status.has_ended()).map(|(&order, _)| order).collect();
        let waiting = outbox::waiting(pool, &ended).await?;
        let Reconciler { fence, postgres } = self.reconciler;
        // Once for all of them, as their ends have been read: each lies before this position.
        if self.fix && ended.len() > waiting.len() {
            position::note(fence, self.session, postgres).await?;
        }
        for (&order, status) in &statuses {
            let Some(user) = claims.remove(&order) else { continue };
            if !status.has_ended() {
                continue;
            }
            if waiting.contains(&order) {
                found.in_flight += 1;
                continue;
            }
            found.missed_releases += 1;
            self.name(found, "missed_release", Some(order));
            if self.fix {
                release(fence, self.session, self.id, user.as_str(), order).await?;
                found.fixed += 1;
            }
        }
        Ok(())
    }

    /// Claims without a row: those without an unacknowledged entry either, and still without a row, are lost.
    async fn look_for_events(
        &self,
        mut claims: HashMap<OrderId, UserId>,
        found: &mut Comparison,
    ) -> Result<(), ReconcileError> {
        let before = claims.len();
        stream::visit_unacknowledged(&self.session.redis, |entry| {
            if let Ok(event) = OrderEvent::read(&entry.fields) {
                claims.remove(&event.order);
            }
        })
        .await?;
        found.in_flight += before - claims.len();
        self.settle(&mut claims, found).await?;
        if claims.is_empty() {
            return Ok(());
        }
        let lost: Vec<(UserId, OrderId)> = claims.into_iter().map(|(order, user)| (user, order)).collect();
        found.lost_events += lost.len();
        for (_, order) in &lost {
            self.name(found, "lost_event", Some(*order));
        }
        if self.fix {
            for lost in lost.chunks(config::SCAN_PAGE) {
                let added = script::readd(&self.session.redis, &self.session.ready, self.id, lost).await?;
                let Some(added) = added else { return Err(self.reconciler.fenced(self.session)) };
                found.fixed += usize::try_from(added).unwrap_or(0);
            }
        }
        Ok(())
    }

    /// Live orders that the claims hash does not hold, also on a second look.
    async fn compare_orders(&self, found: &mut Comparison) -> Result<(), ReconcileError> {
        let pool = &self.reconciler.postgres.pool;
        let page_rows = i64::try_from(config::SCAN_PAGE).unwrap_or(i64::MAX);
        let mut after = None;
        loop {
            let page = orders::live_page(pool, self.id, after.as_ref(), page_rows).await?;
            let Some(last) = page.last().map(|order| order.user.clone()) else { return Ok(()) };
            let users: Vec<&UserId> = page.iter().map(|order| &order.user).collect();
            let held = info::held_by_each(&self.session.redis, self.id, &users).await?;
            let unheld = page.iter().zip(&held).filter(|(order, held)| **held != Some(order.id));
            let unheld: Vec<OrderId> = unheld.map(|(order, _)| order.id).collect();
            // Whoever was released meanwhile is no longer live.
            let again: HashSet<OrderId> = orders::statuses(pool, &unheld)
                .await?
                .into_iter()
                .filter(|(_, status)| !status.has_ended())
                .map(|(order, _)| order)
                .collect();
            found.missing_claims += again.len();
            for order in &again {
                self.name(found, "missing_claim", Some(*order));
            }
            if !again.is_empty() {
                self.fence_off(found, "live orders are missing from its claims");
                return Ok(());
            }
            after = Some(last);
            tokio::time::sleep(config::RECONCILE_PACE).await;
        }
    }

    fn name(&self, found: &mut Comparison, kind: &'static str, order: Option<OrderId>) {
        if found.named.len() < config::REPORT_MAX_NAMES {
            found.named.push(Difference { kind, coupon: self.id.clone(), order });
        }
    }

    /// What must not be repaired beside live claims.
    fn fence_off(&self, found: &mut Comparison, what: &str) {
        if self.fix {
            found.fenced = true;
            self.reconciler.fence.lost(&self.session.epoch, &format!("coupon {}: {what}", self.id));
        }
    }
}
