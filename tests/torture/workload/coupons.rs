//! The coupons of a run: how much each is claimed, and what else happens to its units.

use rand::RngExt;
use rand::rngs::StdRng;

/// A coupon of the workload, and how much it is claimed.
pub struct TestCoupon {
    pub id: &'static str,
    pub total: i64,
    /// Number of users who claim it at the start.
    pub users: u64,
    /// Number of users who join in each second.
    pub users_per_second: u64,
    /// Number of claims in 100 that are for this coupon.
    pub share: u32,
    /// Some of its orders are cancelled, so that units are returned.
    pub is_returned: bool,
    pub edits: Edits,
    /// How many units a user may hold; above 1 each claim has a key.
    pub limit: u64,
    /// Its orders are confirmed or cancelled within this time, or expire.
    pub reserve_seconds: Option<u64>,
    /// Whether a claim is answered only after its order is in Postgres.
    pub is_durable: bool,
    /// Whether it has a waiting list. Such a coupon has no share: it has clients of its own.
    pub has_waitlist: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Edits {
    None,
    Up,
    UpAndDown,
}

const PLAIN: TestCoupon = TestCoupon {
    id: "",
    total: 0,
    users: 0,
    users_per_second: 0,
    share: 0,
    is_returned: false,
    edits: Edits::None,
    limit: 1,
    reserve_seconds: None,
    is_durable: false,
    has_waitlist: false,
};

pub const TEST_COUPONS: [TestCoupon; 10] = [
    TestCoupon {
        id: "bench",
        total: 5,
        users: 25,
        limit: 2,
        reserve_seconds: Some(2),
        has_waitlist: true,
        ..PLAIN
    },
    TestCoupon { id: "espresso", total: 40, users: 150, users_per_second: 1, share: 8, ..PLAIN },
    TestCoupon { id: "mug", total: 30, users: 45, share: 15, is_returned: true, ..PLAIN },
    TestCoupon {
        id: "saucer",
        total: 150,
        users: 200,
        users_per_second: 2,
        share: 8,
        edits: Edits::UpAndDown,
        ..PLAIN
    },
    TestCoupon {
        id: "seat",
        total: 120,
        users: 60,
        users_per_second: 1,
        share: 15,
        limit: 3,
        reserve_seconds: Some(2),
        ..PLAIN
    },
    TestCoupon { id: "stool", total: 4, users: 40, reserve_seconds: Some(1), has_waitlist: true, ..PLAIN },
    TestCoupon {
        id: "tea",
        total: 100,
        users: 200,
        users_per_second: 5,
        share: 10,
        edits: Edits::Up,
        ..PLAIN
    },
    TestCoupon { id: "ticket", total: 150, users: 250, share: 15, reserve_seconds: Some(1), ..PLAIN },
    TestCoupon {
        id: "voucher",
        total: 1_000_000,
        users: 100,
        users_per_second: 5,
        share: 9,
        reserve_seconds: Some(3),
        is_durable: true,
        ..PLAIN
    },
    TestCoupon {
        id: "water",
        total: 1_000_000,
        users: 200,
        users_per_second: 20,
        share: 20,
        is_returned: true,
        ..PLAIN
    },
];

/// The coupons with a waiting list.
pub fn with_waitlist() -> Vec<&'static TestCoupon> {
    TEST_COUPONS.iter().filter(|coupon| coupon.has_waitlist).collect()
}

/// Coupons that clients claim at an even pace in a run with several servers: some are in each partition.
pub fn steady_coupons() -> impl Iterator<Item = &'static TestCoupon> {
    TEST_COUPONS.iter().filter(|coupon| !coupon.has_waitlist && coupon.limit == 1)
}

/// A random coupon, by the shares.
pub fn choose(rng: &mut StdRng) -> &'static TestCoupon {
    let mut place = rng.random_range(0..TEST_COUPONS.iter().map(|coupon| coupon.share).sum());
    TEST_COUPONS
        .iter()
        .find(|coupon| {
            let is_here = place < coupon.share;
            place = place.saturating_sub(coupon.share);
            is_here
        })
        .unwrap()
}
