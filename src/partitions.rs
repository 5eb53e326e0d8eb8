//! The partitions of an installation. Each has its own stream, its own fence and its own functions; a coupon belongs to
//! one of them for ever. This file finds the partition of a coupon or an order, and reads over all partitions.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;

use crate::claims::claim::Claims;
use crate::coupons::catalogue::Catalogue;
use crate::coupons::definitions::{AdminCoupon, CouponError, Coupons};
use crate::coupons::snapshots::Snapshots;
use crate::domain::{CouponId, CouponSnapshot, OrderId, Origin, Partition, UserId, home};
use crate::fence::rebuild::Report;
use crate::fence::store_status::{StoreStatus, Stores};
use crate::fence::{Fence, FenceState, Session, StoreError};
use crate::orders::lookup::Orders;
use crate::orders::transitions::Transitions;
use crate::orders::unrecorded::{NotFound, UnrecordedOrders};
use crate::postgres::coupons::CouponRow;
use crate::postgres::{Postgres, coupons, orders};
use crate::receipt::Receipts;
use crate::reconcile::{ComparisonReport, ReconcileError, Reconciler};
use crate::waitlist::Waitlist;

mod moves;
mod receipts;
mod spread;

/// The functions for the coupons of one partition.
pub struct PartitionFunctions {
    pub claims: Claims,
    pub orders: Orders,
    pub unrecorded: UnrecordedOrders,
    pub transitions: Transitions,
    pub waitlist: Waitlist,
    pub coupons: Coupons,
    pub snapshots: Snapshots,
    pub fence: Fence,
    pub stores: Stores,
    pub reconciler: Reconciler,
    pub receipts: Receipts,
}

/// Every partition that this process has started. A cheap handle.
#[derive(Clone)]
pub struct Partitions {
    started: Arc<RwLock<BTreeMap<Partition, Arc<PartitionFunctions>>>>,
    catalogue: Catalogue,
    postgres: Postgres,
    moves: moves::Moves,
}

impl Partitions {
    #[must_use]
    pub fn new(catalogue: Catalogue, postgres: Postgres) -> Self {
        Self { started: Arc::default(), catalogue, postgres, moves: moves::Moves::default() }
    }

    /// Adds a partition that was started.
    pub fn add(&self, functions: PartitionFunctions) {
        let partition = functions.fence.partition();
        self.started.write().unwrap_or_else(PoisonError::into_inner).insert(partition, Arc::new(functions));
    }

    /// All partitions, in the order of their numbers.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<PartitionFunctions>> {
        self.started.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The partitions that have a share of the coupon: one for most coupons. For an unknown coupon, the partition that says
    /// so: the first one.
    ///
    /// # Errors
    /// If there are several partitions and Postgres, which knows the coupon's, does not answer; or if this process has
    /// not started that partition yet.
    pub async fn shares(&self, coupon: &CouponId) -> Result<Vec<Arc<PartitionFunctions>>, StoreError> {
        let partitions = self.partitions_of(coupon).await?;
        partitions.into_iter().map(|partition| self.get(partition)).collect()
    }

    /// The partition of a coupon; of a coupon with several shares, the first one.
    ///
    /// # Errors
    /// As [`shares`](Self::shares).
    pub async fn of(&self, coupon: &CouponId) -> Result<Arc<PartitionFunctions>, StoreError> {
        self.get(self.partitions_of(coupon).await?[0])
    }

    /// The partition at which the user claims units of the coupon.
    ///
    /// # Errors
    /// As [`shares`](Self::shares).
    pub async fn home(
        &self,
        coupon: &CouponId,
        user: &UserId,
    ) -> Result<Arc<PartitionFunctions>, StoreError> {
        let shares = self.partitions_of(coupon).await?;
        self.get(home(&shares, user).unwrap_or(Partition::DEFAULT))
    }

    /// At least one partition.
    async fn partitions_of(&self, coupon: &CouponId) -> Result<Vec<Partition>, StoreError> {
        let read =
            || self.catalogue.shares(coupon).map_err(|why| StoreError::NotReady(why.to_string().into()));
        let mut shares = read()?;
        if shares.is_empty() && self.only().is_none() {
            self.catalogue.refresh_in_time(Duration::ZERO).await?;
            shares = read()?;
        }
        Ok(if shares.is_empty() { vec![Partition::DEFAULT] } else { shares })
    }

    /// The partition for a coupon that is to be created: the one that the coupon has already, else the one with the
    /// fewest coupons of those that accept claims.
    ///
    /// # Errors
    /// As [`of`](Self::of); also if no partition accepts claims.
    pub async fn of_new(&self, coupon: &CouponId) -> Result<Arc<PartitionFunctions>, StoreError> {
        if let Some(only) = self.only() {
            return Ok(only);
        }
        if let Some(row) = coupons::shares(&self.postgres.pool, coupon).await?.first() {
            return self.get(row.partition);
        }
        let counts = self.catalogue.count_by_partition();
        let fewest = self
            .all()
            .into_iter()
            .filter(|functions| functions.fence.session().is_ok())
            .min_by_key(|functions| counts.get(&functions.fence.partition()).copied().unwrap_or(0));
        fewest.ok_or_else(|| StoreError::NotReady("no partition accepts claims".into()))
    }

    /// The partition of an order. Waits for an order that is not recorded yet. For an unknown order, the partition that
    /// says so: the one with the newest epoch, which knows whether the order can have been lost in any.
    ///
    /// # Errors
    /// If the order may be in a stream and is not recorded in time, or a store does not answer.
    pub async fn of_order(
        &self,
        order: OrderId,
        viewer: Option<&UserId>,
    ) -> Result<Arc<PartitionFunctions>, NotFound> {
        if let Some(only) = self.only() {
            return Ok(only);
        }
        let read = async || orders::partition(&self.postgres.pool, order).await.map_err(StoreError::from);
        let mut partition = read().await?;
        if partition.is_none() && order.claimed_at().is_some() {
            let all = self.all();
            let waits = all.iter().map(|functions| functions.unrecorded.wait_for_row(order, viewer));
            let waited: Result<Vec<()>, NotFound> = join_all(waits).await.into_iter().collect();
            partition = read().await?;
            if partition.is_none() {
                waited?;
            }
        }
        let newest = || {
            let sessions = self.all().into_iter().filter_map(|functions| functions.fence.session().ok());
            sessions.max_by_key(|session| session.began).map(|session| session.epoch.partition)
        };
        Ok(self.get(partition.or_else(newest).unwrap_or(Partition::DEFAULT))?)
    }

    /// Those of the coupons that Redis has, in the given order. Leaves out the coupons of partitions that are down; of a coupon
    /// with several shares, the stock of the shares that are down.
    ///
    /// # Errors
    /// If every partition is down; also for no coupons.
    pub async fn snapshots(&self, ids: Vec<CouponId>) -> Result<Vec<Arc<CouponSnapshot>>, StoreError> {
        if let Some(only) = self.only() {
            return only.snapshots.get_many(ids).await;
        }
        let all = self.all();
        let mut of_each: BTreeMap<Partition, Vec<CouponId>> =
            all.iter().map(|functions| (functions.fence.partition(), Vec::new())).collect();
        for id in &ids {
            for partition in self.catalogue.shares(id).unwrap_or_default() {
                of_each.entry(partition).or_default().push(id.clone());
            }
        }
        let reads = all.iter().map(|functions| {
            let ids = of_each.remove(&functions.fence.partition()).unwrap_or_default();
            functions.snapshots.get_many(ids)
        });
        let read = of_those_up(join_all(reads).await)?.into_iter().flatten();
        let mut found: BTreeMap<CouponId, Arc<CouponSnapshot>> = BTreeMap::new();
        for share in read {
            let whole = match found.get(&share.id) {
                Some(others) => Arc::new(CouponSnapshot::merge(others, &share)),
                None => share,
            };
            found.insert(whole.id.clone(), whole);
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// At most `limit` coupons after `after`, sorted by id, unlisted ones included. An id comes without a coupon if
    /// Redis does not have the coupon yet, or if its partition is down while another one is up.
    ///
    /// # Errors
    /// If Postgres does not answer, or every partition is down.
    pub async fn coupons(
        &self,
        after: Option<&CouponId>,
        limit: i64,
    ) -> Result<Vec<(CouponId, Option<AdminCoupon>)>, CouponError> {
        let rows = coupons::page_of_wholes(&self.postgres.pool, after, limit).await?;
        let mut of_each: BTreeMap<Partition, Vec<CouponRow>> = BTreeMap::new();
        let mut ids: Vec<CouponId> = rows.iter().map(|row| row.definition.id.clone()).collect();
        ids.dedup();
        for row in rows {
            of_each.entry(row.partition).or_default().push(row);
        }
        let reads = of_each
            .into_iter()
            .map(|(partition, rows)| async move { self.get(partition)?.coupons.view_rows(rows).await });
        let mut viewed: BTreeMap<CouponId, Vec<AdminCoupon>> = BTreeMap::new();
        for (id, view) in of_those_up(join_all(reads).await)?.into_iter().flatten() {
            viewed.entry(id).or_default().extend(view);
        }
        let with_view = |id| {
            let coupon = viewed.remove(&id).and_then(spread::merge);
            (id, coupon)
        };
        Ok(ids.into_iter().map(with_view).collect())
    }

    /// Returns when the fence of every partition is up, or has ended with the program.
    pub async fn wait_until_up(&self) {
        for functions in self.all() {
            let mut states = functions.fence.subscribe();
            drop(states.wait_for(|state| matches!(state, FenceState::Up(_))).await);
        }
    }

    /// Whether the fence of a partition is up.
    #[must_use]
    pub fn is_any_up(&self) -> bool {
        self.all().iter().any(|functions| functions.fence.session().is_ok())
    }

    /// The epoch of every partition, or why one of them takes no claims.
    ///
    /// # Errors
    /// With the reason of the first partition that takes none.
    pub fn epochs(&self) -> Result<String, Arc<str>> {
        let all = self.all();
        let mut epochs = Vec::with_capacity(all.len());
        for PartitionFunctions { fence, .. } in all.iter().map(AsRef::as_ref) {
            match fence.taking_claims() {
                Ok(session) => epochs.push(session.epoch.to_string()),
                Err(reason) if all.len() == 1 => return Err(reason),
                Err(reason) => return Err(format!("partition {}: {reason}", fence.partition()).into()),
            }
        }
        Ok(epochs.join(", "))
    }

    /// A session of a partition that accepts claims, or why none does.
    ///
    /// # Errors
    /// With the reason of the first partition.
    pub fn taking_claims(&self) -> Result<Arc<Session>, Arc<str>> {
        let mut refused = None;
        for functions in self.all() {
            match functions.claims.batcher().taking_claims() {
                Ok(session) => return Ok(session),
                Err(reason) => refused = refused.or(Some(reason)),
            }
        }
        Err(refused.unwrap_or_else(|| "starting".into()))
    }

    /// The state of both stores: of each partition, the worst.
    pub async fn store_status(&self) -> StoreStatus {
        let all = self.all();
        let read = all
            .iter()
            .map(|functions| async { (functions.fence.partition(), functions.stores.status().await) });
        StoreStatus::merge(join_all(read).await)
    }

    /// Compares everything in each partition; see [`Reconciler::compare`].
    ///
    /// # Errors
    /// As [`Reconciler::compare`], for any partition.
    pub async fn compare(&self, fix: Option<Origin>) -> Result<ComparisonReport, ReconcileError> {
        let mut report = ComparisonReport::default();
        for functions in self.all() {
            report.add(functions.reconciler.compare(fix.clone()).await?);
        }
        Ok(report)
    }

    /// Rebuilds each partition, one after the other; see [`Fence::order_rebuild`].
    ///
    /// # Errors
    /// As [`Fence::order_rebuild`], for the first partition that fails.
    pub async fn rebuild(&self, origin: &Origin) -> Result<Report, String> {
        let mut merged: Option<Report> = None;
        for functions in self.all() {
            let report = functions.fence.order_rebuild(origin.clone()).await?;
            merged = Some(match merged {
                None => report,
                Some(before) => before.merge(report),
            });
        }
        merged.ok_or_else(|| "no partition has started".into())
    }

    /// The partition, if this installation has no other one.
    fn only(&self) -> Option<Arc<PartitionFunctions>> {
        let started = self.started.read().unwrap_or_else(PoisonError::into_inner);
        if started.len() == 1 { started.values().next().cloned() } else { None }
    }

    fn get(&self, partition: Partition) -> Result<Arc<PartitionFunctions>, StoreError> {
        let started = self.started.read().unwrap_or_else(PoisonError::into_inner);
        let found = started.get(&partition).cloned();
        found.ok_or_else(|| StoreError::NotReady(format!("partition {partition} is starting").into()))
    }
}

/// What the partitions that are up have read; an error only if none is up.
fn of_those_up<T, E>(reads: Vec<Result<T, E>>) -> Result<Vec<T>, E> {
    let (mut read, mut down) = (Vec::new(), None);
    for result in reads {
        match result {
            Ok(part) => read.push(part),
            Err(error) => down = Some(error),
        }
    }
    match down {
        Some(error) if read.is_empty() => Err(error),
        _ => Ok(read),
    }
}
