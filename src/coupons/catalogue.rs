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

#[derive(Clone)]
struct Known {
    /// The partitions that have a share of the coupon, and whether Redis has had it there: if it is then absent, Redis has
    /// lost it.
    published: BTreeMap<Partition, bool>,
    /// How many shares the coupon has.
    spread: usize,
    unlisted: bool,
    /// Whether an order of the coupon can have ended: its orders expire unless they are confirmed, or one order was
    /// revoked, or cancelled by a rebuild.
    orders_end: bool,
    durability: ClaimDurability,
    has_waitlist: bool,
}

impl Known {
    fn is_published(&self) -> bool {
        self.published.values().any(|&is_published| is_published)
    }

    /// Whether Redis has had the coupon in the partition.
    fn is_in(&self, partition: Partition) -> bool {
        self.published.get(&partition) == Some(&true)
    }
}

/// Postgres lacks the rows of shares: where a user claims is not known.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "Postgres has {found} of {spread} shares of coupon {coupon}: `seckill reconcile --rebuild` restores the others"
)]
pub struct MissingShares {
    coupon: CouponId,
    found: usize,
    spread: usize,
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

    /// The partitions that have a share of the coupon, in their order; none for a coupon that was created since the last
    /// refresh.
    ///
    /// # Errors
    /// If Postgres has not the rows of all shares: a rebuild after lost commits is about to restore them.
    pub fn shares(&self, id: &CouponId) -> Result<Vec<Partition>, MissingShares> {
        let known = self.read();
        let Some(Known { published, spread, .. }) = known.get(id) else { return Ok(Vec::new()) };
        if published.len() < *spread {
            return Err(MissingShares { coupon: id.clone(), found: published.len(), spread: *spread });
        }
        Ok(published.keys().copied().collect())
    }

    /// Whether the coupon has more than one share.
    #[must_use]
    pub fn is_spread(&self, id: &CouponId) -> bool {
        self.read().get(id).is_some_and(|known| known.spread > 1)
    }

    /// The coupons with a share in the partition and in another one.
    #[must_use]
    pub fn spread_in(&self, partition: Partition) -> Vec<CouponId> {
        let known = self.read();
        let spread = known.iter().filter(|(_, known)| known.spread > 1 && known.is_in(partition));
        spread.map(|(id, _)| id.clone()).collect()
    }

    /// The number of coupons of each partition.
    #[must_use]
    pub fn count_by_partition(&self) -> BTreeMap<Partition, usize> {
        let mut counts = BTreeMap::new();
        for known in self.read().values() {
            for partition in known.published.keys() {
                *counts.entry(*partition).or_default() += 1;
            }
        }
        counts
    }

    #[must_use]
    pub fn is_published(&self, id: &CouponId) -> bool {
        self.read().get(id).is_some_and(Known::is_published)
    }

    /// As [`is_published`](Self::is_published); `false` for a coupon of another partition.
    #[must_use]
    pub fn is_published_in(&self, partition: Partition, id: &CouponId) -> bool {
        self.read().get(id).is_some_and(|known| known.is_in(partition))
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
        let with = known.iter().filter(|(_, known)| known.has_waitlist && known.is_in(partition));
        with.map(|(id, _)| id.clone()).collect()
    }

    /// The number of coupons that Redis has had, listed or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.read().values().filter(|known| known.is_published()).count()
    }

    /// One page of ids, in their order, after `after`.
    #[must_use]
    pub fn page(&self, after: Option<&CouponId>, limit: usize, with_unlisted: bool) -> Vec<CouponId> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let known = self.read();
        let page = known.range::<CouponId, _>((start, Bound::Unbounded));
        page.filter(|(_, known)| known.is_published() && (with_unlisted || !known.unlisted))
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
            let Definition { id, unlisted, reserve_seconds, durability, waitlist, spread, .. } =
                row.definition;
            let earlier = known.remove(&id);
            let orders_end = reserve_seconds.is_some()
                || row.has_ended_orders
                || earlier.as_ref().is_some_and(|earlier| earlier.orders_end);
            let mut published = earlier.map(|earlier| earlier.published).unwrap_or_default();
            published.insert(row.partition, row.published_version > 0);
            let spread = spread.map_or(1, |spread| usize::try_from(spread.shares).unwrap_or(1));
            let coupon =
                Known { published, spread, unlisted, orders_end, durability, has_waitlist: waitlist };
            known.insert(id, coupon);
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
