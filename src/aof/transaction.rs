//! What one transaction of the log has changed, and the rules that hold at its end.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use super::Place;
use super::state::State;
use super::stream::Misfit;
use crate::domain::{CouponId, IdempotencyKey, OrderEvent, OrderId};
use crate::redis::claims_hash::{ClaimField, encode_value};

/// A claim that a transaction has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub coupon: CouponId,
    pub field: ClaimField,
    pub order: OrderId,
    pub key: Option<IdempotencyKey>,
}

#[derive(Debug, Default)]
pub struct Changes {
    pub place: Place,
    pub coupons: BTreeSet<CouponId>,
    pub claims: Vec<Claimed>,
    pub events: Vec<OrderEvent>,
    pub acknowledged: u64,
    pub trimmed: u64,
    /// The counters of the tally, as written.
    pub tally: HashMap<Bytes, u64>,
    /// Users who joined or left a line: in the sorted set, and in the hash of orders.
    pub placed: Vec<(CouponId, Bytes)>,
    pub promised: Vec<(CouponId, Bytes)>,
    /// Users who were in line, with the values of their orders, and the transactions of their joins.
    pub kept: Vec<(CouponId, Bytes, Bytes, Place)>,
}

impl Changes {
    pub fn new(place: Place) -> Self {
        Self { place, ..Self::default() }
    }

    /// Checks the rules at the end of the transaction.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, state: &State) -> Result<(), Misfit> {
        let broken = self
            .wrong_sum(state)
            .or_else(|| self.claim_without_event())
            .or_else(|| self.event_without_claim(state))
            .or_else(|| self.wrong_tally(state))
            .or_else(|| self.wrong_line());
        match broken {
            Some(why) => Err(why.into()),
            None => self.served_order().map_or(Ok(()), Err),
        }
    }

    /// A served user gets the order of the place. The claim and its event agree: the transaction of the join is wrong.
    fn served_order(&self) -> Option<Misfit> {
        let is_other = |(coupon, user, value, _): &&(CouponId, Bytes, Bytes, Place)| {
            let is_of_user =
                |claim: &&Claimed| claim.coupon == *coupon && claim.field.split().0.as_bytes() == &user[..];
            let claim = self.claims.iter().find(is_of_user);
            claim.is_some_and(|claim| encode_value(claim.order, claim.key.as_ref()).as_bytes() != &value[..])
        };
        let (.., place) = self.kept.iter().find(is_other)?;
        let why = "a user in line gets another order than that of the place".to_owned();
        Some(Misfit { why, earlier: Some(*place), if_delivered: None })
    }

    fn wrong_sum(&self, state: &State) -> Option<String> {
        self.coupons.iter().find_map(|id| {
            let coupon = state.coupons.get(id)?;
            if coupon.hash.is_empty() {
                return Some(format!("coupon {id}: units are written, but there is no coupon"));
            }
            if let Some(why) = coupon.wrong_sum() {
                return Some(format!("coupon {id}: {why}"));
            }
            let is_claim = self.claims.iter().any(|claim| claim.coupon == *id);
            let below_0 = is_claim && coupon.number("stock").is_some_and(|stock| stock < 0);
            below_0.then(|| format!("coupon {id}: a unit below stock 0 is claimed"))
        })
    }

    fn claim_without_event(&self) -> Option<String> {
        let claim = self.claims.iter().find(|claim| !self.events.iter().any(|event| claim.is_of(event)))?;
        Some(format!("coupon {}: the claim of order {} has no order event", claim.coupon, claim.order))
    }

    /// Also the event of a requeue has a claim.
    fn event_without_claim(&self, state: &State) -> Option<String> {
        let is_held = |event: &&OrderEvent| {
            let field = ClaimField::new(&event.user, event.slot);
            let held = state.coupons.get(&event.coupon).and_then(|coupon| coupon.held.get(&field));
            held.is_some_and(|held| held.order == event.order && held.key == event.key)
        };
        let event = self.events.iter().find(|event| !is_held(event))?;
        Some(format!("coupon {}: the event of order {} has no claim", event.coupon, event.order))
    }

    /// The scripts count what they acknowledge and trim.
    fn wrong_tally(&self, state: &State) -> Option<String> {
        [("acknowledged", self.acknowledged), ("trimmed", self.trimmed)].into_iter().find_map(
            |(name, moved)| {
                let before = state.tally_before(name);
                let now = self.tally.get(name.as_bytes()).copied();
                let expected = (moved > 0).then_some(before + moved);
                (now != expected).then(|| format!("the tally's {name} is not what was {name}"))
            },
        )
    }

    fn wrong_line(&self) -> Option<String> {
        let sorted = |users: &[(CouponId, Bytes)]| {
            let mut users = users.to_vec();
            users.sort();
            users
        };
        let differ = sorted(&self.placed) != sorted(&self.promised);
        differ.then(|| "the places of a waiting list and their orders differ".to_owned())
    }
}

impl Claimed {
    fn is_of(&self, event: &OrderEvent) -> bool {
        self.coupon == event.coupon
            && self.field == ClaimField::new(&event.user, event.slot)
            && self.order == event.order
            && self.key == event.key
    }
}
