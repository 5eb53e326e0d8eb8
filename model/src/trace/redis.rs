//! What a script or a command may write to Redis: rules 2 (`stock + claims = total`), 5 (a unit goes back once),
//! 6 (definitions as differences), 7 (a rebuild) and 8 (requeued events). `entries` has rule 3, `line` the waiting lists.

use std::collections::BTreeSet;

use super::entries;
use super::group::Group;
use super::line;
use super::memory::{Memory, agreement, units_held_more};
use super::stores::{Place, Redis, Stores, fields_of_user, units};
use super::{Effect, EntryId, Event, user_of_field};

/// The name of the step that accepts claims.
pub const CLAIM: &str = "users claim";

/// The name of the step, or why no rule allows it in this state.
pub fn allows(effects: &[Effect], stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    let group = Group::of(effects);
    if let Some(refused) = group.foreign {
        return Err(format!("nothing of the program's does {refused:?}"));
    }
    if let Some((is_ready, epoch)) = group.marked {
        return if is_ready {
            ready(&group, epoch, stores, memory)
        } else {
            begin(&group, epoch, stores, memory)
        };
    }
    if !group.acknowledged.is_empty() {
        return entries::acknowledge(&group, stores, memory);
    }
    if group.is_only(group.delivered.len()) {
        let is_gone = |id: &&EntryId| stores.redis.entry(**id).is_some_and(|entry| entry.is_deleted);
        return match group.delivered.iter().find(is_gone) {
            Some((ms, number)) => {
                Err(format!("entry {ms}-{number} was deleted, and a read dropped it from the pending list"))
            }
            None => Ok("a worker reads entries"),
        };
    }
    match &stores.redis.marker {
        None => Err("there is no marker".into()),
        Some((false, _)) => build(&group, stores, memory),
        Some((true, _)) => serve(&group, stores, memory),
    }
}

pub fn counter(epoch: &str) -> u64 {
    epoch.split('-').next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn begin(group: &Group<'_>, epoch: &str, stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    if !memory.epochs.contains(epoch) {
        return Err(format!("epoch {epoch} was never in the fence row"));
    }
    if let Some((_, theirs)) = &stores.redis.marker
        && counter(theirs) >= counter(epoch)
        && theirs != epoch
    {
        return Err(format!("a rebuild of epoch {epoch} began over epoch {theirs}"));
    }
    if group.begins_at_start == Some(false) {
        return Err("a group was made that skips what is in the stream".into());
    }
    let has_group = stores.redis.stream.as_ref().is_some_and(|stream| stream.has_group);
    if !has_group && group.begins_at_start.is_none() {
        return Err("a rebuild began without a group".into());
    }
    Ok("a rebuild sets its marker")
}

fn ready(group: &Group<'_>, epoch: &str, stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    if stores.redis.marker != Some((false, epoch.to_owned())) {
        return Err(format!("epoch {epoch} became ready, but it was not the one being built"));
    }
    if group.noted.is_none() {
        return Err("a rebuild ended without Postgres's position".into());
    }
    agreement(stores, memory)?;
    line::no_place_is_lost(stores, memory)?;
    Ok("a rebuild sets the ready marker")
}

/// Checks a write under a `building` marker.
fn build(group: &Group<'_>, stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    if group.is_of_line() {
        return line::rebuild(group, stores, memory);
    }
    if !group.sent.is_empty() {
        for (_, event) in &group.sent {
            let is_due = event.is_some_and(|event| {
                stores.redis.holds(event)
                    && is_as_claimed(event, memory)
                    && !stores.postgres.orders.contains_key(&event.order)
            });
            if !is_due {
                return Err(format!("a rebuild sends {event:?}, which is no claim without a row"));
            }
        }
        return Ok("a rebuild sends events");
    }
    let [coupon] = group.coupons.iter().collect::<Vec<_>>()[..] else {
        return Err(format!("no rebuild does {:?}", group.effects));
    };
    if group.is_definition {
        let after = group.applied(stores);
        let version = after.coupons.get(*coupon).map_or(0, |hash| hash.version);
        // Only Postgres makes versions: Postgres has lost an edit that Redis still has.
        if let Some(before) = stores.redis.coupons.get(*coupon).filter(|hash| hash.version > version)
            && stores.redis.adds_up(coupon)
        {
            return Err(format!(
                "a rebuild replaces version {} of coupon {coupon} by version {version}",
                before.version
            ));
        }
        return defined(coupon, &after, memory).map(|()| "a rebuild sets the coupon");
    }
    for (_, user, order, key) in &group.held {
        let row = stores.postgres.orders.get(*order);
        if let Some(sent) = memory.sent.get(*order).filter(|sent| sent.event.key.as_deref() != *key) {
            return Err(format!(
                "a rebuild gives {user} order {order} with key {key:?}, which was claimed with {:?}",
                sent.event.key
            ));
        }
        if row
            .is_some_and(|row| !row.is_live() || (row.coupon.as_str(), row.user.as_str()) != (*coupon, *user))
        {
            return Err(format!(
                "a rebuild gives {user} order {order}, which is not a live order of this user"
            ));
        }
        if row.is_none() && !memory.sent.contains_key(*order) {
            return Err(format!("a rebuild gives {user} order {order}, which was never claimed"));
        }
    }
    let more = units_held_more(group.effects, stores, coupon);
    if stores.redis.coupons.contains_key(*coupon) && group.moved != -more {
        return Err(format!("the claims of {coupon} grew by {more}, but its stock moved by {}", group.moved));
    }
    Ok("a rebuild applies fields")
}

/// Checks that Postgres once had this definition, and that `stock + claims = total`.
fn defined(coupon: &str, after: &Redis, memory: &Memory) -> Result<(), String> {
    let hash = after.coupons.get(coupon).copied().unwrap_or_default();
    if !memory.definitions.contains(&(coupon.to_owned(), hash.version, hash.total)) {
        return Err(format!("coupon {coupon} is {hash:?} in Redis, but it never was so in Postgres"));
    }
    if !after.adds_up(coupon) {
        let held = after.held(coupon);
        return Err(format!("coupon {coupon} is {hash:?} beside {held} claims"));
    }
    Ok(())
}

/// Checks a write under a `ready` marker.
fn serve(group: &Group<'_>, stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    if let (Some(lsn), true) = (group.noted, group.is_only(1)) {
        return if lsn > stores.redis.noted {
            Ok("a position is noted")
        } else {
            Err("a position was noted that is not higher than the one before".into())
        };
    }
    if let Some(below) = group.trimmed {
        let lost = stores.redis.unacknowledged().find(|(id, _)| **id < below);
        return match lost {
            Some((id, _)) => Err(format!("entry {}-{} was trimmed before it was acknowledged", id.0, id.1)),
            None => Ok("the stream is trimmed"),
        };
    }
    if let Some(consumer) = group.consumer {
        let its = |place: &Place| matches!(place, Place::Pending(of) if of == consumer);
        return match stores.redis.unacknowledged().find(|(_, entry)| its(&entry.place)) {
            Some((id, _)) => {
                Err(format!("consumer {consumer} was removed while entry {}-{} was pending", id.0, id.1))
            }
            None => Ok("a consumer is removed"),
        };
    }
    if !group.placed.is_empty() || !group.promised.is_empty() {
        return line::join(group, stores, memory);
    }
    if group.is_definition {
        return publish(group, stores, memory);
    }
    if let Some(coupon) = group.coupons.iter().find(|coupon| !stores.redis.adds_up(coupon)) {
        return Err(format!("coupon {coupon} did not add up, but was written to"));
    }
    if group.is_of_line() {
        return serve_line(group, stores, memory);
    }
    match (group.held.as_slice(), group.freed.as_slice(), group.sent.as_slice()) {
        ([_, ..], [], [_, ..]) => claim(group, stores, memory),
        ([], [_, ..], []) => release(group, stores, memory),
        ([], [], [_, ..]) if group.is_only(group.sent.len()) => requeue(group, stores, memory),
        _ => Err(format!("no script does {:?}", group.effects)),
    }
}

/// Checks a script that gives units to users in line, or takes a user out of it.
fn serve_line(group: &Group<'_>, stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    if group.coupons.is_empty() {
        return line::leave(group, stores);
    }
    let returned = if group.freed.is_empty() { 0 } else { may_return(group, stores, memory)? };
    line::serve(group, returned, stores)?;
    if !group.held.is_empty() {
        claims(group, stores, memory)?;
    }
    Ok(if group.freed.is_empty() { line::SERVE } else { line::HAND_OVER })
}

fn claim(group: &Group<'_>, stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    if let Some((coupon, user, ..)) = group.held.iter().find(|(coupon, ..)| stores.redis.has_line(coupon)) {
        return Err(format!("{user} claimed {coupon} while users waited in line"));
    }
    claims(group, stores, memory).map(|()| CLAIM)
}

/// Checks the claims of a group.
fn claims(group: &Group<'_>, stores: &Stores, memory: &Memory) -> Result<(), String> {
    let after = group.applied(stores);
    let is_freed = |coupon: &str, user: &str| group.freed.contains(&(coupon, user));
    let (mut orders, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for (coupon, user, order, key) in &group.held {
        if let Some(other) = stores.redis.holder(coupon, user)
            && !is_freed(coupon, user)
        {
            return Err(format!("{user} holds order {other} of {coupon} and was given {order}"));
        }
        if let Some(key) = key
            && !keys.insert((coupon, user_of_field(user), key))
        {
            return Err(format!("{user} was given two orders of {coupon} with key {key}"));
        }
        if let Some(key) = key
            && let Some(other) =
                holder_of_key(coupon, user, key, &after, memory).filter(|other| other != order)
        {
            return Err(format!(
                "{user} holds order {other} of {coupon} with key {key} and was given {order}"
            ));
        }
        // A user may be served again after both stores have lost the order.
        let is_known =
            memory.sent.contains_key(*order) && !(group.is_of_line() && memory.excused.contains(*order));
        if is_known || !orders.insert(order) {
            return Err(format!("order {order} was claimed twice"));
        }
        let is_sent = group.sent.iter().any(|(_, event)| {
            event.is_some_and(|event| {
                (event.order.as_str(), event.coupon.as_str(), event.user.as_str(), event.key.as_deref())
                    == (*order, *coupon, *user, *key)
            })
        });
        if !is_sent {
            return Err(format!("order {order} was claimed without an event"));
        }
    }
    if group.sent.len() != group.held.len() {
        return Err("events were sent for claims that were not made".into());
    }
    for coupon in &group.coupons {
        if after.coupons.get(*coupon).is_some_and(|hash| hash.stock < 0) {
            return Err(format!("more units of {coupon} were claimed than were in stock"));
        }
        if !after.adds_up(coupon) {
            return Err(format!("coupon {coupon} does not add up after a claim"));
        }
    }
    Ok(())
}

/// The order that the user holds with this key, in any slot.
fn holder_of_key<'a>(
    coupon: &str,
    user: &str,
    key: &str,
    redis: &'a Redis,
    memory: &Memory,
) -> Option<&'a str> {
    let has_key =
        |order: &str| memory.sent.get(order).is_some_and(|sent| sent.event.key.as_deref() == Some(key));
    fields_of_user(redis.claims.get(coupon)?, user).find(|order| has_key(order))
}

fn release(group: &Group<'_>, stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    let units = may_return(group, stores, memory)?;
    if group.moved != units {
        let coupon = group.coupons.first().copied().unwrap_or_default();
        return Err(format!("{units} units of {coupon} went back, but its stock moved by {}", group.moved));
    }
    Ok("units are released")
}

/// The number of units that a group returns.
fn may_return(group: &Group<'_>, stores: &Stores, memory: &Memory) -> Result<i64, String> {
    let [coupon] = group.coupons.iter().collect::<Vec<_>>()[..] else {
        return Err("one release returns units of several coupons".into());
    };
    let mut users = BTreeSet::new();
    for &(_, user) in &group.freed {
        let Some(order) = stores.redis.holder(coupon, user).filter(|_| users.insert(user)) else {
            return Err(format!("a unit of {coupon} went back that {user} did not hold"));
        };
        may_release(coupon, order, stores, memory)?;
    }
    Ok(units(users.len()))
}

fn may_release(coupon: &str, order: &str, stores: &Stores, memory: &Memory) -> Result<(), String> {
    let version = stores.redis.coupons.get(coupon).map_or(0, |hash| hash.version);
    // A restored definition may never reach the version of the withdrawal.
    let newest = stores.postgres.coupons.get(coupon).map_or(0, |row| row.version);
    if memory.withdrawn.get(order).is_some_and(|&withdrawn| withdrawn.min(newest) > version) {
        return Err(format!(
            "the unit of order {order} went back, but it was withdrawn and Redis has the total with it"
        ));
    }
    match stores.postgres.orders.get(order) {
        Some(row) if !row.is_live() && memory.committed.get(order) <= Some(&stores.redis.noted) => Ok(()),
        Some(row) if row.is_live() => {
            Err(format!("the unit of order {order} went back, but the order is live"))
        }
        _ => Err(format!("the unit of order {order} went back, and no commit that was noted has ended it")),
    }
}

fn requeue(group: &Group<'_>, stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    let is_due = |event: &Event| stores.redis.holds(event) && is_as_claimed(event, memory);
    match group.sent.iter().find(|(_, event)| !event.is_some_and(is_due)) {
        Some((_, event)) => Err(format!("{event:?} was sent again, but Redis does not hold it so")),
        None => Ok("events are sent again"),
    }
}

/// Whether an event that is sent again is the one that the claim sent.
fn is_as_claimed(event: &Event, memory: &Memory) -> bool {
    memory.sent.get(&event.order).is_none_or(|sent| sent.event == *event)
}

fn publish(group: &Group<'_>, stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    let [coupon] = group.coupons.iter().collect::<Vec<_>>()[..] else {
        return Err("a publication of several coupons".into());
    };
    let after = group.applied(stores);
    let version = after.coupons.get(*coupon).map_or(0, |hash| hash.version);
    match stores.redis.coupons.get(*coupon) {
        None if memory.published.contains_key(*coupon) => {
            return Err(format!("coupon {coupon} was lost, and a publication created it again"));
        }
        Some(_) if !stores.redis.adds_up(coupon) => {
            return Err(format!("coupon {coupon} did not add up, but was published"));
        }
        Some(hash) if hash.version >= version => {
            return Err(format!("version {version} of coupon {coupon} was published over {}", hash.version));
        }
        _ => {}
    }
    defined(coupon, &after, memory)?;
    if memory.edited.get(&((*coupon).to_owned(), version)) > Some(&stores.redis.noted) {
        return Err(format!(
            "version {version} of coupon {coupon} was published before its commit was noted"
        ));
    }
    Ok("a definition is published")
}
