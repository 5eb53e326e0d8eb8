//! Every key's name, from one place.

use std::sync::Arc;

use crate::domain::CouponId;

/// Consumer group of the workers.
pub const GROUP: &str = "order-writers";

/// Names of one partition's keys. `{0}` is a Redis Cluster hash tag: all of them live in one slot.
#[derive(Clone, Debug)]
pub struct Keys {
    /// `seckill:{0}:`
    base: Arc<str>,
    /// String: `ready:<epoch>` while claims may be accepted, `building:<epoch>` during a rebuild.
    pub epoch: Arc<str>,
    /// Stream of order events.
    pub orders: Arc<str>,
    /// No key: the name of a worker's connection.
    pub worker: Arc<str>,
    /// String: the highest WAL position that Postgres was seen to have made durable.
    pub postgres_lsn: Arc<str>,
    /// Hash: entries that scripts trimmed and acknowledged, and the tally that was settled last.
    pub tally: Arc<str>,
}

impl Keys {
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let base: Arc<str> = format!("{prefix}:{{0}}:").into();
        Self {
            epoch: format!("{base}epoch").into(),
            orders: format!("{base}orders").into(),
            worker: format!("{base}worker").into(),
            postgres_lsn: format!("{base}postgres_lsn").into(),
            tally: format!("{base}tally").into(),
            base,
        }
    }

    /// Hash: total, stock, window, state, limit.
    #[must_use]
    pub fn coupon(&self, id: &CouponId) -> String {
        format!("{}coupon:{id}", self.base)
    }

    /// Hash: who holds what, `<user>` → `<order>`.
    #[must_use]
    pub fn claims(&self, id: &CouponId) -> String {
        format!("{}claims:{id}", self.base)
    }

    /// A coupon hash and a claims hash of no coupon: what a user may do with them, he may do with all.
    #[must_use]
    pub fn any_coupon(&self) -> [String; 2] {
        ["coupon", "claims"].map(|kind| format!("{}{kind}:any", self.base))
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
