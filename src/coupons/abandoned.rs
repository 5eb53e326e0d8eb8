//! Cancels abandoned takes: a process took units of a share for a move and died before it committed the move. A new version of
//! the share in Postgres cancels the take for good, and its publication gives the units back.

use std::collections::HashMap;

use super::catalogue::Catalogue;
use crate::domain::CouponId;
use crate::fence::{Fence, Session, StoreError};
use crate::postgres::{Postgres, coupons};
use crate::redis::coupon_hash;

/// The takes that the last look found, each with the version of its share.
#[derive(Debug, Default)]
pub struct AbandonedTakes {
    seen: HashMap<CouponId, i64>,
}

impl AbandonedTakes {
    /// Cancels the takes that the last look found already. The publisher calls this once a second, and a move takes some ms.
    ///
    /// # Errors
    /// If a store does not answer.
    pub async fn cancel(
        &mut self,
        fence: &Fence,
        session: &Session,
        postgres: &Postgres,
        catalogue: &Catalogue,
    ) -> Result<(), StoreError> {
        let mut found = HashMap::new();
        for id in catalogue.spread_in(fence.partition()) {
            let hash = coupon_hash::read_hash(&session.redis, &id).await?;
            let version = hash.version();
            if hash.taken() == 0 {
                continue;
            }
            if self.seen.get(&id) == Some(&version) {
                let renewed = coupons::renew(&postgres.pool, fence.partition(), &id, version, false).await?;
                if renewed.is_some() {
                    tracing::warn!(coupon = %id, "coupon {id}: a move of {} units was abandoned; they go back", hash.taken());
                }
            }
            found.insert(id, version);
        }
        self.seen = found;
        Ok(())
    }
}
