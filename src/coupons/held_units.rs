//! Where the units of listed coupons are that are not in stock. Both stores are read, one after the other: while claims
//! arrive, the numbers may be some ms apart. The receipt has the numbers of one moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::config;
use crate::domain::{CouponId, Partition};
use crate::postgres::coupons::CouponRow;
use crate::postgres::{Postgres, PostgresError, receipt};

/// Units of one coupon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldUnits {
    /// Of claims that are not recorded yet.
    pub accepted: i64,
    pub reserved: i64,
    pub confirmed: i64,
    /// Units that came back to stock since the coupon was created.
    pub returned: i64,
}

impl HeldUnits {
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        Self {
            accepted: self.accepted + other.accepted,
            reserved: self.reserved + other.reserved,
            confirmed: self.confirmed + other.confirmed,
            returned: self.returned + other.returned,
        }
    }
}

/// Counts of all coupons, read together.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    reserved: Arc<HashMap<String, i64>>,
    in_outbox: HashMap<String, i64>,
}

/// Reads the counts. A cheap handle; clones share the last count of reserved orders.
#[derive(Clone)]
pub struct Counts {
    postgres: Postgres,
    partition: Partition,
    last: Arc<Mutex<Option<Reserved>>>,
}

struct Reserved {
    orders: Arc<HashMap<String, i64>>,
    at: Instant,
    took: Duration,
}

impl Counts {
    #[must_use]
    pub fn new(postgres: Postgres, partition: Partition) -> Self {
        Self { postgres, partition, last: Arc::default() }
    }

    /// Counts the units of all coupons in the partition. A count of reserved orders is used again for `COUNT_KEPT_PER_WORK` times as long as
    /// it took: lists that are read often cost Postgres little.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn read(&self) -> Result<Counted, PostgresError> {
        let in_outbox = receipt::units_in_outbox(&self.postgres.pool, self.partition).await?;
        let mut last = self.last.lock().await;
        if let Some(last) = &*last
            && last.at.elapsed() < config::COUNT_KEPT_PER_WORK * last.took
        {
            return Ok(Counted { reserved: last.orders.clone(), in_outbox });
        }
        let begun = Instant::now();
        let orders = Arc::new(receipt::reserved_orders(&self.postgres.pool, self.partition).await?);
        *last = Some(Reserved { orders: orders.clone(), at: Instant::now(), took: begun.elapsed() });
        Ok(Counted { reserved: orders, in_outbox })
    }
}

impl Counted {
    /// The units of a coupon. `held` was read in Redis after the row.
    #[must_use]
    pub fn of(&self, row: &CouponRow, held: i64) -> HeldUnits {
        let id: &CouponId = &row.definition.id;
        let of_coupon = |counts: &HashMap<String, i64>| counts.get(id.as_str()).copied().unwrap_or(0);
        let live = row.definition.total - row.stock;
        let reserved = of_coupon(&self.reserved).min(live);
        HeldUnits {
            accepted: (held - live - of_coupon(&self.in_outbox)).max(0),
            reserved,
            confirmed: live - reserved,
            returned: row.returned,
        }
    }
}
