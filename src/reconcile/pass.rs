//! One comparison under way, coupon by coupon. Definitions are in `definitions`.

use std::collections::{HashMap, HashSet};

use super::pace::Pace;
use super::{Comparison, Difference, Extent, ReconcileError, Reconciler};
use crate::config;
use crate::domain::{CouponId, FieldDifference, OrderEvent, OrderId, UserId};
use crate::fence::Session;
use crate::fence::wal_position;
use crate::orders::release::release;
use crate::postgres::coupons::{self, CouponRow};
use crate::postgres::{orders, outbox};
use crate::redis::coupon_hash::{self, KeptDefinition};
use crate::redis::{RedisError, info, order_stream, scripts};

pub struct Pass<'a> {
    pub(super) reconciler: &'a Reconciler,
    pub(super) session: &'a Session,
    pub(super) extent: Extent,
    pub found: Comparison,
    /// Claims that had no row when they were read.
    without_row: HashMap<OrderId, Holder>,
    pub pace: Pace,
}

struct Holder {
    coupon: CouponId,
    user: UserId,
}

impl<'a> Pass<'a> {
    pub fn new(reconciler: &'a Reconciler, session: &'a Session, extent: Extent, found: Comparison) -> Self {
        Self { reconciler, session, extent, found, without_row: HashMap::new(), pace: Pace::default() }
    }

    /// Compares one coupon; of claims without a row `look_for_events` tells later.
    pub async fn coupon(&mut self, row: &CouponRow) -> Result<(), ReconcileError> {
        let id = &row.definition.id;
        self.found.coupons += 1;
        let kept = match coupon_hash::read_one(&self.session.redis, id).await {
            Err(RedisError::WrongType(_)) => None,
            kept => kept?,
        };
        if !kept.as_ref().is_some_and(KeptDefinition::adds_up) {
            self.found.stock_drift += 1;
            self.name("stock_drift", id, None);
            self.fence_off(id, "stock + claims is not its total in Redis");
            return Ok(());
        }
        self.definition(row, kept).await?;
        if self.found.fenced {
            return Ok(());
        }
        self.claims(id).await?;
        if self.found.fenced {
            return Ok(());
        }
        if self.without_row.len() >= config::RECONCILE_MAX_WITHOUT_ROW {
            self.look_for_events().await?;
        }
        self.orders(id).await?;
        self.stock(id).await
    }

    /// Postgres's own stock; only a person has it recounted.
    async fn stock(&mut self, id: &CouponId) -> Result<(), ReconcileError> {
        let pool = &self.reconciler.postgres.pool;
        if !coupons::stock_drifts(pool, id).await? {
            return Ok(());
        }
        self.found.stock_drift += 1;
        self.name("stock_drift", id, None);
        if self.extent == Extent::Ordered && coupons::recount_stock(pool, id).await? {
            self.found.fixed += 1;
            tracing::warn!(coupon = %id, "coupon {id}: its stock in Postgres was recounted on a person's order");
            return Ok(());
        }
        tracing::error!(
            coupon = %id,
            "coupon {id}: its stock in Postgres is not total less live orders; `seckill reconcile --fix` recounts it"
        );
        Ok(())
    }

    /// Claims whose order has ended are to be returned; those without any may be in flight or lost.
    async fn claims(&mut self, id: &CouponId) -> Result<(), ReconcileError> {
        let mut cursor = "0".to_owned();
        loop {
            let (page, next) = info::scan_claims(&self.session.redis, id, &cursor).await?;
            let mut claims: HashMap<OrderId, Holder> = HashMap::with_capacity(page.len());
            for (field, value) in page {
                match info::read_claim(&field, &value) {
                    Some((user, order)) => drop(claims.insert(order, Holder { coupon: id.clone(), user })),
                    None => self.fence_off(id, "the claims hash holds something else than claims"),
                }
            }
            if self.found.fenced {
                return Ok(());
            }
            self.found.claims += claims.len();
            self.settle(&mut claims).await?;
            self.without_row.extend(claims);
            if next == "0" {
                return Ok(());
            }
            cursor = next;
            self.pace.rest().await;
        }
    }

    /// Takes out the claims that have a row, and returns the units of those whose order has ended.
    async fn settle(&mut self, claims: &mut HashMap<OrderId, Holder>) -> Result<(), ReconcileError> {
        let pool = &self.reconciler.postgres.pool;
        let ids: Vec<OrderId> = claims.keys().copied().collect();
        let statuses = orders::statuses(pool, &ids).await?;
        let ended: Vec<OrderId> =
            statuses.iter().filter(|(_, status)| status.has_ended()).map(|(&order, _)| order).collect();
        let waiting = outbox::waiting(pool, &ended).await?;
        let Reconciler { fence, postgres } = self.reconciler;
        // Once for all of them, as their ends have been read: each lies before this position.
        if self.extent.repairs() && ended.len() > waiting.len() {
            wal_position::record(fence, self.session, postgres).await?;
        }
        for (&order, status) in &statuses {
            let Some(Holder { coupon, user }) = claims.remove(&order) else { continue };
            if !status.has_ended() {
                continue;
            }
            if waiting.contains(&order) {
                self.found.in_flight += 1;
                continue;
            }
            // It may have gone back since the claim was read.
            if info::held_by(&self.session.redis, &coupon, &user).await? != Some(order) {
                continue;
            }
            self.found.missed_releases += 1;
            self.name("missed_release", &coupon, Some(order));
            if self.extent.repairs() {
                release(fence, self.session, &coupon, user.as_str(), order).await?;
                self.found.fixed += 1;
            }
        }
        Ok(())
    }

    /// Claims without a row: those without an unacknowledged entry either, and still without a row, are lost.
    /// For many coupons at once: a walk is as long as the backlog.
    pub async fn look_for_events(&mut self) -> Result<(), ReconcileError> {
        let mut claims = std::mem::take(&mut self.without_row);
        if claims.is_empty() {
            return Ok(());
        }
        let before = claims.len();
        let mut walk = order_stream::Walk::start(&self.session.redis).await?;
        while let Some(page) = walk.next_page().await? {
            for event in page.iter().filter_map(|entry| OrderEvent::read(&entry.fields).ok()) {
                claims.remove(&event.order);
            }
            self.pace.rest().await;
        }
        self.found.in_flight += before - claims.len();
        self.settle(&mut claims).await?;
        self.found.lost_events += claims.len();
        let mut lost: HashMap<CouponId, Vec<(UserId, OrderId)>> = HashMap::new();
        for (order, Holder { coupon, user }) in claims {
            self.name("lost_event", &coupon, Some(order));
            lost.entry(coupon).or_default().push((user, order));
        }
        if self.extent.repairs() {
            for (coupon, lost) in &lost {
                self.send_again(coupon, lost).await?;
            }
        }
        Ok(())
    }

    async fn send_again(
        &mut self,
        coupon: &CouponId,
        lost: &[(UserId, OrderId)],
    ) -> Result<(), ReconcileError> {
        for lost in lost.chunks(config::SCAN_PAGE_ENTRIES) {
            let added = scripts::readd(&self.session.redis, &self.session.ready, coupon, lost).await?;
            let Some(added) = added else { return Err(self.reconciler.fenced(self.session)) };
            self.found.fixed += usize::try_from(added).unwrap_or(0);
        }
        Ok(())
    }

    /// Live orders that the claims hash does not hold, also on a second look.
    async fn orders(&mut self, id: &CouponId) -> Result<(), ReconcileError> {
        let pool = &self.reconciler.postgres.pool;
        let page_rows = i64::try_from(config::SCAN_PAGE_ENTRIES).unwrap_or(i64::MAX);
        let mut after = None;
        loop {
            let page = orders::live_page(pool, id, after, page_rows).await?;
            let Some(last) = page.last().map(|order| order.id) else { return Ok(()) };
            let users: Vec<&UserId> = page.iter().map(|order| &order.user).collect();
            let held = info::held_by_each(&self.session.redis, id, &users).await?;
            let unheld = page.iter().zip(&held).filter(|(order, held)| **held != Some(order.id));
            let unheld: Vec<OrderId> = unheld.map(|(order, _)| order.id).collect();
            // Whoever was released meanwhile is no longer live.
            let again: HashSet<OrderId> = orders::statuses(pool, &unheld)
                .await?
                .into_iter()
                .filter(|(_, status)| !status.has_ended())
                .map(|(order, _)| order)
                .collect();
            self.found.missing_claims += again.len();
            for order in &again {
                self.name("missing_claim", id, Some(*order));
            }
            if !again.is_empty() {
                self.fence_off(id, "live orders are missing from its claims");
                return Ok(());
            }
            after = Some(last);
            self.pace.rest().await;
        }
    }

    fn name(&mut self, kind: &'static str, coupon: &CouponId, order: Option<OrderId>) {
        self.name_whole(Difference { kind, coupon: coupon.clone(), order, fields: Vec::new() });
    }

    pub(super) fn name_definition(&mut self, coupon: &CouponId, fields: Vec<FieldDifference>) {
        self.name_whole(Difference { kind: "definition", coupon: coupon.clone(), order: None, fields });
    }

    fn name_whole(&mut self, difference: Difference) {
        if self.found.named.len() < config::REPORT_MAX_NAMES {
            self.found.named.push(difference);
        }
    }

    /// What must not be repaired beside live claims.
    fn fence_off(&mut self, coupon: &CouponId, what: &str) {
        if self.extent.repairs() {
            self.found.fenced = true;
            self.reconciler.fence.lost(&self.session.epoch, &format!("coupon {coupon}: {what}"));
        }
    }
}
