//! Who keeps what: the fifth step of a rebuild, coupon by coupon, inside its one transaction.

use std::collections::{HashMap, HashSet};

use anyhow::bail;
use bytes::Bytes;

use super::NEWER;
use crate::model::{CouponId, OrderEvent, OrderId, UserId};
use crate::postgres::dead_letters::{Ended, Letter, encode_fields};
use crate::postgres::rebuild::Decision;
use crate::redis::info::{read_claim, read_order};

/// One coupon's differences.
#[derive(Default)]
pub struct Plan {
    /// Fields of the claims hash to set or delete.
    pub changes: Vec<(Bytes, Option<OrderId>)>,
    /// Kept orders that have neither row nor entry.
    pub resend: Vec<(UserId, OrderId)>,
    /// Units held once the changes are applied.
    pub held: usize,
    /// Claims and events that ended as rejected orders.
    pub rejected: usize,
    /// Live orders that were cancelled.
    pub cancelled: Vec<OrderId>,
}

/// For each user: the live order in Postgres, else the claim without a row, else an event without a row.
///
/// Where Postgres has lost commits, Redis is the one to be believed: live orders that the claims hash does
/// not hold are cancelled first, and events that it does not hold lose.
pub async fn decide_coupon(
    decision: &mut Decision<'_>,
    epoch: &str,
    coupon: &CouponId,
    hash: HashMap<Bytes, Bytes>,
    events: &[(String, OrderEvent)],
    redis_is_believed: bool,
) -> anyhow::Result<Plan> {
    let mut plan = Plan::default();
    let mut live = decision.live_orders(coupon).await?;
    if redis_is_believed {
        let holds = |user: &UserId, order: &OrderId| {
            hash.get(user.as_str().as_bytes()).and_then(|value| read_order(value)) == Some(*order)
        };
        plan.cancelled =
            live.iter().filter(|(user, order)| !holds(user, order)).map(|(_, &order)| order).collect();
        live.retain(|user, order| holds(user, order));
        decision.cancel(coupon, &plan.cancelled).await?;
    }
    plan.held = live.len();
    let mut claims: HashMap<UserId, OrderId> = HashMap::new();
    let mut settled = 0;
    for (field, value) in hash {
        match read_claim(&field, &value) {
            Some((user, order)) if live.get(&user) == Some(&order) => {
                settled += usize::from(claims.insert(user, order).is_none());
            }
            Some((user, order)) => {
                claims.insert(user, order);
            }
            // No field of ours: it would hold a unit that nobody owns.
            None => plan.changes.push((field, None)),
        }
    }
    let suspects: Vec<OrderId> = events
        .iter()
        .map(|(_, event)| event.order)
        .chain(claims.iter().filter(|(user, order)| live.get(user) != Some(order)).map(|(_, &order)| order))
        .collect();
    let with_row = decision.with_row(&suspects).await?;
    let entries: HashSet<OrderId> = events.iter().map(|(_, event)| event.order).collect();

    let mut kept: HashMap<UserId, OrderId> = HashMap::new();
    for (user, &order) in claims.iter().filter(|(user, _)| !live.contains_key(user)) {
        if !with_row.contains(&order) {
            kept.insert(user.clone(), order);
        }
    }
    for (_, event) in events.iter().filter(|_| !redis_is_believed) {
        if !live.contains_key(&event.user) && !with_row.contains(&event.order) {
            kept.entry(event.user.clone()).or_insert(event.order);
        }
    }
    plan.rejected = reject_losers(decision, epoch, coupon, &claims, events, &with_row, |user, order| {
        live.get(user).or_else(|| kept.get(user)) == Some(&order)
    })
    .await?;

    plan.held += kept.len();
    for (user, order) in live.iter().filter(|_| settled < live.len()).chain(&kept) {
        if claims.get(user) != Some(order) {
            plan.changes.push((Bytes::copy_from_slice(user.as_str().as_bytes()), Some(*order)));
        }
    }
    for user in claims.keys().filter(|user| !live.contains_key(user) && !kept.contains_key(user)) {
        plan.changes.push((Bytes::copy_from_slice(user.as_str().as_bytes()), None));
    }
    plan.resend = kept.into_iter().filter(|(_, order)| !entries.contains(order)).collect();
    Ok(plan)
}

/// Claims and events without a row that lost to another order of their user end as `rejected`.
async fn reject_losers(
    decision: &mut Decision<'_>,
    epoch: &str,
    coupon: &CouponId,
    claims: &HashMap<UserId, OrderId>,
    events: &[(String, OrderEvent)],
    with_row: &HashSet<OrderId>,
    is_kept: impl Fn(&UserId, OrderId) -> bool,
) -> anyhow::Result<usize> {
    let from_claims = claims
        .iter()
        .map(|(user, &order)| (None, OrderEvent { order, coupon: coupon.clone(), user: user.clone() }));
    let from_events = events.iter().map(|(entry, event)| (Some(entry.as_str()), event.clone()));
    let mut seen = HashSet::new();
    // Events first: their letters carry the entry.
    let losers = from_events
        .chain(from_claims)
        .filter(|(_, event)| !with_row.contains(&event.order) && !is_kept(&event.user, event.order));
    for (entry_id, event) in losers {
        if !seen.insert(event.order) {
            continue;
        }
        let (order, user) = (event.order.to_string(), event.user.as_str());
        let fields = encode_fields(&["order", &order, "coupon", coupon.as_str(), "user", user]);
        let error = "another order of this user was kept when Redis was rebuilt";
        let letter = Letter { entry_id, fields, error, deliveries: None };
        if decision.reject(epoch, &event, &letter).await? == Ended::Fenced {
            bail!(NEWER);
        }
    }
    Ok(seen.len())
}
