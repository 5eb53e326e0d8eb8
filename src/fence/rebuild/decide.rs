//! Decides which order holds each unit: step 5 of a rebuild, coupon by coupon, in one transaction.

use std::collections::{HashMap, HashSet};

use anyhow::bail;
use bytes::Bytes;

use super::NEWER;
use super::kept::Kept;
use crate::domain::{CouponId, Epoch, IdempotencyKey, OrderEvent, OrderId, UserId, WaitingUser};
use crate::logs::order_step;
use crate::postgres::dead_letters::{Letter, LetterOutcome, encode_fields};
use crate::postgres::rebuild::Decision;
use crate::redis::claims_hash::{ClaimField, ClaimsHash, KeysByOrder};

/// The changes that one coupon needs in Redis.
#[derive(Default)]
pub struct Plan {
    /// Fields of the claims hash to delete.
    pub delete: Vec<Bytes>,
    /// Claims to add to the claims hash.
    pub set: Vec<(ClaimField, OrderId)>,
    /// Kept orders that have neither row nor entry.
    pub resend: Vec<(ClaimField, OrderId)>,
    /// The Idempotency-Keys of the orders in `set` and `resend`. May contain keys of other orders.
    pub keys: KeysByOrder,
    /// Units held after the changes are applied.
    pub held: usize,
    /// The users in the waiting list; `None` if Redis has them already.
    pub line: Option<Vec<WaitingUser>>,
    /// Claims and events that became rejected orders.
    pub rejected: usize,
    /// Live orders that were cancelled.
    pub cancelled: Vec<OrderId>,
    /// Live orders that Redis did not hold and that may have ended: they stay live.
    pub unheld: Vec<OrderId>,
}

/// How far Redis is believed after Postgres has lost commits.
#[derive(Clone, Copy, Debug)]
pub struct Trust {
    /// Postgres has lost commits; otherwise the other two fields are not used.
    pub after_loss: bool,
    /// The coupon is consistent: if its claims hash and events contradict each other, the hash is right.
    pub is_believed: bool,
    /// Redis cannot be behind Postgres: an order that it does not hold has ended.
    pub may_cancel: bool,
}

/// Keeps, for each slot of a user, the live order in Postgres, else the claim without a row, else an event without a row.
/// Of two orders of a user with the same Idempotency-Key it keeps one, by the same order of precedence.
///
/// After Postgres has lost commits, Redis is believed: live orders that the claims hash does not hold are cancelled, then
/// events that it does not hold are rejected. If Redis may be behind Postgres, or the coupon is inconsistent, the
/// rebuild cancels a live order only if Redis proves that it had ended: its user has a newer claim or event in the same
/// slot, or a claim or event without a row and with the same key. The script accepts neither while the order is live.
pub async fn decide_coupon(
    decision: &mut Decision<'_>,
    epoch: &Epoch,
    coupon: &CouponId,
    hash: ClaimsHash,
    events: &[(String, OrderEvent)],
    trust: Trust,
) -> anyhow::Result<Plan> {
    let mut plan =
        Plan { delete: hash.foreign_fields.into_iter().collect(), keys: hash.keys, ..Plan::default() };
    let LiveOrders { mut kept, claims } =
        live_orders(decision, coupon, hash.claims, events, trust, &mut plan).await?;
    let without_live_order: Vec<OrderId> =
        events.iter().map(|(_, event)| event.order).chain(claims.values().copied()).collect();
    let with_row = decision.recorded(&without_live_order).await?;
    let entries: HashSet<OrderId> = events.iter().map(|(_, event)| event.order).collect();

    let mut without_row = Vec::new();
    for (field, &order) in claims.iter().filter(|(_, order)| !with_row.contains(order)) {
        if kept.keep(field, order, plan.keys.get(&order)) {
            without_row.push((field.clone(), order));
        }
    }
    if !trust.is_believed {
        for event in by_precedence(events, trust.after_loss) {
            let field = ClaimField::new(&event.user, event.slot);
            if !with_row.contains(&event.order) && kept.keep(&field, event.order, event.key.as_ref()) {
                plan.keys.extend(event.key.clone().map(|key| (event.order, key)));
                plan.set.push((field.clone(), event.order));
                without_row.push((field, event.order));
            }
        }
    }
    plan.rejected = reject_losers(decision, epoch, coupon, (&claims, &plan.keys), events, |field, order| {
        with_row.contains(&order) || kept.holds(field, order)
    })
    .await?;

    plan.held += without_row.len();
    let ended = claims.keys().filter(|field| !kept.has(field));
    plan.delete.extend(ended.map(|field| Bytes::copy_from_slice(field.as_str().as_bytes())));
    without_row.retain(|(_, order)| !entries.contains(order));
    plan.resend = without_row;
    Ok(plan)
}

/// The events in the order of the stream. After a loss the newest event comes first: it proves that the
/// orders of older events with the same slot or key have ended.
fn by_precedence(events: &[(String, OrderEvent)], after_loss: bool) -> Vec<&OrderEvent> {
    let mut events: Vec<&OrderEvent> = events.iter().map(|(_, event)| event).collect();
    if after_loss {
        events.sort_by_key(|event| std::cmp::Reverse(event.order.claimed_at()));
    }
    events
}

/// The state after every live order was compared with its claim.
struct LiveOrders {
    /// Live orders that another claim or an event may conflict with.
    kept: Kept,
    /// Claims that belong to no live order.
    claims: HashMap<ClaimField, OrderId>,
}

/// A live order that the claims hash does not hold.
struct NotHeld {
    field: ClaimField,
    order: OrderId,
    key: Option<IdempotencyKey>,
}

/// Counts the live orders as held and plans claims for live orders without one. Drops each claim as soon as its live
/// order is found: there may be millions.
async fn live_orders(
    decision: &mut Decision<'_>,
    coupon: &CouponId,
    mut claims: HashMap<ClaimField, OrderId>,
    events: &[(String, OrderEvent)],
    trust: Trust,
    plan: &mut Plan,
) -> anyhow::Result<LiveOrders> {
    let users_with_events: HashSet<&str> = events.iter().map(|(_, event)| event.user.as_str()).collect();
    let hash_has_keys = !plan.keys.is_empty();
    let mut kept = Kept::default();
    let mut not_held = Vec::new();
    decision
        .visit_live_orders(coupon, |name, slot, order, key| {
            // A row that the API cannot have made holds its unit in Postgres only.
            let Ok(user) = name.parse::<UserId>() else { return };
            let field = ClaimField::new(&user, slot);
            let has_event = users_with_events.contains(name);
            let claim = claims.get(&field).copied();
            if claim == Some(order) {
                claims.remove(&field);
                plan.held += 1;
                if has_event {
                    kept.keep(&field, order, key.as_ref());
                }
                if plan.keys.remove(&order) != key {
                    plan.set_claim(field, order, key);
                }
                return;
            }
            let has_rival = claim.is_some() || has_event || (hash_has_keys && key.is_some());
            if trust.is_believed || trust.after_loss && has_rival {
                not_held.push(NotHeld { field, order, key });
                return;
            }
            plan.held += 1;
            if has_rival {
                kept.keep(&field, order, key.as_ref());
            }
            plan.set_claim(field, order, key);
        })
        .await?;
    if !not_held.is_empty() {
        let rivals = Rivals::of(&claims, &plan.keys, if trust.is_believed { &[] } else { events });
        settle_not_held(decision, not_held, &rivals, trust, plan, &mut kept).await?;
        if !plan.cancelled.is_empty() {
            decision.cancel(coupon, &plan.cancelled).await?;
        }
    }
    Ok(LiveOrders { kept, claims })
}

/// After a loss: cancels the live orders that have ended according to Redis, and plans claims for the others.
async fn settle_not_held(
    decision: &mut Decision<'_>,
    not_held: Vec<NotHeld>,
    rivals: &Rivals,
    trust: Trust,
    plan: &mut Plan,
    kept: &mut Kept,
) -> anyhow::Result<()> {
    let all: Vec<OrderId> =
        not_held.iter().flat_map(|live| [rivals.in_slot(live), rivals.with_key(live)].concat()).collect();
    let recorded = decision.recorded(&all).await?;
    for live in not_held {
        let is_new = |rival: &&OrderId| !recorded.contains(*rival);
        let has_newer = rivals.in_slot(&live).iter().filter(is_new).any(|&rival| is_newer(rival, live.order))
            || rivals.with_key(&live).iter().any(|rival| is_new(&rival));
        let NotHeld { field, order, key } = live;
        if trust.is_believed && trust.may_cancel || has_newer {
            plan.cancelled.push(order);
            continue;
        }
        plan.held += 1;
        if trust.is_believed {
            plan.unheld.push(order);
        }
        kept.keep(&field, order, key.as_ref());
        plan.set_claim(field, order, key);
    }
    Ok(())
}

impl Plan {
    fn set_claim(&mut self, field: ClaimField, order: OrderId, key: Option<IdempotencyKey>) {
        self.keys.extend(key.map(|key| (order, key)));
        self.set.push((field, order));
    }
}

/// Claims and events by field and by key. No two live orders of a user share a field or a key.
struct Rivals {
    by_field: HashMap<ClaimField, Vec<OrderId>>,
    by_key: HashMap<(UserId, IdempotencyKey), Vec<OrderId>>,
}

impl Rivals {
    /// The caller passes no events if the claims hash is consistent: then the hash is right and the events may be old.
    fn of(
        claims: &HashMap<ClaimField, OrderId>,
        keys: &KeysByOrder,
        events: &[(String, OrderEvent)],
    ) -> Self {
        let mut rivals = Self { by_field: HashMap::new(), by_key: HashMap::new() };
        for (field, &order) in claims {
            rivals.add(field.clone(), order, keys.get(&order).cloned());
        }
        for (_, event) in events {
            rivals.add(ClaimField::new(&event.user, event.slot), event.order, event.key.clone());
        }
        rivals
    }

    fn add(&mut self, field: ClaimField, order: OrderId, key: Option<IdempotencyKey>) {
        if let Some(key) = key {
            self.by_key.entry((field.user(), key)).or_default().push(order);
        }
        self.by_field.entry(field).or_default().push(order);
    }

    fn in_slot(&self, live: &NotHeld) -> &[OrderId] {
        self.by_field.get(&live.field).map_or(&[], Vec::as_slice)
    }

    fn with_key(&self, live: &NotHeld) -> &[OrderId] {
        let key = live.key.clone().map(|key| (live.field.user(), key));
        key.and_then(|key| self.by_key.get(&key)).map_or(&[], Vec::as_slice)
    }
}

/// Compares the times inside the ids. An id without a time was not made by the API, and is never newer.
fn is_newer(claim: OrderId, order: OrderId) -> bool {
    claim.claimed_at().zip(order.claimed_at()).is_some_and(|(claimed, ordered)| claimed > ordered)
}

/// Rejects claims and events without a row if another order keeps their slot or key. `claims` are the claims of the
/// claims hash, with their keys.
async fn reject_losers(
    decision: &mut Decision<'_>,
    epoch: &Epoch,
    coupon: &CouponId,
    (claims, keys): (&HashMap<ClaimField, OrderId>, &KeysByOrder),
    events: &[(String, OrderEvent)],
    is_kept: impl Fn(&ClaimField, OrderId) -> bool,
) -> anyhow::Result<usize> {
    let from_claims =
        claims.iter().filter(|(field, order)| !is_kept(field, **order)).map(|(field, &order)| {
            let (user, (_, slot)) = (field.user(), field.split());
            let key = keys.get(&order).cloned();
            (None, OrderEvent { order, coupon: coupon.clone(), user, slot, key })
        });
    let from_events = events
        .iter()
        .filter(|(_, event)| !is_kept(&ClaimField::new(&event.user, event.slot), event.order))
        .map(|(entry, event)| (Some(entry.as_str()), event.clone()));
    let mut seen = HashSet::new();
    // Events first: their dead letters name the entry.
    for (entry_id, event) in from_events.chain(from_claims) {
        if !seen.insert(event.order) {
            continue;
        }
        let error = "another order of this user was kept when Redis was rebuilt";
        let letter = Letter { entry_id, fields: encode_fields(&event.fields()), error, deliveries: None };
        if decision.reject(epoch, &event, &letter).await? == LetterOutcome::Fenced {
            bail!(NEWER);
        }
        order_step!(event.order, %coupon, "rejected by a rebuild: {error}");
    }
    Ok(seen.len())
}
