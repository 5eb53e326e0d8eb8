//! Coupons as Redis had them at most 100 ms ago: ten thousand readers of a coupon in that time cost one read.

use std::future::ready;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use moka::future::Cache;

use crate::config;
use crate::domain::{CouponId, CouponSnapshot};
use crate::fence::{Fence, StoreError};
use crate::redis::coupon_hash;

/// Reads coupons from Redis. A cheap handle; clones share one cache.
#[derive(Clone)]
pub struct Snapshots {
    fence: Fence,
    cache: Cache<CouponId, Option<Arc<CouponSnapshot>>>,
}

impl Snapshots {
    #[must_use]
    pub fn new(fence: Fence) -> Self {
        let cache = Cache::builder()
            .max_capacity(config::SNAPSHOT_CACHE_MAX_COUPONS)
            .time_to_live(config::SNAPSHOT_MAX_AGE)
            .build();
        Self { fence, cache }
    }

    /// A coupon at most `SNAPSHOT_MAX_AGE` old; `None` if Redis has none of that id.
    ///
    /// # Errors
    /// If the fence is down, or Redis does not answer.
    pub async fn get(&self, id: &CouponId) -> Result<Option<Arc<CouponSnapshot>>, StoreError> {
        // Boxed: moka's future is 29 kB and would be part of every request's future.
        let cached = Box::pin(self.cache.try_get_with_by_ref(id, self.read(id)));
        cached.await.map_err(|error| (*error).clone())
    }

    /// Those of the coupons that Redis has, in the given order.
    ///
    /// # Errors
    /// As `get`; also for no coupons.
    pub async fn get_many(&self, ids: Vec<CouponId>) -> Result<Vec<Arc<CouponSnapshot>>, StoreError> {
        self.fence.require_session()?;
        let get = |id: CouponId| {
            let snapshots = self.clone();
            async move { snapshots.get(&id).await }
        };
        let reads = stream::iter(ids).map(get).buffered(config::SNAPSHOT_READS_IN_FLIGHT);
        reads.try_filter_map(|snapshot| ready(Ok(snapshot))).try_collect().await
    }

    /// A coupon as it is now.
    ///
    /// # Errors
    /// As `get`.
    pub async fn read(&self, id: &CouponId) -> Result<Option<Arc<CouponSnapshot>>, StoreError> {
        let session = self.fence.require_session()?;
        Ok(coupon_hash::snapshot(&session.redis, id).await?.map(Arc::new))
    }
}
