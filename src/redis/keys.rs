//! The name of every key.

use std::sync::Arc;

use crate::domain::{CouponId, Partition};

/// Consumer group of the workers.
pub const GROUP: &str = "order-writers";

/// What one of our keys holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Epoch,
    Orders,
    PostgresLsn,
    Tally,
    Coupon(CouponId),
    Claims(CouponId),
    Waitlist(CouponId),
    WaitlistOrders(CouponId),
}

/// Names of one partition's keys. `{<partition>}` is a Redis Cluster hash tag: all of its keys are in one slot.
#[derive(Clone, Debug)]
pub struct Keys {
    pub partition: Partition,
    prefix: Arc<str>,
    /// `<prefix>:{<partition>}:`, as in `seckill:{0}:`.
    base: Arc<str>,
    /// String: `ready:<epoch>` while claims may be accepted, `building:<epoch>` during a rebuild.
    pub epoch: Arc<str>,
    /// Stream of order events.
    pub orders: Arc<str>,
    /// Not a key: the name of a worker's connection.
    pub worker: Arc<str>,
    /// String: the highest durable WAL position that Postgres has reported.
    pub postgres_lsn: Arc<str>,
    /// Hash: how many entries scripts have trimmed and acknowledged, and the last settled tally.
    pub tally: Arc<str>,
}

impl Keys {
    #[must_use]
    pub fn new(prefix: &str, partition: Partition) -> Self {
        let base: Arc<str> = format!("{prefix}:{{{partition}}}:").into();
        Self {
            prefix: prefix.into(),
            partition,
            epoch: format!("{base}epoch").into(),
            orders: format!("{base}orders").into(),
            worker: format!("{base}worker").into(),
            postgres_lsn: format!("{base}postgres_lsn").into(),
            tally: format!("{base}tally").into(),
            base,
        }
    }

    /// The keys of another partition with the same prefix.
    #[must_use]
    pub fn of(&self, partition: Partition) -> Self {
        Self::new(&self.prefix, partition)
    }

    /// Hash: the definition and the stock; see `coupon_hash`.
    #[must_use]
    pub fn coupon(&self, id: &CouponId) -> String {
        format!("{}coupon:{id}", self.base)
    }

    /// Hash: which order holds each unit; see `claims_hash`.
    #[must_use]
    pub fn claims(&self, id: &CouponId) -> String {
        format!("{}claims:{id}", self.base)
    }

    /// Sorted set: the users in the waiting list, in the order of joining; see `waitlist`.
    #[must_use]
    pub fn waitlist(&self, id: &CouponId) -> String {
        format!("{}waitlist:{id}", self.base)
    }

    /// Hash: the order that each user in the waiting list gets; see `waitlist`.
    #[must_use]
    pub fn waitlist_orders(&self, id: &CouponId) -> String {
        format!("{}waitlist-orders:{id}", self.base)
    }

    /// Names like those of the keys of a coupon, to check what Redis's user may do with these keys.
    #[must_use]
    pub fn any_coupon(&self) -> [String; 4] {
        ["coupon", "claims", "waitlist", "waitlist-orders"].map(|kind| format!("{}{kind}:any", self.base))
    }

    /// What this key holds; `None` for a key that the program does not have.
    #[must_use]
    pub fn kind(&self, key: &[u8]) -> Option<Kind> {
        let name = std::str::from_utf8(key).ok()?.strip_prefix(&*self.base)?;
        match name.split_once(':') {
            None => match name {
                "epoch" => Some(Kind::Epoch),
                "orders" => Some(Kind::Orders),
                "postgres_lsn" => Some(Kind::PostgresLsn),
                "tally" => Some(Kind::Tally),
                _ => None,
            },
            Some((kind, id)) => {
                let id = id.parse().ok()?;
                match kind {
                    "coupon" => Some(Kind::Coupon(id)),
                    "claims" => Some(Kind::Claims(id)),
                    "waitlist" => Some(Kind::Waitlist(id)),
                    "waitlist-orders" => Some(Kind::WaitlistOrders(id)),
                    _ => None,
                }
            }
        }
    }

    /// The id in a coupon hash's key; `None` for any other key.
    #[must_use]
    pub fn coupon_id(&self, key: &str) -> Option<CouponId> {
        key.strip_prefix(&*self.base)?.strip_prefix("coupon:")?.parse().ok()
    }

    /// Glob of all coupon hashes, for SCAN.
    #[must_use]
    pub fn every_coupon(&self) -> String {
        format!("{}coupon:*", self.escaped_base())
    }

    /// Glob of all keys, for SCAN and ACL SETUSER.
    #[must_use]
    pub fn every_key(&self) -> String {
        format!("{}*", self.escaped_base())
    }

    fn escaped_base(&self) -> String {
        let escape = |c| if "[]*?\\".contains(c) { vec!['\\', c] } else { vec![c] };
        self.base.chars().flat_map(escape).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_the_partition_as_its_hash_tag() {
        let coffee: CouponId = "coffee".parse().unwrap();
        let keys = Keys::new("sale*", Partition::DEFAULT);
        assert_eq!(&*keys.orders, "sale*:{0}:orders");
        assert_eq!(keys.claims(&coffee), "sale*:{0}:claims:coffee");
        assert_eq!(keys.coupon_id(&keys.coupon(&coffee)), Some(coffee));
        assert_eq!(keys.every_key(), "sale\\*:{0}:*");
    }
}
