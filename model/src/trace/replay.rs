//! Follows a run line by line. `redis` and `postgres` check whether a line is allowed in the current state.

use std::collections::BTreeSet;

use super::memory::{Memory, Sent, agreement};
use super::stores::Stores;
use super::{Change, Effect, Line, line, postgres, redis};

/// The state of a run after the lines so far.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    pub stores: Stores,
    pub memory: Memory,
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
                self.apply_redis(
                    effects,
                    [redis::CLAIM, line::SERVE, line::HAND_OVER].contains(&name),
                    false,
                );
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
                // Both stores had lost the order of a user in line, who is served again.
                if is_claim && memory.excused.remove(&event.order) {
                    memory.sent.remove(&event.order);
                }
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
            // The other places are those of a rebuild: their users need not know them.
            Effect::Promised { coupon, user, order, .. }
                if matches!(self.stores.redis.marker, Some((true, _))) =>
            {
                memory.placed.insert(order.clone(), (coupon.clone(), user.clone()));
            }
            Effect::Unplaced { coupon, user } => {
                let line = self.stores.redis.lines.get(coupon);
                let order = line.and_then(|line| line.order_of(user));
                // A user who is served has an event by now: the script sends it first.
                let order = order.filter(|order| !memory.sent.contains_key(*order));
                memory.left.extend(order.map(str::to_owned));
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
        let withdrawal = self.stores.postgres.withdrawal(changes);
        let is_withdrawal = withdrawal.is_some();
        memory.withdrawn.extend(withdrawal);
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
                    if !is_withdrawal && before.is_some_and(|before| *total < before.total) {
                        memory.lowered.insert(coupon.clone());
                    }
                }
                Change::Letter { entry: Some(entry), .. } => drop(memory.dead.insert(*entry, lsn)),
                Change::Joined { order, .. } => drop(memory.joined.insert(order.clone(), lsn)),
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
        line::no_place_is_lost(&self.stores, &self.memory)?;
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
