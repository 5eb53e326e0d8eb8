//! Follows a run line by line. `redis` and `postgres` check whether a line is allowed in the current state.

use std::collections::{BTreeMap, BTreeSet};

use super::stores::{Stores, units};
use super::{Change, Effect, EntryId, Event, Line, postgres, redis};

/// The state of a run after the lines so far.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    pub stores: Stores,
    pub memory: Memory,
}

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
    /// How many transactions have committed.
    pub commits: usize,
    /// By coupon: the number of the last commit before or after which Postgres had no stock.
    pub short: BTreeMap<String, usize>,
    /// By coupon and user: the number of the last commit before or after which the user had a live order.
    pub had: BTreeMap<(String, String), usize>,
    /// Orders whose claim was accepted.
    pub accepted: BTreeSet<String>,
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

impl Replay {
    /// Checks and applies the next line; returns the name of its step.
    ///
    /// # Errors
    /// Why no rule allows the line. The line is then not applied.
    pub fn take(&mut self, line: &Line) -> Result<&'static str, String> {
        match line {
            Line::Redis(effects) => {
                let name = redis::allows(effects, &self.stores, &self.memory)?;
                self.apply_redis(effects, name == redis::CLAIM, false);
                Ok(name)
            }
            Line::Postgres { lsn, changes } => {
                let name = postgres::allows(changes, &self.stores, &self.memory)?;
                self.apply_postgres(changes, *lsn);
                Ok(name)
            }
            Line::Hand { effects, changes } => {
                let only_sends = effects.iter().all(|effect| matches!(effect, Effect::Sent { .. }));
                self.memory.is_damaged |= !only_sends || !changes.is_empty();
                self.apply_redis(effects, false, true);
                self.apply_postgres(changes, 0);
                self.excuse();
                Ok("another program writes")
            }
        }
    }

    fn apply_redis(&mut self, effects: &[Effect], is_claim: bool, by_hand: bool) {
        for effect in effects {
            self.remember(effect, is_claim, by_hand);
            self.stores.redis.apply(effect);
        }
        if let Some(Effect::Marked { is_ready: true, epoch }) = effects.iter().find(|effect| is_ready(effect))
        {
            for (_, entry) in self.stores.redis.unacknowledged() {
                let order = entry.event.as_ref().map(|event| &event.order);
                if let Some(sent) = order.and_then(|order| self.memory.sent.get_mut(order)) {
                    sent.epochs.insert(epoch.clone());
                }
            }
        }
    }

    fn remember(&mut self, effect: &Effect, is_claim: bool, by_hand: bool) {
        let memory = &mut self.memory;
        match effect {
            Effect::Sent { entry, event } => {
                memory.entries.insert(*entry, event.clone());
                let Some(event) = event else { return };
                let sent = memory.sent.entry(event.order.clone()).or_insert_with(|| Sent {
                    event: event.clone(),
                    epochs: BTreeSet::new(),
                    after: memory.commits,
                    by_hand,
                });
                if let Some((true, epoch)) = &self.stores.redis.marker {
                    sent.epochs.insert(epoch.clone());
                }
            }
            Effect::Held { order, .. } if is_claim => drop(memory.accepted.insert(order.clone())),
            Effect::Defined { coupon, version, .. } => {
                let highest = memory.published.entry(coupon.clone()).or_default();
                *highest = version.unwrap_or(0).max(*highest);
            }
            _ => {}
        }
    }

    fn apply_postgres(&mut self, changes: &[Change], lsn: u64) {
        if changes.is_empty() {
            return;
        }
        let memory = &mut self.memory;
        memory.commits += 1;
        for change in changes {
            match change {
                Change::Order { order, coupon, user, .. } => {
                    memory.committed.insert(order.clone(), lsn);
                    let had_one = self.stores.postgres.live_order(coupon, user).is_some();
                    self.stores.postgres.apply(change);
                    if had_one || self.stores.postgres.live_order(coupon, user).is_some() {
                        memory.had.insert((coupon.clone(), user.clone()), memory.commits);
                    }
                    continue;
                }
                Change::Coupon { coupon, total, stock, version, .. } => {
                    memory.definitions.insert((coupon.clone(), *version, *total));
                    memory.edited.entry((coupon.clone(), *version)).or_insert(lsn);
                    let before = self.stores.postgres.coupons.get(coupon);
                    if *stock <= 0 || before.is_some_and(|before| before.stock <= 0) {
                        memory.short.insert(coupon.clone(), memory.commits);
                    }
                    if before.is_some_and(|before| *total < before.total) {
                        memory.lowered.insert(coupon.clone());
                    }
                }
                Change::Letter { entry: Some(entry), .. } => drop(memory.dead.insert(*entry, lsn)),
                Change::Fence { epoch, .. } => drop(memory.epochs.insert(epoch.clone())),
                _ => {}
            }
            self.stores.postgres.apply(change);
        }
    }

    /// Excuses accepted orders that neither store holds any more: no process can restore them.
    fn excuse(&mut self) {
        let Stores { redis, postgres } = &self.stores;
        let unrecorded: BTreeSet<&str> = redis
            .unacknowledged()
            .filter(|(_, entry)| !entry.is_deleted)
            .filter_map(|(_, entry)| Some(entry.event.as_ref()?.order.as_str()))
            .collect();
        for order in &self.memory.accepted {
            let held = self.memory.sent.get(order).is_some_and(|sent| redis.holds(&sent.event));
            if !postgres.orders.contains_key(order) && !held && !unrecorded.contains(order.as_str()) {
                self.memory.excused.insert(order.clone());
            }
        }
    }

    /// Checks the end of a run: no work is left, both stores agree, and no accepted order is missing.
    ///
    /// # Errors
    /// What is left to do, or what differs.
    pub fn is_at_rest(&self) -> Result<(), String> {
        let Stores { redis, postgres } = &self.stores;
        if redis.marker != Some((true, postgres.epoch.clone())) || postgres.lost {
            return Err(format!("claims are not accepted: {:?} in epoch {}", redis.marker, postgres.epoch));
        }
        if !redis.stream.as_ref().is_some_and(|stream| stream.has_group) {
            return Err("there is no stream, or no group".into());
        }
        if let Some((id, _)) = redis.unacknowledged().next() {
            return Err(format!("entry {}-{} is not acknowledged", id.0, id.1));
        }
        if let Some(order) = postgres.outbox.first() {
            return Err(format!("the unit of order {order} is in the outbox"));
        }
        for (coupon, row) in &postgres.coupons {
            let hash = redis.coupons.get(coupon).copied().unwrap_or_default();
            if (hash.total, hash.version) != (row.total, row.version) || row.published != row.version {
                return Err(format!("coupon {coupon} is {hash:?} in Redis and {row:?} in Postgres"));
            }
        }
        agreement(&self.stores, &self.memory)?;
        let is_forgotten =
            |order: &&String| !postgres.orders.contains_key(*order) && !self.memory.excused.contains(*order);
        match self.memory.accepted.iter().find(is_forgotten) {
            Some(order) => Err(format!("order {order} was accepted, but has no row")),
            None => Ok(()),
        }
    }
}

fn is_ready(effect: &Effect) -> bool {
    matches!(effect, Effect::Marked { is_ready: true, .. })
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
            Effect::Held { coupon: of, user, order } if of == coupon => {
                claims.insert(user.clone(), order.clone());
            }
            Effect::Freed { coupon: of, user } if of == coupon => drop(claims.remove(user)),
            _ => {}
        }
    }
    units(claims.len()) - before
}
