//! The coupon ids that Postgres knows, in memory. With them an unknown id costs no query, a list reads no store, and a
//! coupon that Redis has lost is not taken for an unknown one. Stock is not here.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::Mutex;

use crate::config;
use crate::domain::{ClaimDurability, CouponId, Definition, Partition};
use crate::fence::Session;
use crate::postgres::{self, Postgres, PostgresError, coupons};

/// Coupon ids in memory. A cheap handle; clones share one catalogue.
#[derive(Clone)]
pub struct Catalogue {
    postgres: Postgres,
    known: Arc<RwLock<BTreeMap<CouponId, Known>>>,
    /// Locked during a query, so that many readers share one query.
    refreshed: Arc<Mutex<Refreshed>>,
    /// The highest number of a session for which the catalogue was refreshed; 0 before the first one. Sessions of all
    /// partitions are numbered in the order in which they began.
    session: Arc<AtomicU64>,
}

#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each one is an independent fact of a coupon")]
struct Known {
    partition: Partition,
    unlisted: bool,
    /// Whether Redis has had the coupon: if the coupon is then absent from Redis, Redis has lost it.
    published: bool,
    /// Whether an order of the coupon can have ended: its orders expire unless they are confirmed, or one order was
    /// revoked, or cancelled by a rebuild.
    orders_end: bool,
    durability: ClaimDurability,
    has_waitlist: bool,
}

#[derive(Default)]
struct Refreshed {
    at: Option<Instant>,
    newest_change: Option<OffsetDateTime>,
}

impl Catalogue {
    #[must_use]
    pub fn new(postgres: Postgres) -> Self {
        Self { postgres, known: Arc::default(), refreshed: Arc::default(), session: Arc::default() }
    }

    /// The coupon's partition; `None` for a coupon that was created since the last refresh.
    #[must_use]
    pub fn partition(&self, id: &CouponId) -> Option<Partition> {
        self.read().get(id).map(|known| known.partition)
    }

    /// The number of coupons of each partition.
    #[must_use]
    pub fn count_by_partition(&self) -> BTreeMap<Partition, usize> {
        let mut counts = BTreeMap::new();
        for known in self.read().values() {
            *counts.entry(known.partition).or_default() += 1;
        }
        counts
    }

    #[must_use]
    pub fn is_published(&self, id: &CouponId) -> bool {
        self.read().get(id).is_some_and(|known| known.published)
    }

    /// As [`is_published`](Self::is_published); `false` for a coupon of another partition.
    #[must_use]
    pub fn is_published_in(&self, partition: Partition, id: &CouponId) -> bool {
        self.read().get(id).is_some_and(|known| known.published && known.partition == partition)
    }

    /// Whether an order of the coupon can have ended. `false` for an unknown coupon.
    #[must_use]
    pub fn orders_end(&self, id: &CouponId) -> bool {
        self.read().get(id).is_some_and(|known| known.orders_end)
    }

    /// The coupon's durability; `None` for a coupon that was created since the last refresh.
    #[must_use]
    pub fn durability(&self, id: &CouponId) -> Option<ClaimDurability> {
        self.read().get(id).map(|known| known.durability)
    }

    /// Whether users may wait for a unit of the coupon.
    #[must_use]
    pub fn has_waitlist(&self, id: &CouponId) -> bool {
        self.read().get(id).is_some_and(|known| known.has_waitlist)
    }

    /// The coupons of the partition with a waiting list that Redis has.
    #[must_use]
    pub fn with_waitlist(&self, partition: Partition) -> Vec<CouponId> {
        let known = self.read();
        let with = known
            .iter()
            .filter(|(_, known)| known.partition == partition && known.has_waitlist && known.published);
        with.map(|(id, _)| id.clone()).collect()
    }

    /// The number of coupons that Redis has had, listed or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.read().values().filter(|known| known.published).count()
    }

    /// One page of ids, in their order, after `after`.
    #[must_use]
    pub fn page(&self, after: Option<&CouponId>, limit: usize, with_unlisted: bool) -> Vec<CouponId> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let known = self.read();
        let page = known.range::<CouponId, _>((start, Bound::Unbounded));
        page.filter(|(_, known)| known.published && (with_unlisted || !known.unlisted))
            .map(|(id, _)| id.clone())
            .take(limit)
            .collect()
    }

    /// Reads the changes from Postgres, unless a read began less than `max_age` before this call, or after it: so
    /// callers that wait for the same read share it, and with `max_age` 0 a caller gets every change made before its
    /// call.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn refresh(&self, max_age: Duration) -> Result<(), PostgresError> {
        let called = Instant::now();
        let mut refreshed = self.refreshed.lock().await;
        if refreshed.at.is_some_and(|at| at + max_age > called) {
            return Ok(());
        }
        let at = Instant::now();
        // A change becomes visible at its commit, up to one statement timeout after its `changed_at`.
        let since = refreshed.newest_change.map(|newest| newest - 2 * config::POSTGRES_STATEMENT_TIMEOUT);
        let rows = coupons::changed_since(&self.postgres.pool, since).await?;
        if let Some(last) = rows.last() {
            refreshed.newest_change = Some(last.changed_at);
        }
        refreshed.at = Some(at);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            let published = row.published_version > 0;
            let Definition { id, unlisted, reserve_seconds, durability, waitlist: has_waitlist, .. } =
                row.definition;
            let orders_end = reserve_seconds.is_some() || row.has_ended_orders;
            let partition = row.partition;
            known.insert(id, Known { partition, unlisted, published, orders_end, durability, has_waitlist });
        }
        Ok(())
    }

    /// Refreshes once for each session of the fence, before the session's first claim: a claim needs the catalogue to
    /// distinguish a coupon that Redis has lost from an unknown one. Without Postgres the catalogue may be out of date.
    pub async fn refresh_for(&self, session: &Session) {
        if self.session.load(Ordering::Acquire) < session.id {
            self.refresh_briefly(Duration::ZERO).await;
            self.session.fetch_max(session.id, Ordering::Release);
        }
    }

    /// Refreshes, but waits at most `CATALOGUE_TIMEOUT`; without Postgres the catalogue stays as it was read last.
    pub async fn refresh_briefly(&self, max_age: Duration) {
        if let Err(error) = self.refresh_in_time(max_age).await {
            tracing::debug!("catalogue: {error}");
        }
    }

    /// Refreshes, but waits at most `CATALOGUE_TIMEOUT`.
    ///
    /// # Errors
    /// If Postgres does not answer in time.
    pub async fn refresh_in_time(&self, max_age: Duration) -> Result<(), PostgresError> {
        let catalogue = self.clone();
        let refresh = async move { catalogue.refresh(max_age).await };
        postgres::with_timeout(config::CATALOGUE_TIMEOUT, refresh).await
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<CouponId, Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}
