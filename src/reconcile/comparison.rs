//! One comparison, coupon by coupon: counts differences in the report and repairs those that the repair level allows.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use super::definitions::{self, Repair};
use super::error::ReconcileError;
use super::report::{ComparisonReport, Difference};
use super::throttle::Throttle;
use crate::config;
use crate::domain::{AuditAction, CouponId, OrderEvent, OrderId, Origin, UserId};
use crate::fence::{Fence, Session, wal_position};
use crate::logs::order_step;
use crate::orders::release::release;
use crate::postgres::audit::{self, AuditEntry};
use crate::postgres::coupons::{self, CouponRow};
use crate::postgres::{Postgres, orders, outbox};
use crate::redis::claims_hash::{ClaimField, StoredClaim};
use crate::redis::coupon_hash::{self, CouponHash};
use crate::redis::scripts::release::EndedUnit;
use crate::redis::{RedisError, claims_hash, order_stream, scripts};

/// What a comparison repairs.
#[derive(Clone, PartialEq, Eq)]
pub enum RepairLevel {
    None,
    /// Differences that may be repaired without an operator.
    Automatic,
    /// All differences, on the order of an operator. This includes the stock in Postgres, which may be edited on
    /// purpose.
    Ordered(Origin),
}

impl RepairLevel {
    pub const fn repairs(&self) -> bool {
        !matches!(self, Self::None)
    }
}

/// A comparison in progress.
pub struct Comparison<'a> {
    pub(super) fence: &'a Fence,
    pub(super) postgres: &'a Postgres,
    pub(super) session: &'a Session,
    pub(super) level: RepairLevel,
    pub report: ComparisonReport,
    /// Claims that had no order row when they were read.
    unrecorded: HashMap<OrderId, Holder>,
    pub(super) throttle: Throttle,
    /// Names the differences of one coupon for a receipt: does not end at the first one.
    pub(super) is_for_receipt: bool,
    /// The repairs that this comparison has already written into the audit log.
    on_record: HashSet<(&'static str, CouponId)>,
}

/// A claim and its coupon.
struct Holder {
    coupon: CouponId,
    claim: StoredClaim,
}

impl<'a> Comparison<'a> {
    pub fn new(fence: &'a Fence, postgres: &'a Postgres, session: &'a Session, level: RepairLevel) -> Self {
        let (report, throttle) =
            (ComparisonReport::default(), Throttle::new(config::RECONCILE_SLEEP_PER_WORK));
        let (unrecorded, on_record) = (HashMap::new(), HashSet::new());
        let is_for_receipt = false;
        Self { fence, postgres, session, level, report, unrecorded, throttle, is_for_receipt, on_record }
    }

    /// Compares all published coupons, until a difference takes the fence down: then a rebuild repairs the others. Call
    /// `find_lost_events` afterwards.
    ///
    /// # Errors
    /// If a store cannot serve, or the epoch changes.
    pub async fn compare_coupons(&mut self) -> Result<(), ReconcileError> {
        let mut after = None;
        loop {
            let page = self.page(after.as_ref()).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.definition.id.clone());
            for row in page.iter().filter(|row| row.published_version > 0) {
                self.coupon(row).await?;
                if self.report.fenced {
                    return Ok(());
                }
                self.throttle.wait().await;
            }
        }
    }

    /// Compares the definitions of all published coupons, until a difference takes the fence down.
    ///
    /// # Errors
    /// If a store cannot serve, or the epoch changes.
    pub async fn compare_definitions(&mut self) -> Result<(), ReconcileError> {
        let mut after = None;
        loop {
            let page = self.page(after.as_ref()).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.definition.id.clone());
            let ids: Vec<CouponId> = page.iter().map(|row| row.definition.id.clone()).collect();
            let kept = coupon_hash::read(&self.session.redis, &ids).await.inspect_err(|error| {
                self.fence.redis_failed(&self.session.epoch, error);
            })?;
            for (row, kept) in page.iter().zip(kept).filter(|(row, _)| row.published_version > 0) {
                self.definition(row, kept).await?;
                if self.report.fenced {
                    return Ok(());
                }
            }
            self.throttle.wait().await;
        }
    }

    async fn page(&self, after: Option<&CouponId>) -> Result<Vec<CouponRow>, ReconcileError> {
        Ok(coupons::page(&self.postgres.pool, self.fence.partition(), after, config::PAGE_MAX_ROWS).await?)
    }

    /// Compares one coupon, except its unrecorded claims.
    async fn coupon(&mut self, row: &CouponRow) -> Result<(), ReconcileError> {
        let id = &row.definition.id;
        self.report.coupons += 1;
        let kept = match coupon_hash::read_one(&self.session.redis, id).await {
            Err(RedisError::WrongType(_)) => None,
            kept => kept?,
        };
        if !kept.as_ref().is_some_and(CouponHash::adds_up) {
            self.report.stock_drift += 1;
            self.name("stock_drift", id, None, None);
            self.take_fence_down(id, "stock + claims is not its total in Redis");
            return Ok(());
        }
        self.definition(row, kept).await?;
        if self.report.fenced {
            return Ok(());
        }
        self.claims(id).await?;
        if self.report.fenced {
            return Ok(());
        }
        if self.unrecorded.len() >= config::RECONCILE_MAX_UNRECORDED_CLAIMS {
            self.find_lost_events().await?;
        }
        self.orders(id).await?;
        if row.definition.waitlist && !self.report.fenced {
            self.waiting_list(id).await?;
        }
        self.stock(id).await
    }

    /// Compares a row with the definition that Redis had after the row was read.
    pub(super) async fn definition(
        &mut self,
        row: &CouponRow,
        kept: Option<CouponHash>,
    ) -> Result<(), ReconcileError> {
        let id = &row.definition.id;
        let Some(fields) = definitions::difference(self.session, self.postgres, row, kept).await? else {
            return Ok(());
        };
        self.report.definition_drift += 1;
        self.push(Difference { kind: "definition", coupon: id.clone(), user: None, order: None, fields });
        if !self.level.repairs() {
            return Ok(());
        }
        self.put_on_record("definition", id).await?;
        match definitions::repair(self.fence, self.session, self.postgres, id).await? {
            Repair::Done => self.report.fixed += 1,
            Repair::NotNeeded => {}
            Repair::Fenced => self.report.fenced = true,
        }
        Ok(())
    }

    /// Compares the stock in Postgres with its live orders; recounts it only if an operator has ordered it.
    async fn stock(&mut self, id: &CouponId) -> Result<(), ReconcileError> {
        let pool = &self.postgres.pool;
        if !coupons::stock_drifts(pool, self.fence.partition(), id).await? {
            return Ok(());
        }
        self.report.stock_drift += 1;
        self.name("stock_drift", id, None, None);
        if let RepairLevel::Ordered(origin) = &self.level
            && coupons::recount_stock(pool, self.fence.partition(), id, origin).await?
        {
            self.report.fixed += 1;
            tracing::warn!(coupon = %id, "coupon {id}: recounted its stock in Postgres, as an operator ordered");
            return Ok(());
        }
        tracing::error!(
            coupon = %id,
            "coupon {id}: its stock in Postgres is not its total less its live orders; \
             `seckill reconcile --fix` recounts it"
        );
        Ok(())
    }

    /// Reads the claims hash: returns the units of ended orders, and keeps the claims without a row in `unrecorded`.
    pub(super) async fn claims(&mut self, id: &CouponId) -> Result<(), ReconcileError> {
        let mut cursor = "0".to_owned();
        loop {
            let (page, next) = claims_hash::scan(&self.session.redis, id, &cursor).await?;
            let mut claims: HashMap<OrderId, Holder> = HashMap::with_capacity(page.len());
            for (field, value) in page {
                if let Some(claim) = StoredClaim::decode(&field, &value) {
                    claims.insert(claim.order, Holder { coupon: id.clone(), claim });
                    continue;
                }
                self.report.foreign_fields += 1;
                let user = ClaimField::decode(&field).map(|field| field.user());
                self.name("foreign_field", id, user, None);
                self.take_fence_down(id, "its claims hash has a field that is not a claim");
            }
            if self.report.fenced {
                return Ok(());
            }
            self.report.claims += claims.len();
            self.take_recorded(&mut claims).await?;
            self.unrecorded.extend(claims);
            if next == "0" {
                return Ok(());
            }
            cursor = next;
            self.throttle.wait().await;
        }
    }

    /// Removes the claims that have an order row from `claims`, and returns the units of those whose order has ended.
    async fn take_recorded(&mut self, claims: &mut HashMap<OrderId, Holder>) -> Result<(), ReconcileError> {
        let (fence, postgres, session) = (self.fence, self.postgres, self.session);
        let ids: Vec<OrderId> = claims.keys().copied().collect();
        let statuses = orders::statuses(&postgres.pool, &ids).await?;
        let ended: Vec<OrderId> =
            statuses.iter().filter(|(_, status)| status.has_ended()).map(|(&order, _)| order).collect();
        let in_outbox = outbox::waiting(&postgres.pool, &ended).await?;
        // Once for all orders: this position is not before the end of any order that was just read.
        if self.level.repairs() && ended.len() > in_outbox.len() {
            wal_position::record(fence, session, postgres).await?;
        }
        for (&order, status) in &statuses {
            let Some(Holder { coupon, claim: StoredClaim { field, .. } }) = claims.remove(&order) else {
                continue;
            };
            if !status.has_ended() {
                continue;
            }
            if in_outbox.contains(&order) {
                self.report.in_flight += 1;
                continue;
            }
            // The unit may have been returned since the claim was read.
            let held = claims_hash::held_in(&session.redis, &coupon, std::slice::from_ref(&field)).await?;
            if !matches!(held[..], [Some((held, _))] if held == order) {
                continue;
            }
            self.report.missed_releases += 1;
            self.name("missed_release", &coupon, Some(field.user()), Some(order));
            if self.level.repairs() {
                self.put_on_record("missed_release", &coupon).await?;
                let unit = EndedUnit { field: field.as_str().to_owned(), order, after_version: None };
                release(fence, session, &coupon, &[unit]).await?;
                self.report.fixed += 1;
            }
        }
        Ok(())
    }

    /// Finds lost events: unrecorded claims that have no unacknowledged entry and, when read again, still have no row.
    /// Does this for many coupons together, since each scan of the unacknowledged entries is as long as the backlog.
    ///
    /// # Errors
    /// If a store cannot serve, or the epoch changes.
    pub async fn find_lost_events(&mut self) -> Result<(), ReconcileError> {
        let mut claims = std::mem::take(&mut self.unrecorded);
        if claims.is_empty() {
            return Ok(());
        }
        let before = claims.len();
        let mut scan = order_stream::UnacknowledgedScan::start(&self.session.redis).await?;
        while let Some(page) = scan.next_page().await? {
            for event in page.iter().filter_map(|entry| OrderEvent::read(&entry.fields).ok()) {
                claims.remove(&event.order);
            }
            self.throttle.wait().await;
        }
        self.report.in_flight += before - claims.len();
        self.take_recorded(&mut claims).await?;
        self.report.lost_events += claims.len();
        let mut lost: HashMap<CouponId, Vec<StoredClaim>> = HashMap::new();
        for (order, Holder { coupon, claim }) in claims {
            self.name("lost_event", &coupon, Some(claim.field.user()), Some(order));
            lost.entry(coupon).or_default().push(claim);
        }
        if self.level.repairs() {
            for (coupon, lost) in &lost {
                self.put_on_record("lost_event", coupon).await?;
                self.requeue(coupon, lost).await?;
            }
        }
        Ok(())
    }

    /// Sends lost events again.
    async fn requeue(&mut self, coupon: &CouponId, lost: &[StoredClaim]) -> Result<(), ReconcileError> {
        for lost in lost.chunks(config::SCAN_PAGE_ENTRIES) {
            let added = scripts::requeue(&self.session.redis, &self.session.ready, coupon, lost).await?;
            let Some(added) = added else {
                return Err(ReconcileError::marker_changed(self.fence, self.session));
            };
            self.report.fixed += usize::try_from(added).unwrap_or(0);
            for StoredClaim { order, .. } in lost {
                order_step!(order, %coupon, "its lost event is sent again");
            }
        }
        Ok(())
    }

    /// Finds live orders that the claims hash does not hold in their slot and with their key.
    pub(super) async fn orders(&mut self, id: &CouponId) -> Result<(), ReconcileError> {
        let pool = &self.postgres.pool;
        let page_rows = i64::try_from(config::SCAN_PAGE_ENTRIES).unwrap_or(i64::MAX);
        let mut after = None;
        loop {
            let page = orders::live_page(pool, self.fence.partition(), id, after, page_rows).await?;
            let Some(last) = page.last().map(|unit| unit.order) else { return Ok(()) };
            let fields: Vec<ClaimField> =
                page.iter().map(|unit| ClaimField::new(&unit.user, unit.slot)).collect();
            let held = claims_hash::held_in(&self.session.redis, id, &fields).await?;
            let unheld = page.into_iter().zip(held);
            let unheld = unheld.filter(|(unit, held)| *held != Some((unit.order, unit.key.clone())));
            let unheld: HashMap<OrderId, UserId> = unheld.map(|(unit, _)| (unit.order, unit.user)).collect();
            // Read again: an order may have ended and its unit may have returned since the page was read.
            let asked: Vec<OrderId> = unheld.keys().copied().collect();
            let still_live: HashSet<OrderId> = orders::statuses(pool, &asked)
                .await?
                .into_iter()
                .filter(|(_, status)| !status.has_ended())
                .map(|(order, _)| order)
                .collect();
            self.report.missing_claims += still_live.len();
            for order in &still_live {
                self.name("missing_claim", id, unheld.get(order).cloned(), Some(*order));
            }
            if !still_live.is_empty() && !self.is_for_receipt {
                self.take_fence_down(id, "live orders are missing from its claims");
                return Ok(());
            }
            after = Some(last);
            self.throttle.wait().await;
        }
    }

    pub(super) fn name(
        &mut self,
        kind: &'static str,
        coupon: &CouponId,
        user: Option<UserId>,
        order: Option<OrderId>,
    ) {
        self.push(Difference { kind, coupon: coupon.clone(), user, order, fields: Vec::new() });
    }

    fn push(&mut self, difference: Difference) {
        let most = if self.is_for_receipt { config::RECEIPT_MAX_NAMES } else { config::REPORT_MAX_NAMES };
        self.report.name(difference, most);
    }

    /// Writes into the audit log that an operator has ordered this kind of repair. The caller does this before the
    /// first repair: most repairs change only Redis, and no transaction covers both stores.
    pub(super) async fn put_on_record(
        &mut self,
        kind: &'static str,
        coupon: &CouponId,
    ) -> Result<(), ReconcileError> {
        let RepairLevel::Ordered(origin) = &self.level else { return Ok(()) };
        if self.on_record.insert((kind, coupon.clone())) {
            let (action, new) = (AuditAction::Fix, Some(json!({ "difference": kind })));
            let entry = AuditEntry { origin, action, coupon: Some(coupon), order: None, old: None, new };
            audit::record_alone(&self.postgres.pool, &entry).await?;
        }
        Ok(())
    }

    /// For differences that must not be repaired during live claims. Without repairs the fence stays up.
    pub(super) fn take_fence_down(&mut self, coupon: &CouponId, what: &str) {
        if self.level.repairs() {
            self.report.fenced = true;
            self.fence.invalidate(&self.session.epoch, &format!("coupon {coupon}: {what}"));
        }
    }
}
