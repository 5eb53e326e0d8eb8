//! Coupons as Redis had them a moment ago, so that ten thousand readers of one page cost one read.

use std::sync::Arc;

use moka::future::Cache;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::problem::Problem;
use crate::config;
use crate::fence::Fence;
use crate::model::{CouponId, CouponSnapshot};
use crate::redis::info;

#[derive(Clone)]
pub struct Snapshots {
    fence: Fence,
    cache: Cache<CouponId, Option<Arc<CouponSnapshot>>>,
}

impl Snapshots {
    pub fn new(fence: Fence) -> Self {
        let cache = Cache::builder()
            .max_capacity(config::SNAPSHOT_CACHE_MAX_COUPONS)
            .time_to_live(config::SNAPSHOT_MAX_AGE)
            .build();
        Self { fence, cache }
    }

    /// A coupon at most 100 ms old; `None` where Redis has none of that id.
    pub async fn get(&self, id: &CouponId) -> Result<Option<Arc<CouponSnapshot>>, Problem> {
        // Boxed: moka's future is 29 kB, and this one is part of every request's.
        let cached = Box::pin(self.cache.try_get_with_by_ref(id, self.read(id)));
        cached.await.map_err(|problem| (*problem).clone())
    }

    /// A coupon as it is now.
    pub async fn read(&self, id: &CouponId) -> Result<Option<Arc<CouponSnapshot>>, Problem> {
        let session = self.fence.session().map_err(|reason| Problem::not_ready(&reason))?;
        Ok(info::coupon(&session.redis, id).await?.map(Arc::new))
    }
}

/// Ms since 1970 as RFC 3339, in UTC.
pub fn rfc3339(ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}
