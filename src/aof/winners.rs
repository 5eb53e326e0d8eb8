//! Compares the holders at the end of the log with Postgres: each live order is held, and each held order is live or on
//! its way: its event is not acknowledged, or its unit is in the outbox. Postgres is read before and after the log, so
//! that an order that moves at the same time is no difference.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::{Place, State};
use crate::config;
use crate::domain::{CouponId, OrderId, Partition, UserId};
use crate::postgres::known::LiveOrder;
use crate::postgres::{Pool, PostgresError, coupons, orders, outbox, waitlist};
use crate::redis::claims_hash::{ClaimField, StoredClaim};

/// An order or coupon on which the log and Postgres do not agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The transaction that wrote what Redis has; `None` if no transaction did.
    pub place: Option<Place>,
    pub coupon: CouponId,
    pub user: Option<UserId>,
    pub order: Option<OrderId>,
    pub why: &'static str,
}

impl Mismatch {
    /// Whether the other one, of a later comparison, is about the same order or coupon.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.order, &self.coupon, self.why) == (other.order, &other.coupon, other.why)
    }
}

/// Compares the end of a log, with the states of all partitions, with `live`, the live orders that Postgres had before the
/// log was read.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn compare(
    states: &[State],
    live: &[LiveOrder],
    pool: &Pool,
) -> Result<Vec<Mismatch>, PostgresError> {
    // A release of the wrong unit makes two mismatches: the transaction of the first is wrong.
    let mut found = sorted(unheld(states, live, pool).await?);
    for state in states {
        found.extend(sorted(without_order(state, live, pool).await?));
        found.extend(sorted(places_without_row(state, pool).await?));
        found.extend(definitions(state));
        found.extend(later_versions(state, pool).await?);
    }
    Ok(found)
}

/// In the order of the log.
fn sorted(mut found: Vec<Mismatch>) -> Vec<Mismatch> {
    found.sort_by_key(|mismatch| (mismatch.place.is_none(), mismatch.place));
    found
}

/// Live orders that the log does not hold, and that are still live now.
async fn unheld(states: &[State], live: &[LiveOrder], pool: &Pool) -> Result<Vec<Mismatch>, PostgresError> {
    let states: HashMap<Partition, &State> =
        states.iter().map(|state| (state.rules.keys.partition, state)).collect();
    let mut found = Vec::new();
    for row in live {
        let field = ClaimField::new(&row.user, row.slot);
        let state = states.get(&row.partition);
        let coupon = state.and_then(|state| state.coupons.get(&row.coupon));
        let held = coupon.and_then(|coupon| coupon.held.get(&field));
        if held.is_some_and(|held| (held.order, &held.key) == (row.order, &row.key)) {
            continue;
        }
        let released = state.and_then(|state| state.released.get(&row.order)).copied();
        let place = released.or(held.map(|held| held.place));
        found.push(Mismatch {
            place,
            coupon: row.coupon.clone(),
            user: Some(row.user.clone()),
            order: Some(row.order),
            why: "the order is live in Postgres, but the log does not hold its unit",
        });
    }
    let asked: Vec<OrderId> = found.iter().filter_map(|mismatch| mismatch.order).collect();
    let mut ended = HashSet::new();
    for chunk in asked.chunks(config::SCAN_PAGE_ENTRIES) {
        let statuses = orders::statuses(pool, chunk).await?;
        ended.extend(statuses.into_iter().filter(|(_, status)| status.has_ended()).map(|(order, _)| order));
    }
    found.retain(|mismatch| mismatch.order.is_some_and(|order| !ended.contains(&order)));
    Ok(found)
}

/// Orders that the log holds at its end, and that are neither live nor on their way.
async fn without_order(
    state: &State,
    live: &[LiveOrder],
    pool: &Pool,
) -> Result<Vec<Mismatch>, PostgresError> {
    let live: HashSet<OrderId> = live.iter().map(|row| row.order).collect();
    let on_the_way: HashSet<OrderId> = state.stream.unacknowledged().map(|event| event.order).collect();
    let mut found = Vec::new();
    for (id, coupon) in &state.coupons {
        for (field, held) in &coupon.held {
            if live.contains(&held.order) || on_the_way.contains(&held.order) {
                continue;
            }
            found.push(Mismatch {
                place: Some(held.place),
                coupon: id.clone(),
                user: Some(field.user()),
                order: Some(held.order),
                why: "the log holds a unit for this order, but Postgres has no such live order",
            });
        }
    }
    let asked: Vec<OrderId> = found.iter().filter_map(|mismatch| mismatch.order).collect();
    let mut explained = HashSet::new();
    for chunk in asked.chunks(config::SCAN_PAGE_ENTRIES) {
        let statuses = orders::statuses(pool, chunk).await?;
        // Recorded since Postgres was read, or about to return.
        explained.extend(statuses.iter().filter(|(_, status)| !status.has_ended()).map(|(order, _)| *order));
        explained.extend(outbox::waiting(pool, chunk).await?);
    }
    found.retain(|mismatch| mismatch.order.is_some_and(|order| !explained.contains(&order)));
    Ok(found)
}

/// Places in waiting lists that have no row: a request to join commits its row first.
async fn places_without_row(state: &State, pool: &Pool) -> Result<Vec<Mismatch>, PostgresError> {
    let mut found = Vec::new();
    for (id, coupon) in &state.coupons {
        let place = |(user, (value, place)): (&Bytes, &(Bytes, Place))| {
            let claim = StoredClaim::decode(user, value)?;
            let why = "the log has this place in the waiting list, but Postgres has no row";
            let (user, order) = (Some(claim.field.user()), Some(claim.order));
            Some(Mismatch { place: Some(*place), coupon: id.clone(), user, order, why })
        };
        let places: Vec<Mismatch> = coupon.promises.iter().filter_map(place).collect();
        let orders: Vec<OrderId> = places.iter().filter_map(|place| place.order).collect();
        let mut with_row = HashSet::new();
        for chunk in orders.chunks(config::SCAN_PAGE_ENTRIES) {
            with_row.extend(waitlist::existing(pool, chunk).await?);
        }
        found.extend(
            places.into_iter().filter(|place| !place.order.is_some_and(|order| with_row.contains(&order))),
        );
    }
    Ok(found)
}

/// Coupons of which the log has another definition than Postgres, which has marked it as published.
fn definitions(state: &State) -> Vec<Mismatch> {
    let Some(known) = &state.rules.known else { return Vec::new() };
    let mismatch =
        |id: &CouponId, place, why| Mismatch { place, coupon: id.clone(), user: None, order: None, why };
    let published = known.iter().filter(|(_, coupon)| coupon.row.published_version > 0);
    let missing = published.filter_map(|(id, coupon)| {
        let kept = state.coupons.get(id);
        let version = kept.and_then(|kept| kept.number("version")).unwrap_or(0);
        (version < coupon.row.published_version).then(|| {
            let place = kept.and_then(super::coupons::Coupon::defined_at);
            mismatch(id, place, "Postgres has published a version that the log does not have")
        })
    });
    let unknown =
        state.coupons.iter().filter(|(id, coupon)| !known.contains_key(id) && !coupon.hash.is_empty());
    let unknown = unknown.map(|(id, kept)| {
        mismatch(id, kept.defined_at(), "the log has a coupon that Postgres does not know")
    });
    missing.chain(unknown).collect()
}

/// Coupons of which the log has a version that Postgres does not have now.
async fn later_versions(state: &State, pool: &Pool) -> Result<Vec<Mismatch>, PostgresError> {
    let Some(known) = &state.rules.known else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for (id, kept) in &state.coupons {
        let version = kept.number("version").unwrap_or(0);
        let before = known.get(id).map_or(i64::MAX, |known| known.row.definition.version);
        if version <= before {
            continue;
        }
        let now = coupons::shares(pool, id).await?;
        if now.iter().all(|row| row.definition.version < version) {
            let why = "the log has a version of the coupon that Postgres does not have";
            let (place, coupon) = (kept.defined_at(), id.clone());
            found.push(Mismatch { place, coupon, user: None, order: None, why });
        }
    }
    Ok(found)
}
