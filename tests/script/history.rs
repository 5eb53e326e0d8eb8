//! Random histories of a sale, as values that proptest generates and shrinks.

use proptest::prelude::*;

pub const COUPONS: usize = 3;
const USERS: usize = 5;
const KEYS: usize = 4;
/// The limit for each user, by coupon.
const PER_USER_LIMITS: [i16; COUPONS] = [1, 2, 3];

const FORBIDDEN: [&str; 7] = ["XADD", "HSET", "HINCRBY", "HDEL", "ZADD", "ZREM", "SET"];

/// One step of a history. Numbers of coupons are indices.
#[derive(Clone, Debug)]
pub enum Step {
    Claim(Batch),
    /// An earlier batch with the same order ids, sent again.
    ClaimAgain(prop::sample::Index),
    Publish(Edit),
    Release {
        coupon: usize,
        units: Vec<WhichUnit>,
        marker: SentMarker,
    },
    Join(Join),
    /// An earlier batch of joins with the same order ids, sent again.
    JoinAgain(prop::sample::Index),
    Leave {
        coupon: usize,
        user: usize,
        marker: SentMarker,
    },
    Serve {
        coupon: usize,
        marker: SentMarker,
    },
    /// A disturbance during these steps; it is repaired after them.
    During(Disturbance, Vec<Step>),
}

#[derive(Clone, Debug)]
pub struct Batch {
    /// Coupon, user, Idempotency-Key.
    pub claims: Vec<(usize, usize, Option<usize>)>,
    /// Which coupons Postgres says were published.
    pub published: [bool; COUPONS],
    pub marker: SentMarker,
    pub deadline_passed: bool,
}

/// Users who ask for places in one coupon's waiting list.
#[derive(Clone, Debug)]
pub struct Join {
    pub coupon: usize,
    /// User, Idempotency-Key.
    pub users: Vec<(usize, Option<usize>)>,
    /// The WAL position of the rows; `None` to look only.
    pub position: Option<u8>,
    pub marker: SentMarker,
}

#[derive(Clone, Copy, Debug)]
pub struct Edit {
    pub coupon: usize,
    pub just_inserted: bool,
    /// The difference to the version in Redis.
    pub version_step: i64,
    pub total: i64,
    pub per_user_limit: i16,
    pub starts: Time,
    pub ends: Time,
    pub paused: bool,
    pub waitlist: bool,
    pub marker: SentMarker,
}

#[derive(Clone, Copy, Debug)]
pub struct WhichUnit {
    pub user: usize,
    pub order: WhichOrder,
    /// Relative to the coupon's version in Redis.
    pub after_version: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
pub enum WhichOrder {
    /// The order that the user holds; if there is none, any order that holds a unit of this coupon.
    Held,
    /// An order that was never claimed.
    Unknown,
    /// An order of an earlier claim of any user.
    Earlier(prop::sample::Index),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentMarker {
    Ours,
    OfAnotherEpoch,
}

/// A time in the far past or future, so that it does not pass during a test.
#[derive(Clone, Copy, Debug)]
pub enum Time {
    None,
    Past,
    Future,
}

#[derive(Clone, Debug)]
pub enum Disturbance {
    MarkerGone,
    MarkerBuilding,
    MarkerOfWrongType,
    StreamGone,
    StreamOfWrongType,
    CouponGone(usize),
    CouponOfWrongType(usize),
    ClaimsGone(usize),
    ClaimsOfWrongType(usize),
    FieldGone(usize, &'static str),
    /// The same number in another spelling, or a text that is not a number.
    FieldSpelled(usize, &'static str, Spelling),
    StockMoved(usize, i64),
    HolderGone(usize),
    ForeignField(usize),
    /// `<order> <key>` instead of `<order>`.
    ValueWithKey(usize),
    LineGone(usize),
    LineOfWrongType(usize),
    LineOrdersGone(usize),
    LineOrdersOfWrongType(usize),
    /// The first user has a place and no order.
    WaitingOrderGone(usize),
    /// The first user has an order and no place.
    PlaceGone(usize),
    /// A user who holds a unit is also the first in line.
    HolderWaits(usize),
    PositionOfWrongType,
    /// The stream can take at most this many entries.
    StreamEnds(usize),
    /// Redis's user may not run this command.
    Forbidden(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub enum Spelling {
    Decimal,
    Minus,
    LeadingZero,
    Hexadecimal,
    Space,
    Word,
    Empty,
}

impl Spelling {
    pub fn write(self, number: &str) -> String {
        match self {
            Self::Decimal => format!("{number}.0"),
            Self::Minus => format!("-{number}"),
            Self::LeadingZero => match number.strip_prefix('-') {
                Some(digits) => format!("-0{digits}"),
                None => format!("0{number}"),
            },
            Self::Hexadecimal => match number.strip_prefix('-') {
                Some(digits) => format!("-0x{digits}"),
                None => format!("0x{number}"),
            },
            Self::Space => format!(" {number}"),
            Self::Word => "many".into(),
            Self::Empty => String::new(),
        }
    }
}

/// First publications of most coupons, then any steps. In half of the histories the coupons are sold out at the start,
/// and users wait for their units.
pub fn any_history() -> impl Strategy<Value = Vec<Step>> {
    let first = (0..COUPONS).map(|coupon| prop::option::weighted(0.9, any_first_publication(coupon)));
    let first: Vec<_> = first.collect();
    let any_first = first.prop_map(|first| first.into_iter().flatten().map(Step::Publish).collect());
    let sold_out: Vec<_> = (0..COUPONS).map(any_sold_out_coupon).collect();
    let sold_out = sold_out.prop_map(|coupons| coupons.into_iter().flatten().collect());
    let start = prop_oneof![any_first, sold_out];
    (start, prop::collection::vec(any_step(), 1..16))
        .prop_map(|(start, steps): (Vec<Step>, _)| start.into_iter().chain(steps).collect())
}

/// A coupon that some users hold and others wait for. It may have new units that were not given to them yet.
fn any_sold_out_coupon(coupon: usize) -> impl Strategy<Value = Vec<Step>> {
    let claims = prop::collection::vec((Just(coupon), 0..USERS, (0..KEYS).prop_map(Some)), 3..9);
    let users = prop::collection::vec((0..USERS, (0..KEYS).prop_map(Some)), 3..8);
    let units = prop::option::of(1..4_i64);
    (any_edit(coupon), 0..4_i64, claims, users, units).prop_map(move |(edit, total, claims, users, units)| {
        let marker = SentMarker::Ours;
        let sale = restock(Edit { total, just_inserted: true, ..edit }, 0);
        let batch = Batch { claims, published: [true; COUPONS], marker, deadline_passed: false };
        let join = Join { coupon, users, position: Some(1), marker };
        let more = units.map(|units| Step::Publish(restock(sale, units)));
        let steps = [Step::Publish(sale), Step::Claim(batch), Step::Join(join)];
        steps.into_iter().chain(more).collect()
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let during = (any_disturbance(), prop::collection::vec(any_quiet_step(), 1..4));
    prop_oneof![
        8 => any_quiet_step(),
        2 => during.prop_map(|(disturbance, steps)| Step::During(disturbance, steps)),
        1 => any_disturbed_serving(),
    ]
}

/// New units for users in line during a disturbance.
fn any_disturbed_serving() -> impl Strategy<Value = Step> {
    let edit = (0..COUPONS).prop_flat_map(any_edit);
    (any_disturbance(), edit, 0..USERS).prop_map(|(disturbance, edit, user)| {
        let (coupon, marker) = (edit.coupon, SentMarker::Ours);
        let restock = restock(edit, 4);
        let steps = vec![
            Step::Publish(restock),
            Step::Leave { coupon, user, marker },
            Step::Serve { coupon, marker },
        ];
        Step::During(disturbance, steps)
    })
}

/// An edit after which units go to users in line.
fn restock(edit: Edit, units: i64) -> Edit {
    Edit {
        total: edit.total + units,
        version_step: 1,
        starts: Time::None,
        ends: Time::None,
        paused: false,
        waitlist: true,
        marker: SentMarker::Ours,
        ..edit
    }
}

/// A step without a disturbance.
fn any_quiet_step() -> impl Strategy<Value = Step> {
    let order = prop_oneof![
        4 => Just(WhichOrder::Held),
        1 => Just(WhichOrder::Unknown),
        1 => any::<prop::sample::Index>().prop_map(WhichOrder::Earlier),
    ];
    let after_version = prop_oneof![4 => Just(None), 1 => (-1..2_i64).prop_map(Some)];
    let unit = (0..USERS, order, after_version).prop_map(|(user, order, after_version)| WhichUnit {
        user,
        order,
        after_version,
    });
    let release = (0..COUPONS, prop::collection::vec(unit, 1..5), any_marker());
    prop_oneof![
        8 => any_batch().prop_map(Step::Claim),
        2 => any::<prop::sample::Index>().prop_map(Step::ClaimAgain),
        4 => (0..COUPONS).prop_flat_map(any_edit).prop_map(Step::Publish),
        4 => release.prop_map(|(coupon, units, marker)| Step::Release { coupon, units, marker }),
        6 => any_join().prop_map(Step::Join),
        1 => any::<prop::sample::Index>().prop_map(Step::JoinAgain),
        2 => (0..COUPONS, 0..USERS, any_marker())
            .prop_map(|(coupon, user, marker)| Step::Leave { coupon, user, marker }),
        4 => (0..COUPONS, any_marker()).prop_map(|(coupon, marker)| Step::Serve { coupon, marker }),
    ]
}

fn any_join() -> impl Strategy<Value = Join> {
    let user = (0..USERS, prop::option::weighted(0.9, 0..KEYS));
    let users = prop::collection::vec(user, 1..6);
    (0..COUPONS, users, prop::option::weighted(0.8, any::<u8>()), any_marker())
        .prop_map(|(coupon, users, position, marker)| Join { coupon, users, position, marker })
}

fn any_batch() -> impl Strategy<Value = Batch> {
    let claim = (0..COUPONS, 0..USERS, prop::option::weighted(0.9, 0..KEYS));
    let claims = prop::collection::vec(claim, 1..9);
    let published = prop::array::uniform(prop::bool::weighted(0.7));
    (claims, published, any_marker(), prop::bool::weighted(0.03)).prop_map(
        |(claims, published, marker, deadline_passed)| Batch { claims, published, marker, deadline_passed },
    )
}

fn any_first_publication(coupon: usize) -> impl Strategy<Value = Edit> {
    any_edit(coupon).prop_map(|edit| Edit {
        // More units than an edit may leave, so that stock falls below zero.
        total: edit.total + 2,
        just_inserted: true,
        version_step: 1,
        marker: SentMarker::Ours,
        ..edit
    })
}

fn any_edit(coupon: usize) -> impl Strategy<Value = Edit> {
    let any_time = |chance_of_past, chance_of_future| {
        prop_oneof![
            16 => Just(Time::None),
            chance_of_past => Just(Time::Past),
            chance_of_future => Just(Time::Future),
        ]
    };
    let version_step = prop_oneof![1 => -1..=0_i64, 4 => 1..=2_i64];
    (
        prop::bool::weighted(0.2),
        version_step,
        prop_oneof![1 => 0..2_i64, 2 => 0..6_i64],
        any_time(2, 1),
        any_time(1, 2),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.7),
        any_marker(),
    )
        .prop_map(move |(just_inserted, version_step, total, starts, ends, paused, waitlist, marker)| {
            Edit {
                coupon,
                just_inserted,
                version_step,
                total,
                per_user_limit: PER_USER_LIMITS[coupon],
                starts,
                ends,
                paused,
                waitlist,
                marker,
            }
        })
}

fn any_marker() -> impl Strategy<Value = SentMarker> {
    prop_oneof![30 => Just(SentMarker::Ours), 1 => Just(SentMarker::OfAnotherEpoch)]
}

fn any_disturbance() -> impl Strategy<Value = Disturbance> {
    let field = prop::sample::select(vec!["stock", "total", "version", "per_user_limit", "waitlist"]);
    let spelling = prop::sample::select(vec![
        Spelling::Decimal,
        Spelling::Minus,
        Spelling::LeadingZero,
        Spelling::Hexadecimal,
        Spelling::Space,
        Spelling::Word,
        Spelling::Empty,
    ]);
    let moved = prop_oneof![-3..0_i64, 1..4_i64];
    let coupon = 0..COUPONS;
    prop_oneof![
        1 => Just(Disturbance::MarkerGone),
        1 => Just(Disturbance::MarkerBuilding),
        1 => Just(Disturbance::MarkerOfWrongType),
        1 => Just(Disturbance::StreamGone),
        1 => Just(Disturbance::StreamOfWrongType),
        2 => coupon.clone().prop_map(Disturbance::CouponGone),
        1 => coupon.clone().prop_map(Disturbance::CouponOfWrongType),
        2 => coupon.clone().prop_map(Disturbance::ClaimsGone),
        1 => coupon.clone().prop_map(Disturbance::ClaimsOfWrongType),
        1 => (coupon.clone(), field.clone()).prop_map(|(c, field)| Disturbance::FieldGone(c, field)),
        4 => (coupon.clone(), field, spelling).prop_map(|(c, field, s)| Disturbance::FieldSpelled(c, field, s)),
        2 => (coupon.clone(), moved).prop_map(|(c, by)| Disturbance::StockMoved(c, by)),
        1 => coupon.clone().prop_map(Disturbance::HolderGone),
        1 => coupon.clone().prop_map(Disturbance::ForeignField),
        4 => coupon.clone().prop_map(Disturbance::ValueWithKey),
        1 => coupon.clone().prop_map(Disturbance::LineGone),
        2 => coupon.clone().prop_map(Disturbance::LineOfWrongType),
        1 => coupon.clone().prop_map(Disturbance::LineOrdersGone),
        2 => coupon.clone().prop_map(Disturbance::LineOrdersOfWrongType),
        2 => coupon.clone().prop_map(Disturbance::WaitingOrderGone),
        2 => coupon.clone().prop_map(Disturbance::PlaceGone),
        4 => coupon.prop_map(Disturbance::HolderWaits),
        1 => Just(Disturbance::PositionOfWrongType),
        4 => (0..4_usize).prop_map(Disturbance::StreamEnds),
        6 => prop::sample::select(FORBIDDEN.to_vec()).prop_map(Disturbance::Forbidden),
    ]
}
