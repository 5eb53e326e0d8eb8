//! Compares the answers to users with what Redis held at the time. The clock is in the ids of the stream's entries:
//! a line between two entries in the log happened between their times.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::trace::{Effect, EntryId, Event, Line, Redis, user_of_field};

use crate::history::{Claim, Class, History};

/// Largest difference between this clock and that of the history, ms.
const CLOCKS_APART_MS: u64 = 2;

/// Coupon, user and key.
type Request = (String, String, Option<String>);

#[derive(Default)]
pub struct Timeline {
    /// Number of lines so far.
    lines: usize,
    /// Line and time, ms: the time in an entry's id, never less than the one before.
    clock: Vec<(usize, u64)>,
    /// By coupon: line, and the units after it that a claim may take: none while users wait in line.
    stock: BTreeMap<String, Vec<(usize, i64)>>,
    /// By coupon and field of the claims hash: the key of the unit that is held now.
    fields: BTreeMap<(String, String), Option<String>>,
    /// By coupon, user and key: line, and whether the user holds a unit after it.
    holds: HashMap<Request, Vec<(usize, bool)>>,
    events: HashMap<EntryId, Event>,
    /// Orders that had an event.
    sent: BTreeSet<String>,
    /// Orders that users in a waiting list were to get.
    promised: BTreeSet<String>,
    /// By order: the line that acknowledged its event.
    acknowledged: HashMap<String, usize>,
}

impl Timeline {
    /// Adds a line, with the state of Redis after it.
    pub fn add(&mut self, line: &Line, redis: &Redis) {
        self.lines += 1;
        let (Line::Redis(effects) | Line::Hand { effects, .. }) = line else { return };
        for effect in effects {
            match effect {
                Effect::Sent { entry, event } => {
                    let before = self.clock.last().map_or(0, |(_, ms)| *ms);
                    self.clock.push((self.lines, entry.0.max(before)));
                    if let Some(event) = event {
                        self.sent.insert(event.order.clone());
                        self.events.insert(*entry, event.clone());
                    }
                }
                Effect::Acknowledged { entry } => {
                    if let Some(event) = self.events.get(entry) {
                        self.acknowledged.entry(event.order.clone()).or_insert(self.lines);
                    }
                }
                Effect::Held { coupon, user, key, .. } => {
                    self.add_end(coupon, user);
                    self.fields.insert((coupon.clone(), user.clone()), key.clone());
                    self.add_unit(coupon, user, key.clone(), true);
                }
                Effect::Promised { order, .. } => drop(self.promised.insert(order.clone())),
                Effect::Freed { coupon, user } => self.add_end(coupon, user),
                Effect::Flushed | Effect::Gone { .. } => self.add_loss(redis),
                _ => {}
            }
        }
        for (coupon, hash) in &redis.coupons {
            let left = if redis.has_line(coupon) { hash.stock.min(0) } else { hash.stock };
            let stock = self.stock.entry(coupon.clone()).or_default();
            if stock.last().is_none_or(|(_, last)| *last != left) {
                stock.push((self.lines, left));
            }
        }
    }

    fn add_end(&mut self, coupon: &str, field: &str) {
        if let Some(key) = self.fields.remove(&(coupon.to_owned(), field.to_owned())) {
            self.add_unit(coupon, field, key, false);
        }
    }

    fn add_unit(&mut self, coupon: &str, field: &str, key: Option<String>, is_held: bool) {
        let request = (coupon.to_owned(), user_of_field(field).to_owned(), key);
        self.holds.entry(request).or_default().push((self.lines, is_held));
    }

    fn add_loss(&mut self, redis: &Redis) {
        let is_lost = |(coupon, field): &&(String, String)| redis.holder(coupon, field).is_none();
        let lost: Vec<(String, String)> = self.fields.keys().filter(is_lost).cloned().collect();
        for (coupon, field) in lost {
            self.add_end(&coupon, &field);
        }
    }

    /// Whether the stores allowed each answer at some moment between its request and the answer.
    pub fn judge(&self, history: &History) -> Result<(), String> {
        for claim in &history.claims {
            let (user, coupon) = (&claim.user, &claim.coupon);
            if let Some(order) = &claim.order
                && !self.sent.contains(order)
            {
                return Err(format!(
                    "{user} was answered with order {order} of {coupon}, which had no event"
                ));
            }
            if claim.class == Class::SoldOut && !self.could_be_sold_out(claim) {
                return Err(format!(
                    "{user} was answered {} for {coupon} ({:?}) while there was stock or the user held a unit",
                    claim.answer, claim.span
                ));
            }
        }
        for wait in &history.waits {
            let Some(order) = &wait.order else { continue };
            let (known, what) = if wait.is_waiting() {
                (&self.promised, "no place in line")
            } else {
                (&self.sent, "no event")
            };
            if !known.contains(order) {
                let (user, coupon) = (&wait.user, &wait.coupon);
                return Err(format!(
                    "{user} was answered with order {order} in the line of {coupon}, which had {what}"
                ));
            }
        }
        for status in history.statuses.iter().filter(|status| status.status == "accepted") {
            let latest = self.acknowledged.get(&status.order).and_then(|line| self.next_ms(*line));
            if latest.is_some_and(|ms| status.span.began_us / 1_000 > ms + CLOCKS_APART_MS) {
                return Err(format!(
                    "order {} was recorded, and then its status was answered as accepted",
                    status.order
                ));
            }
        }
        Ok(())
    }

    /// Whether at some moment of its span there was no stock and the user held no unit with the claim's key.
    fn could_be_sold_out(&self, claim: &Claim) -> bool {
        let Claim { coupon, user, key, span, .. } = claim;
        let from = (span.began_us / 1_000).saturating_sub(CLOCKS_APART_MS);
        let to = span.ended_us / 1_000 + CLOCKS_APART_MS;
        // The last line that ended before the span, and the first line that began after it.
        let first = self.clock.iter().take_while(|(_, ms)| *ms < from).last().map_or(0, |(line, _)| *line);
        let last = self.clock.iter().find(|(_, ms)| *ms > to).map_or(usize::MAX, |(line, _)| *line);
        let none = Vec::new();
        let holds = self.holds.get(&(coupon.clone(), user.clone(), key.clone())).unwrap_or(&none);
        let stock = self.stock.get(coupon).unwrap_or(&Vec::new()).clone();
        let changes = stock.iter().map(|(line, _)| *line).chain(holds.iter().map(|(line, _)| *line));
        let mut moments: Vec<usize> = changes.filter(|line| (first..last).contains(line)).collect();
        moments.push(first);
        moments.into_iter().any(|line| {
            let is_out = after(&stock, line).is_some_and(|stock| stock <= 0);
            is_out && !after(holds, line).unwrap_or(false)
        })
    }

    /// The time before which a line happened.
    fn next_ms(&self, line: usize) -> Option<u64> {
        self.clock.iter().find(|(next, _)| *next > line).map(|(_, ms)| *ms)
    }
}

/// The last value at or before a line.
fn after<T: Copy>(values: &[(usize, T)], line: usize) -> Option<T> {
    values[..values.partition_point(|(at, _)| *at <= line)].last().map(|(_, value)| *value)
}
