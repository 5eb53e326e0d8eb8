//! What a transaction may commit: rules 4 (an event ends in exactly one way) and 5 (a unit goes back through the
//! outbox), and `stock + live orders = total`.

use std::collections::BTreeSet;

use super::memory::{Memory, Sent};
use super::stores::{Row, Stores, is_live};
use super::{Change, line, user_of_field};

/// The name of the transaction, or why no rule allows it in this state.
pub fn allows(changes: &[Change], stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    let mut name = "a definition";
    let mut after = stores.postgres.clone_touched(changes);
    for change in changes {
        after.apply(change);
    }
    let mut keys = BTreeSet::new();
    for change in changes {
        name = match change {
            Change::Order { order, coupon, user, key, status } => {
                let (coupon, user, key) = (coupon.clone(), user.clone(), key.clone());
                let row = Row { coupon, user, key, status: status.clone() };
                match stores.postgres.orders.get(order) {
                    None if is_live(status) && !is_first(&mut keys, &row) => {
                        return Err(format!(
                            "{} was given two orders of {} with one key",
                            row.user, row.coupon
                        ));
                    }
                    None if is_live(status) => may_insert(order, &row, stores, memory)?,
                    None => may_reject(order, &row, changes, stores, memory)?,
                    Some(before) => may_end(order, before, &row, changes, stores)?,
                }
            }
            Change::OrderGone { order } => return Err(format!("order {order} was deleted")),
            Change::Coupon { coupon, total, version, published, .. } => {
                may_define(coupon, (*total, *version, *published), stores, memory)?;
                name
            }
            Change::Waiting { order } => {
                let ends = |change: &Change| matches!(change, Change::Order { order: of, status, .. } if of == order && !is_live(status));
                if !changes.iter().any(ends) {
                    return Err(format!(
                        "the unit of order {order} is in the outbox, but the order does not end in this transaction"
                    ));
                }
                name
            }
            Change::Returned { order } => {
                let row = stores.postgres.orders.get(order);
                if row.is_some_and(|row| stores.redis.holder(&row.coupon, &row.user) == Some(order)) {
                    return Err(format!("order {order} left the outbox while Redis still holds its unit"));
                }
                "an outbox row is deleted"
            }
            Change::Letter { entry, order: None } => {
                let is_readable = |entry| memory.entries.get(&entry).is_some_and(Option::is_some);
                if entry.is_some_and(is_readable) {
                    return Err(format!(
                        "entry {entry:?} can be read, and became a dead letter without its order"
                    ));
                }
                "an event becomes a dead letter"
            }
            Change::Letter { order: Some(_), .. } => name,
            Change::Joined { order, .. } => line::may_insert(order, stores, memory).map(|()| "users join")?,
            Change::JoinGone { order } => line::may_delete(order, stores, memory).map(|()| name)?,
            Change::Fence { epoch, lost } => may_fence(epoch, *lost, stores)?,
        };
    }
    let touched: BTreeSet<&String> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Order { coupon, .. } | Change::Coupon { coupon, .. } => Some(coupon),
            _ => None,
        })
        .collect();
    let known = |coupon: &&&String| after.coupons.contains_key(**coupon);
    match touched.iter().filter(known).find(|coupon| !after.adds_up(coupon)) {
        Some(coupon) => Err(format!("stock and live orders of {coupon} are no longer its total")),
        None => Ok(name),
    }
}

/// Whether the row is the first of its user and key.
fn is_first(keys: &mut BTreeSet<(String, String, String)>, row: &Row) -> bool {
    let Some(key) = &row.key else { return true };
    keys.insert((row.coupon.clone(), user_of_field(&row.user).to_owned(), key.clone()))
}

/// Checks rules 3 and 4.
fn may_insert(order: &str, row: &Row, stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    let Row { coupon, user, .. } = row;
    let sent = sent_event_of(order, row, memory)?;
    if let Some(other) = stores.postgres.live_order(coupon, user) {
        return Err(format!("{user} has order {other} of {coupon} and was given {order} too"));
    }
    if row.key != sent.event.key {
        return Err(format!(
            "order {order} was claimed with key {:?} and recorded with {:?}",
            sent.event.key, row.key
        ));
    }
    if let Some(key) = &row.key
        && let Some(other) = stores.postgres.live_order_of_key(coupon, user, key)
    {
        return Err(format!("{user} has order {other} of {coupon} with key {key} and was given {order} too"));
    }
    check_epoch(order, sent, stores)?;
    Ok("orders are recorded")
}

fn sent_event_of<'a>(order: &str, row: &Row, memory: &'a Memory) -> Result<&'a Sent, String> {
    let sent = memory
        .sent
        .get(order)
        .filter(|sent| (&sent.event.coupon, &sent.event.user) == (&row.coupon, &row.user));
    sent.ok_or_else(|| format!("order {order} of {} ({}) comes from no event", row.user, row.coupon))
}

fn check_epoch(order: &str, sent: &Sent, stores: &Stores) -> Result<(), String> {
    // A transaction that was open when a Postgres loss was noticed may still commit in its epoch.
    let epoch = &stores.postgres.epoch;
    if !sent.epochs.contains(epoch) {
        return Err(format!(
            "order {order} was recorded in epoch {epoch}, but no entry of it could be read in that epoch"
        ));
    }
    Ok(())
}

fn may_reject(
    order: &str,
    row: &Row,
    changes: &[Change],
    stores: &Stores,
    memory: &Memory,
) -> Result<&'static str, String> {
    let Row { coupon, user, status, .. } = row;
    if status != "rejected" {
        return Err(format!("order {order} began as {status}"));
    }
    let sent = memory.sent.get(order);
    let is_whole =
        changes.iter().any(|change| matches!(change, Change::Letter { order: Some(of), .. } if of == order));
    let waits = changes.iter().any(|change| matches!(change, Change::Waiting { order: of } if of == order));
    let is_known = stores.postgres.coupons.contains_key(coupon);
    if !is_whole || waits != is_known {
        return Err(format!("order {order} was rejected without its dead letter, or without its outbox row"));
    }
    // A rebuild rejects before its own `ready` marker is set.
    let is_rebuild = stores.redis.marker != Some((true, stores.postgres.epoch.clone()));
    let since = sent.map_or(0, |sent| sent.after);
    let is_short = stores.postgres.coupons.get(coupon).is_some_and(|row| row.stock <= 0);
    let was_short = is_short || memory.short.get(coupon).is_some_and(|&commit| commit >= since);
    let pair = (coupon.clone(), user.clone());
    let had_other = memory.had.get(&pair).is_some_and(|&commit| commit >= since)
        || stores.postgres.live_order(coupon, user).is_some();
    let has_rival = memory
        .sent
        .iter()
        .any(|(other, sent)| other != order && (&sent.event.coupon, &sent.event.user) == (coupon, user));
    if memory.accepted.contains(order) && !memory.lowered.contains(coupon) && !memory.is_damaged {
        return Err(format!("order {order} of {user} ({coupon}) was accepted, and then rejected"));
    }
    if was_short || had_other || !is_known || (is_rebuild && has_rival) {
        Ok("an order is rejected")
    } else {
        Err(format!("order {order} of {user} ({coupon}) was rejected for no reason"))
    }
}

fn may_end(
    order: &str,
    before: &Row,
    after: &Row,
    changes: &[Change],
    stores: &Stores,
) -> Result<&'static str, String> {
    let is_same = (&before.coupon, &before.user, &before.key) == (&after.coupon, &after.user, &after.key);
    if !is_same || !before.is_live() {
        return Err(format!("order {order}, {}, became {}", before.status, after.status));
    }
    if (before.status.as_str(), after.status.as_str()) == ("reserved", "confirmed") {
        return Ok("an order is confirmed");
    }
    let is_expired_after_confirm = after.status == "expired" && before.status != "reserved";
    if after.is_live() || is_expired_after_confirm {
        return Err(format!("order {order}, {}, became {}", before.status, after.status));
    }
    let waits = changes.iter().any(|change| matches!(change, Change::Waiting { order: of } if of == order));
    // After a Postgres loss, a rebuild ends orders that Redis does not hold.
    let is_rebuild = stores.redis.marker != Some((true, stores.postgres.epoch.clone()));
    if waits || (is_rebuild && stores.postgres.lost) {
        Ok("an order is ended")
    } else {
        Err(format!("order {order} ended, and its unit is not in the outbox"))
    }
}

fn may_define(
    coupon: &str,
    (total, version, published): (i64, u64, u64),
    stores: &Stores,
    memory: &Memory,
) -> Result<(), String> {
    // The highest version that Redis ever had; it may have lost it since.
    let hash = memory.published.get(coupon).copied().unwrap_or(0);
    // After a Postgres loss, a rebuild adopts Redis's definitions, or pauses coupons that Redis does not confirm.
    let is_rebuild = matches!(&stores.redis.marker, Some((false, epoch)) if *epoch == stores.postgres.epoch);
    let is_adopted = is_rebuild && stores.postgres.lost && published == 0;
    match stores.postgres.coupons.get(coupon) {
        None if version == 1 && published == 0 => Ok(()),
        None if is_adopted => Ok(()),
        None => Err(format!("coupon {coupon} began at version {version}")),
        Some(before) if version < before.version || (total != before.total && version == before.version) => {
            Err(format!("an edit of coupon {coupon} has no version of its own"))
        }
        Some(before) if published > before.published && published > hash => {
            Err(format!("version {published} of coupon {coupon} was called published, and Redis has {hash}"))
        }
        Some(_) => Ok(()),
    }
}

fn may_fence(epoch: &str, lost: bool, stores: &Stores) -> Result<&'static str, String> {
    let before = &stores.postgres;
    let marker = &stores.redis.marker;
    if *epoch == before.epoch {
        let is_agreed = *marker == Some((true, epoch.to_owned()));
        return if before.lost && !lost && !is_agreed {
            Err("the Postgres loss was cleared before the `ready` marker was set".into())
        } else {
            Ok("a rebuild ends")
        };
    }
    if super::redis::counter(epoch) <= super::redis::counter(&before.epoch) {
        return Err(format!("epoch {epoch} follows {}", before.epoch));
    }
    if before.lost && !lost {
        return Err("a new epoch cleared the Postgres loss".into());
    }
    Ok("a rebuild starts an epoch")
}

impl super::stores::Postgres {
    /// A copy of the coupons that these changes touch.
    fn clone_touched(&self, changes: &[Change]) -> Self {
        let mut touched = Self { epoch: self.epoch.clone(), lost: self.lost, ..Self::default() };
        for change in changes {
            if let Change::Order { coupon, .. } | Change::Coupon { coupon, .. } = change {
                touched
                    .coupons
                    .extend(self.coupons.get_key_value(coupon).map(|(id, row)| (id.clone(), *row)));
                touched
                    .live
                    .extend(self.live.get_key_value(coupon).map(|(id, live)| (id.clone(), live.clone())));
            }
        }
        touched
    }
}
