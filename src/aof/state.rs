//! The state of a partition's keys during a replay. The files beside this one change it, a command at a time.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use super::Place;
use super::coupons::Coupon;
use super::stream::Stream;
use crate::domain::{CouponId, OrderId};
use crate::postgres::known::KnownCoupon;
use crate::redis::claims_hash::ClaimField;
use crate::redis::keys::{GROUP, Keys};

/// What the replay expects of the part of the log that belongs to one partition.
#[derive(Clone, Debug)]
pub struct Rules {
    pub keys: Keys,
    /// Whether Redis belongs to the program, so that no other program's keys are in the log.
    pub is_own: bool,
    /// The database of the keys.
    pub database: u64,
    /// The partition's present epoch in Postgres, which decides between two that differ in the log.
    pub epoch: Option<String>,
    /// What Postgres knew of the partition before the log was read; `None` without Postgres.
    pub known: Option<BTreeMap<CouponId, KnownCoupon>>,
}

#[derive(Debug)]
pub struct State {
    pub(super) rules: Rules,
    pub(super) marker: Option<(String, Place)>,
    pub(super) position: Option<(String, Place)>,
    /// The positions before `position`, and the first that is below the one before it.
    pub(super) positions: PositionHistory,
    pub coupons: BTreeMap<CouponId, Coupon>,
    pub stream: Stream,
    pub(super) tally: HashMap<Bytes, u64>,
    /// The field that holds each order.
    pub(super) holders: HashMap<OrderId, (CouponId, ClaimField)>,
    /// The transaction that returned the unit of each order that is no longer held.
    pub released: HashMap<OrderId, Place>,
    pub(super) is_selected: bool,
    /// While the base file is read.
    pub(super) is_loading: bool,
    /// Groups of other programs, which only read.
    pub(super) foreign_groups: HashSet<Bytes>,
}

/// The positions before the present one.
#[derive(Debug, Default)]
pub struct PositionHistory {
    pub before: Option<String>,
    /// A position that is lower than the one before it: that one, its place, and the place of the lower one.
    pub fall: Option<(String, Place, Place)>,
}

/// Whether a consumer group belongs to another program, which only reads.
pub fn is_foreign(name: &[u8]) -> bool {
    name != GROUP.as_bytes()
}

impl State {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            marker: None,
            position: None,
            positions: PositionHistory::default(),
            coupons: BTreeMap::new(),
            stream: Stream::default(),
            tally: HashMap::new(),
            holders: HashMap::new(),
            released: HashMap::new(),
            is_selected: true,
            is_loading: false,
            foreign_groups: HashSet::new(),
        }
    }

    pub(super) fn tally_before(&self, name: &str) -> u64 {
        self.tally.get(name.as_bytes()).copied().unwrap_or(0)
    }

    /// Whether claims are accepted, so that the rules hold.
    pub(super) fn is_ready(&self) -> bool {
        self.marker.as_ref().is_some_and(|(marker, _)| marker.starts_with("ready:"))
    }
}
