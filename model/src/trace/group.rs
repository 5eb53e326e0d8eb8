//! The effects of one script by kind, as the rules in `redis` look at them.

use std::collections::BTreeSet;

use super::stores::{Redis, Stores};
use super::{Effect, EntryId, Event, Key};

/// The effects of one script, by kind.
#[derive(Default)]
pub struct Group<'a> {
    pub effects: &'a [Effect],
    pub marked: Option<(bool, &'a str)>,
    pub noted: Option<u64>,
    /// Coupon, user, order, key.
    pub held: Vec<(&'a str, &'a str, &'a str, Option<&'a str>)>,
    pub freed: Vec<(&'a str, &'a str)>,
    pub moved: i64,
    pub sent: Vec<(EntryId, Option<&'a Event>)>,
    pub acknowledged: Vec<EntryId>,
    pub delivered: Vec<EntryId>,
    pub trimmed: Option<EntryId>,
    pub consumer: Option<&'a str>,
    pub begins_at_start: Option<bool>,
    /// Coupon, user and place.
    pub placed: Vec<(&'a str, &'a str, u64)>,
    /// Coupon, user, order and key.
    pub promised: Vec<(&'a str, &'a str, &'a str, Option<&'a str>)>,
    /// Coupon and user.
    pub unplaced: Vec<(&'a str, &'a str)>,
    pub unpromised: Vec<(&'a str, &'a str)>,
    /// Keys of waiting lists that were deleted.
    pub lines_gone: usize,
    /// Coupons whose definition, claims or stock change.
    pub coupons: BTreeSet<&'a str>,
    pub is_definition: bool,
    pub foreign: Option<&'a Effect>,
}

impl<'a> Group<'a> {
    pub fn of(effects: &'a [Effect]) -> Self {
        let mut group = Self { effects, ..Self::default() };
        for effect in effects {
            match effect {
                Effect::Marked { is_ready, epoch } => group.marked = Some((*is_ready, epoch)),
                Effect::Noted { lsn } => group.noted = Some(*lsn),
                Effect::Held { coupon, user, order, key } => {
                    group.held.push((coupon, user, order, key.as_deref()));
                    group.coupons.insert(coupon);
                }
                Effect::Freed { coupon, user } => {
                    group.freed.push((coupon, user));
                    group.coupons.insert(coupon);
                }
                Effect::StockMoved { coupon, by } => {
                    group.moved += by;
                    group.coupons.insert(coupon);
                }
                Effect::Defined { coupon, .. } => {
                    group.is_definition = true;
                    group.coupons.insert(coupon);
                }
                Effect::Sent { entry, event } => group.sent.push((*entry, event.as_ref())),
                Effect::Acknowledged { entry } => group.acknowledged.push(*entry),
                Effect::Delivered { entry, .. } => group.delivered.push(*entry),
                Effect::Trimmed { below } => group.trimmed = Some(*below),
                Effect::ConsumerGone { consumer } => group.consumer = Some(consumer),
                Effect::GroupMade { at_start } => group.begins_at_start = Some(*at_start),
                Effect::Placed { coupon, user, place } => group.placed.push((coupon, user, *place)),
                Effect::Promised { coupon, user, order, key } => {
                    group.promised.push((coupon, user, order, key.as_deref()));
                }
                Effect::Unplaced { coupon, user } => group.unplaced.push((coupon, user)),
                Effect::Unpromised { coupon, user } => group.unpromised.push((coupon, user)),
                Effect::Gone { key: Key::Places(_) | Key::Promises(_) } => group.lines_gone += 1,
                Effect::GroupGone | Effect::EntryGone { .. } | Effect::Gone { .. } | Effect::Flushed => {
                    group.foreign = Some(effect);
                }
            }
        }
        group
    }

    pub fn is_only(&self, number: usize) -> bool {
        self.effects.len() == number
    }

    /// Whether it changes a waiting list.
    pub fn is_of_line(&self) -> bool {
        let changes = self.placed.len() + self.promised.len() + self.unplaced.len() + self.unpromised.len();
        changes + self.lines_gone > 0
    }

    /// The touched coupons as they are after the effects.
    pub fn applied(&self, stores: &Stores) -> Redis {
        let mut after = Redis::default();
        for coupon in &self.coupons {
            let hash = stores.redis.coupons.get_key_value(*coupon);
            after.coupons.extend(hash.map(|(id, hash)| (id.clone(), *hash)));
            let claims = stores.redis.claims.get_key_value(*coupon);
            after.claims.extend(claims.map(|(id, claims)| (id.clone(), claims.clone())));
        }
        self.effects.iter().for_each(|effect| after.apply(effect));
        after
    }
}
