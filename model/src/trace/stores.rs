//! What both stores hold after the lines so far. The rules are in `redis` and `postgres`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::{Change, Effect, EntryId, Event, Key, user_of_field};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stores {
    pub redis: Redis,
    pub postgres: Postgres,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redis {
    /// Whether the marker is `ready`, and its epoch.
    pub marker: Option<(bool, String)>,
    /// The position of Postgres's WAL that was recorded.
    pub noted: u64,
    pub coupons: BTreeMap<String, Coupon>,
    /// By coupon: user → order.
    pub claims: BTreeMap<String, BTreeMap<String, String>>,
    /// By coupon: its waiting list.
    pub lines: BTreeMap<String, WaitingList>,
    pub stream: Option<Stream>,
}

/// A waiting list in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitingList {
    /// By user.
    pub places: BTreeMap<String, u64>,
    /// By user: the order that the user gets, and its key.
    pub promises: BTreeMap<String, (String, Option<String>)>,
}

impl WaitingList {
    /// Users in the order in which they are served.
    #[must_use]
    pub fn users(&self) -> Vec<&str> {
        let mut users: Vec<(u64, &str)> =
            self.places.iter().map(|(user, place)| (*place, user.as_str())).collect();
        users.sort_unstable();
        users.into_iter().map(|(_, user)| user).collect()
    }

    /// The order that a user in line gets.
    #[must_use]
    pub fn order_of(&self, user: &str) -> Option<&str> {
        let (order, _) = self.places.get(user).and_then(|_| self.promises.get(user))?;
        Some(order)
    }
}

/// A row of a waiting list in Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    pub coupon: String,
    pub user: String,
    pub key: Option<String>,
}

/// A coupon in either store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coupon {
    pub total: i64,
    pub stock: i64,
    pub version: u64,
    /// The version that Postgres has recorded as published.
    pub published: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    pub has_group: bool,
    pub entries: BTreeMap<EntryId, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub event: Option<Event>,
    pub place: Place,
    /// Whether it was deleted from the stream and is only in a pending list.
    pub is_deleted: bool,
}

/// Where an entry stands in the consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Undelivered,
    Pending(String),
    Acknowledged,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Postgres {
    pub epoch: String,
    pub lost: bool,
    pub coupons: BTreeMap<String, Coupon>,
    pub orders: BTreeMap<String, Row>,
    /// By coupon: user → live order.
    pub live: BTreeMap<String, BTreeMap<String, String>>,
    pub outbox: BTreeSet<String>,
    /// By order: the rows of the waiting lists.
    pub joins: BTreeMap<String, Join>,
    /// Entries with a dead letter.
    pub letters: BTreeSet<EntryId>,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub coupon: String,
    pub user: String,
    pub key: Option<String>,
    pub status: String,
}

impl Row {
    #[must_use]
    pub fn is_live(&self) -> bool {
        is_live(&self.status)
    }
}

#[must_use]
pub fn is_live(status: &str) -> bool {
    matches!(status, "reserved" | "confirmed")
}

/// The orders in all fields of the field's user.
pub fn fields_of_user<'a>(
    orders: &'a BTreeMap<String, String>,
    field: &str,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let user = user_of_field(field).to_owned();
    let from = orders.range::<str, _>((Bound::Included(user.as_str()), Bound::Unbounded));
    from.take_while(move |(field, _)| user_of_field(field) == user).map(|(_, order)| order.as_str())
}

/// Converts a count to a number of units.
#[must_use]
pub fn units(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Redis {
    #[must_use]
    pub fn held(&self, coupon: &str) -> i64 {
        units(self.claims.get(coupon).map_or(0, BTreeMap::len))
    }

    #[must_use]
    pub fn holder(&self, coupon: &str, user: &str) -> Option<&str> {
        self.claims.get(coupon)?.get(user).map(String::as_str)
    }

    #[must_use]
    pub fn holds(&self, event: &Event) -> bool {
        self.holder(&event.coupon, &event.user) == Some(&event.order)
    }

    /// Whether a user waits for a unit of the coupon.
    #[must_use]
    pub fn has_line(&self, coupon: &str) -> bool {
        self.lines.get(coupon).is_some_and(|line| !line.places.is_empty())
    }

    /// Whether `stock + claims = total` for a coupon.
    #[must_use]
    pub fn adds_up(&self, coupon: &str) -> bool {
        self.coupons.get(coupon).is_some_and(|hash| hash.stock + self.held(coupon) == hash.total)
    }

    /// Entries that are not acknowledged, with those that were deleted before their acknowledgement.
    pub fn unacknowledged(&self) -> impl Iterator<Item = (&EntryId, &Entry)> {
        let entries = self.stream.iter().flat_map(|stream| &stream.entries);
        entries.filter(|(_, entry)| entry.place != Place::Acknowledged)
    }

    pub fn entry(&self, id: EntryId) -> Option<&Entry> {
        self.stream.as_ref()?.entries.get(&id)
    }

    pub fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Marked { is_ready, epoch } => self.marker = Some((*is_ready, epoch.clone())),
            Effect::Noted { lsn } => self.noted = *lsn,
            Effect::Held { coupon, user, order, .. } => {
                self.claims.entry(coupon.clone()).or_default().insert(user.clone(), order.clone());
            }
            Effect::Freed { coupon, user } => {
                self.claims.entry(coupon.clone()).or_default().remove(user);
            }
            Effect::StockMoved { coupon, by } => self.coupons.entry(coupon.clone()).or_default().stock += by,
            Effect::Defined { coupon, total, stock, version } => {
                let hash = self.coupons.entry(coupon.clone()).or_default();
                hash.total = total.unwrap_or(hash.total);
                hash.stock = stock.unwrap_or(hash.stock);
                hash.version = version.unwrap_or(hash.version);
            }
            Effect::Flushed => *self = Self::default(),
            Effect::Gone { key } => match key {
                Key::Marker => self.marker = None,
                Key::Stream => self.stream = None,
                Key::Position => self.noted = 0,
                Key::Coupon(coupon) => drop(self.coupons.remove(coupon)),
                Key::Claims(coupon) => drop(self.claims.remove(coupon)),
                Key::Places(coupon) => self.lines.entry(coupon.clone()).or_default().places.clear(),
                Key::Promises(coupon) => self.lines.entry(coupon.clone()).or_default().promises.clear(),
            },
            Effect::Placed { coupon, user, place } => {
                self.lines.entry(coupon.clone()).or_default().places.insert(user.clone(), *place);
            }
            Effect::Promised { coupon, user, order, key } => {
                let promise = (order.clone(), key.clone());
                self.lines.entry(coupon.clone()).or_default().promises.insert(user.clone(), promise);
            }
            Effect::Unplaced { coupon, user } => {
                self.lines.entry(coupon.clone()).or_default().places.remove(user);
            }
            Effect::Unpromised { coupon, user } => {
                self.lines.entry(coupon.clone()).or_default().promises.remove(user);
            }
            Effect::GroupMade { .. } | Effect::Sent { .. } => {
                self.stream.get_or_insert_default().apply(effect);
            }
            _ => {
                if let Some(stream) = &mut self.stream {
                    stream.apply(effect);
                }
            }
        }
    }
}

impl Stream {
    fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Sent { entry, event } => {
                let new = Entry { event: event.clone(), place: Place::Undelivered, is_deleted: false };
                self.entries.insert(*entry, new);
            }
            Effect::Delivered { entry, consumer } => {
                if self.entries.get(entry).is_some_and(|entry| entry.is_deleted) {
                    self.entries.remove(entry);
                } else if let Some(entry) = self.entries.get_mut(entry) {
                    entry.place = Place::Pending(consumer.clone());
                }
            }
            Effect::Acknowledged { entry } => {
                if self.entries.get(entry).is_some_and(|entry| entry.is_deleted) {
                    self.entries.remove(entry);
                } else if let Some(entry) = self.entries.get_mut(entry) {
                    entry.place = Place::Acknowledged;
                }
            }
            Effect::Trimmed { below } => {
                let ids: Vec<EntryId> = self.entries.range(..below).map(|(id, _)| *id).collect();
                for id in ids {
                    self.delete(id);
                }
            }
            Effect::EntryGone { entry } => self.delete(*entry),
            Effect::GroupMade { at_start } => {
                self.has_group = true;
                let place = if *at_start { Place::Undelivered } else { Place::Acknowledged };
                self.entries.values_mut().for_each(|entry| entry.place = place.clone());
            }
            Effect::GroupGone => {
                self.has_group = false;
                self.entries.retain(|_, entry| !entry.is_deleted);
                self.entries.values_mut().for_each(|entry| entry.place = Place::Undelivered);
            }
            _ => {}
        }
    }

    /// A consumer that has the entry pending keeps its id in the pending list.
    fn delete(&mut self, id: EntryId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if matches!(entry.place, Place::Pending(_)) {
            entry.is_deleted = true;
        } else {
            self.entries.remove(&id);
        }
    }
}

impl Postgres {
    /// Whether `stock + live orders = total` for a coupon.
    #[must_use]
    pub fn adds_up(&self, coupon: &str) -> bool {
        let live = units(self.live.get(coupon).map_or(0, BTreeMap::len));
        self.coupons.get(coupon).is_some_and(|row| row.stock + live == row.total)
    }

    #[must_use]
    pub fn live_order(&self, coupon: &str, user: &str) -> Option<&str> {
        self.live.get(coupon)?.get(user).map(String::as_str)
    }

    /// The live order in any slot of the user that has this key.
    #[must_use]
    pub fn live_order_of_key(&self, coupon: &str, user: &str, key: &str) -> Option<&str> {
        fields_of_user(self.live.get(coupon)?, user)
            .find(|order| self.orders.get(*order).is_some_and(|row| row.key.as_deref() == Some(key)))
    }

    /// The order whose unit a transaction withdraws, and the new version of the coupon. Such a transaction ends the
    /// order and lowers the total.
    #[must_use]
    pub fn withdrawal(&self, changes: &[Change]) -> Option<(String, u64)> {
        let ended = changes.iter().find_map(|change| match change {
            Change::Waiting { order } => Some(order.clone()),
            _ => None,
        });
        let lowered = changes.iter().find_map(|change| match change {
            Change::Coupon { coupon, total, version, .. } => {
                self.coupons.get(coupon).filter(|before| *total < before.total).map(|_| *version)
            }
            _ => None,
        });
        ended.zip(lowered)
    }

    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Order { order, coupon, user, key, status } => {
                let live = self.live.entry(coupon.clone()).or_default();
                if is_live(status) {
                    live.insert(user.clone(), order.clone());
                } else if live.get(user) == Some(order) {
                    live.remove(user);
                }
                let (coupon, user, key) = (coupon.clone(), user.clone(), key.clone());
                let row = Row { coupon, user, key, status: status.clone() };
                self.orders.insert(order.clone(), row);
            }
            Change::OrderGone { order } => {
                if let Some(row) = self.orders.remove(order)
                    && self.live_order(&row.coupon, &row.user) == Some(order)
                {
                    self.live.entry(row.coupon).or_default().remove(&row.user);
                }
            }
            Change::Coupon { coupon, total, stock, version, published } => {
                let row = Coupon { total: *total, stock: *stock, version: *version, published: *published };
                self.coupons.insert(coupon.clone(), row);
            }
            Change::Waiting { order } => drop(self.outbox.insert(order.clone())),
            Change::Returned { order } => drop(self.outbox.remove(order)),
            Change::Letter { entry, .. } => self.letters.extend(*entry),
            Change::Joined { order, coupon, user, key } => {
                let (coupon, user, key) = (coupon.clone(), user.clone(), key.clone());
                self.joins.insert(order.clone(), Join { coupon, user, key });
            }
            Change::JoinGone { order } => drop(self.joins.remove(order)),
            Change::Fence { epoch, lost } => (self.epoch, self.lost) = (epoch.clone(), *lost),
        }
    }
}
