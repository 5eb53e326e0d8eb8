//! What a script or a transaction may do with a waiting list: a row in Postgres precedes its place in Redis, units go to
//! the users in the order of joining, each place is served once, and no place is forgotten.

use std::collections::BTreeSet;

use super::group::Group;
use super::memory::Memory;
use super::stores::{Stores, WaitingList, fields_of_user};
use super::user_of_field;

/// The name of the step that gives units in stock to users in line.
pub const SERVE: &str = "users in line are served";
/// The name of the step that gives returned units to users in line.
pub const HAND_OVER: &str = "returned units go to users in line";

/// Checks the places that a join takes.
pub fn join(group: &Group<'_>, stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    let known = group.placed.len() + group.promised.len() + usize::from(group.noted.is_some());
    if !group.is_only(known) {
        return Err(format!("no join does {:?}", group.effects));
    }
    check_pairs(group)?;
    let noted = stores.redis.noted.max(group.noted.unwrap_or(0));
    let mut lines = stores.redis.lines.clone();
    for ((coupon, user, order, key), (_, _, place)) in group.promised.iter().zip(&group.placed) {
        let line = lines.entry((*coupon).to_owned()).or_default();
        let stock = stores.redis.coupons.get(*coupon).map_or(0, |hash| hash.stock);
        if line.places.contains_key(*user) {
            return Err(format!("{user} got a second place in the line of {coupon}"));
        }
        if stock > 0 && line.places.is_empty() {
            return Err(format!("{user} joined the line of {coupon} while units were left"));
        }
        if memory.placed.contains_key(*order) || memory.sent.contains_key(*order) {
            return Err(format!(
                "{user} joined the line of {coupon} with order {order}, which was in it before"
            ));
        }
        if memory.joined.get(*order).is_none_or(|lsn| *lsn > noted) {
            return Err(format!(
                "{user} joined the line of {coupon}, and no commit that was noted has the row"
            ));
        }
        check_row(coupon, user, order, stores)?;
        if let Some(other) = holds_already(coupon, user, *key, stores, memory) {
            return Err(format!("{user} joined the line of {coupon}, and holds order {other}"));
        }
        add(line, (coupon, user, order, *key), *place)?;
    }
    Ok("users join the line")
}

/// Checks the line that a rebuild writes.
pub fn rebuild(group: &Group<'_>, stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    if !group.is_only(group.lines_gone + group.placed.len() + group.promised.len()) {
        return Err(format!("no rebuild does {:?}", group.effects));
    }
    check_pairs(group)?;
    let mut lines = stores.redis.lines.clone();
    if group.lines_gone > 0 {
        lines.clear();
    }
    let mut last = None;
    for ((coupon, user, order, key), (_, _, place)) in group.promised.iter().zip(&group.placed) {
        if !memory.joined.contains_key(*order) {
            return Err(format!("a rebuild puts {user} into the line of {coupon}, who has no row"));
        }
        let is_served = memory.sent.contains_key(*order) && !memory.excused.contains(*order);
        if is_served || stores.postgres.orders.contains_key(*order) {
            return Err(format!(
                "a rebuild puts {user} into the line of {coupon} with order {order}, which was served"
            ));
        }
        if let Some(other) = holds_already(coupon, user, *key, stores, memory) {
            return Err(format!("a rebuild puts {user} into the line of {coupon}, who holds order {other}"));
        }
        let before = stores.redis.lines.get(*coupon).and_then(|line| line.places.get(*user));
        if before.is_some() && before < last {
            return Err(format!("a rebuild moves {user} back in the line of {coupon}"));
        }
        last = before.or(last);
        add(lines.entry((*coupon).to_owned()).or_default(), (coupon, user, order, *key), *place)?;
    }
    Ok("a rebuild writes a line")
}

/// Each place has an order, for the same user.
fn check_pairs(group: &Group<'_>) -> Result<(), String> {
    let with_place: BTreeSet<_> = group.placed.iter().map(|(coupon, user, _)| (*coupon, *user)).collect();
    let with_order: BTreeSet<_> = group.promised.iter().map(|(coupon, user, ..)| (*coupon, *user)).collect();
    let are_pairs = group.placed.iter().zip(&group.promised).all(|(place, order)| place.1 == order.1);
    if !are_pairs || with_place != with_order || with_place.len() != group.placed.len() {
        return Err("a place in line has no order, or an order has no place".into());
    }
    Ok(())
}

fn check_row(coupon: &str, user: &str, order: &str, stores: &Stores) -> Result<(), String> {
    match stores.postgres.joins.get(order) {
        Some(row) if (row.coupon.as_str(), row.user.as_str()) == (coupon, user) => Ok(()),
        _ => Err(format!(
            "{user} joined the line of {coupon} with order {order}, which has no row of this user"
        )),
    }
}

fn add(
    line: &mut WaitingList,
    (coupon, user, order, key): (&str, &str, &str, Option<&str>),
    place: u64,
) -> Result<(), String> {
    if line.places.values().any(|before| *before >= place) {
        return Err(format!("{user} got a place before others in the line of {coupon}"));
    }
    line.places.insert(user.to_owned(), place);
    line.promises.insert(user.to_owned(), (order.to_owned(), key.map(str::to_owned)));
    Ok(())
}

/// The order because of which the user may get no unit: with a key one that has the same key, without a key any.
fn holds_already<'a>(
    coupon: &str,
    user: &str,
    key: Option<&str>,
    stores: &'a Stores,
    memory: &Memory,
) -> Option<&'a str> {
    let has_key = |order: &str| memory.sent.get(order).is_some_and(|sent| sent.event.key.as_deref() == key);
    fields_of_user(stores.redis.claims.get(coupon)?, user).find(|order| key.is_none() || has_key(order))
}

/// Checks users who leave a line without a unit: by themselves, or because they may hold no further one.
pub fn leave(group: &Group<'_>, stores: &Stores) -> Result<&'static str, String> {
    check_removals(group)?;
    for (coupon, user) in &group.unplaced {
        if !stores.redis.lines.get(*coupon).is_some_and(|line| line.places.contains_key(*user)) {
            return Err(format!("{user} left the line of {coupon} without a place in it"));
        }
    }
    Ok("users leave the line")
}

fn check_removals(group: &Group<'_>) -> Result<(), String> {
    if group.lines_gone > 0 || group.unplaced != group.unpromised {
        return Err(format!("no script removes users from a line by {:?}", group.effects));
    }
    Ok(())
}

/// Checks that the users who got units, and those who may hold no further one, are the first in line.
pub fn serve(group: &Group<'_>, returned: i64, stores: &Stores) -> Result<(), String> {
    check_removals(group)?;
    let [coupon] = group.coupons.iter().collect::<Vec<_>>()[..] else {
        return Err("one script serves the lines of several coupons".into());
    };
    let none = WaitingList::default();
    let line = stores.redis.lines.get(*coupon).unwrap_or(&none);
    let mut served = 0;
    for ((of, user), first) in group.unplaced.iter().zip(line.users().into_iter().map(Some).chain([None])) {
        if (of, Some(*user)) != (coupon, first) {
            return Err(format!("{user} was served before {first:?}, the first in the line of {coupon}"));
        }
        let Some((order, key)) = line.promises.get(*user) else {
            return Err(format!("{user} was served without an order in the line of {coupon}"));
        };
        let given = group.held.iter().find(|(_, field, ..)| user_of_field(field) == *user);
        match given {
            Some((_, _, given, with)) if (*given, *with) == (order.as_str(), key.as_deref()) => served += 1,
            Some((_, _, given, _)) => {
                return Err(format!("{user} waited for order {order} of {coupon} and got {given}"));
            }
            None => {
                let claims = stores.redis.claims.get(*coupon);
                if claims.is_none_or(|claims| fields_of_user(claims, user).next().is_none()) {
                    return Err(format!("{user} was removed from the line of {coupon} without a unit"));
                }
            }
        }
    }
    if group.held.len() != served {
        return Err(format!("units of {coupon} were given to users who were not first in line"));
    }
    let served = super::stores::units(served);
    if group.moved != returned - served {
        return Err(format!(
            "{returned} units of {coupon} went back and {served} were given away, but its stock moved by {}",
            group.moved
        ));
    }
    Ok(())
}

/// Checks that every user who took a place and has not left is in line or was served.
pub fn no_place_is_lost(stores: &Stores, memory: &Memory) -> Result<(), String> {
    for (order, (coupon, user)) in &memory.placed {
        let is_served = memory.sent.contains_key(order) || stores.postgres.orders.contains_key(order);
        let place = stores.redis.lines.get(coupon).and_then(|line| line.order_of(user));
        if !memory.left.contains(order) && !is_served && place != Some(order) {
            return Err(format!(
                "{user} took a place in the line of {coupon} for order {order}, and has lost it"
            ));
        }
    }
    Ok(())
}

/// Checks a new row.
pub fn may_insert(order: &str, stores: &Stores, memory: &Memory) -> Result<(), String> {
    // After a Postgres loss, a rebuild inserts the rows of the line in Redis again.
    let is_rebuild = stores.redis.marker != Some((true, stores.postgres.epoch.clone()));
    if memory.joined.contains_key(order) && !(is_rebuild && stores.postgres.lost) {
        return Err(format!("order {order} joined a line twice"));
    }
    Ok(())
}

/// Checks that a row is not deleted while its user has a place.
pub fn may_delete(order: &str, stores: &Stores, memory: &Memory) -> Result<(), String> {
    let Some((coupon, user)) = memory.placed.get(order) else { return Ok(()) };
    let place = stores.redis.lines.get(coupon).and_then(|line| line.order_of(user));
    let is_ready = matches!(stores.redis.marker, Some((true, _)));
    if is_ready && place == Some(order) && !memory.left.contains(order) {
        return Err(format!("the row of {user} in the line of {coupon} was deleted, and the user waits"));
    }
    Ok(())
}
