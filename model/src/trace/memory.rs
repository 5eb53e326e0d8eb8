//! Facts from the lines so far that the stores do not hold any more, and checks that need them.

use std::collections::{BTreeMap, BTreeSet};

use super::stores::{Stores, units};
use super::{Effect, EntryId, Event};

/// Facts from earlier lines that the stores do not hold any more.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// By order: its event, and the epochs in which an entry of it could be read.
    pub sent: BTreeMap<String, Sent>,
    /// All entries that were ever in the stream; `None` if unreadable.
    pub entries: BTreeMap<EntryId, Option<Event>>,
    /// Coupon, version and total of every definition that Postgres ever had.
    pub definitions: BTreeSet<(String, u64, i64)>,
    pub epochs: BTreeSet<String>,
    /// The highest version of each coupon that Redis ever had.
    pub published: BTreeMap<String, u64>,
    /// Coupons whose total was lowered: an accepted claim may find no unit left.
    pub lowered: BTreeSet<String>,
    /// Whether another program deleted or changed something: an accepted claim may find no unit left.
    pub is_damaged: bool,
    /// By order: the position of the commit that last changed it.
    pub committed: BTreeMap<String, u64>,
    /// By entry of a dead letter: the position of the commit that inserted the letter.
    pub dead: BTreeMap<EntryId, u64>,
    /// By coupon and version: the position of the commit that made the version.
    pub edited: BTreeMap<(String, u64), u64>,
    /// For each revoked order whose unit was withdrawn: the version of the coupon with the lowered total.
    pub withdrawn: BTreeMap<String, u64>,
    /// How many transactions have committed.
    pub commits: usize,
    /// By coupon: the number of the last commit before or after which Postgres had no stock.
    pub short: BTreeMap<String, usize>,
    /// By coupon and user: the number of the last commit before or after which the user had a live order.
    pub had: BTreeMap<(String, String), usize>,
    /// Orders whose claim was accepted.
    pub accepted: BTreeSet<String>,
    /// By order: the position of the commit of its row in a waiting list.
    pub joined: BTreeMap<String, u64>,
    /// By order: coupon and user of each place that a join took.
    pub placed: BTreeMap<String, (String, String)>,
    /// Orders whose user left the waiting list without a unit.
    pub left: BTreeSet<String>,
    /// Accepted orders that another program removed from both stores.
    pub excused: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub struct Sent {
    pub event: Event,
    pub epochs: BTreeSet<String>,
    /// How many transactions had committed when the event was sent.
    pub after: usize,
    pub by_hand: bool,
}

/// What must hold before claims are accepted again: Redis holds exactly the live orders and those of unrecorded events.
pub fn agreement(Stores { redis, postgres }: &Stores, memory: &Memory) -> Result<(), String> {
    let unrecorded: BTreeMap<&str, &Event> = redis
        .unacknowledged()
        .filter(|(_, entry)| !entry.is_deleted)
        .filter_map(|(_, entry)| entry.event.as_ref().map(|event| (event.order.as_str(), event)))
        .collect();
    for (coupon, claims) in &redis.claims {
        for (user, order) in claims {
            let is_right = match postgres.orders.get(order) {
                None => unrecorded.contains_key(order.as_str()),
                Some(row) if row.is_live() => (&row.coupon, &row.user) == (coupon, user),
                Some(_) => postgres.outbox.contains(order),
            };
            if !is_right {
                return Err(format!(
                    "{user} holds order {order} of {coupon}, which is neither live nor in an unrecorded event"
                ));
            }
        }
    }
    for (coupon, live) in &postgres.live {
        let missing = live.iter().find(|(user, order)| redis.holder(coupon, user) != Some(order));
        if let Some((user, order)) = missing {
            return Err(format!("order {order} of {user} ({coupon}) is live, but Redis does not hold it"));
        }
    }
    for (order, event) in unrecorded {
        let is_decided = postgres.orders.contains_key(order) || redis.holds(event);
        if !is_decided && !memory.sent.get(order).is_some_and(|sent| sent.by_hand) {
            return Err(format!("order {order} has an unrecorded event, but Redis does not hold it"));
        }
    }
    match postgres.coupons.keys().find(|coupon| !redis.adds_up(coupon)) {
        Some(coupon) => {
            let hash = redis.coupons.get(coupon).copied().unwrap_or_default();
            let (stock, held, total) = (hash.stock, redis.held(coupon), hash.total);
            Err(format!(
                "Redis has {stock} units of {coupon} in stock beside {held} claims, but its total is {total}"
            ))
        }
        None => Ok(()),
    }
}

impl Memory {
    /// Whether a commit at or before this position has ended an entry in Postgres.
    pub fn has_ended(&self, entry: EntryId, by: u64) -> bool {
        let order = self.entries.get(&entry).and_then(Option::as_ref).map(|event| &event.order);
        let commit = self.dead.get(&entry).or_else(|| order.and_then(|order| self.committed.get(order)));
        commit.is_some_and(|lsn| *lsn <= by)
    }
}

/// By how much a group of effects raises the number of held units.
pub fn units_held_more(effects: &[Effect], stores: &Stores, coupon: &str) -> i64 {
    let mut claims = stores.redis.claims.get(coupon).cloned().unwrap_or_default();
    let before = units(claims.len());
    for effect in effects {
        match effect {
            Effect::Held { coupon: of, user, order, .. } if of == coupon => {
                claims.insert(user.clone(), order.clone());
            }
            Effect::Freed { coupon: of, user } if of == coupon => drop(claims.remove(user)),
            _ => {}
        }
    }
    units(claims.len()) - before
}
