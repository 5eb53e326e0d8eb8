//! Turns the steps of the searched model into lines of a run, to check that the replay and the model agree.

use std::collections::HashSet;

use super::replay::Replay;
use super::stores::Place;
use super::{Change, Effect, EntryId, Event, Key, Line};
use crate::search::{Path, steps_from};
use crate::state::{self, Coupon, Marker, Order, State, Status, each, user_of};
use crate::steps::Step;
use crate::{Fault, Scope};

const COUPON: &str = "c";
/// The step of the model in which a rebuild also writes the waiting list.
const SETS_COUPON: &str = "a rebuild sets the coupon";

/// A step of the model that the replay refuses, and the steps that lead to it.
#[derive(Debug)]
pub struct Refused {
    pub steps: Vec<&'static str>,
    pub why: String,
}

/// Replays every step from every state of the scope, for at most `max_states` states. Returns the number of steps.
///
/// # Errors
/// The first step that the replay refuses, or the first quiet state that it does not accept as at rest.
pub fn hold_against_model(scope: &Scope, max_states: usize) -> Result<usize, Refused> {
    let first = State::first(scope.total);
    let mut known = HashSet::from([first]);
    let mut states = vec![(first, start(&first), usize::MAX, "")];
    let (mut at, mut steps) = (0, 0);
    while at < states.len() && states.len() < max_states {
        let (state, replay, ..) = states[at].clone();
        let refused = |why, last: &'static str| {
            let mut names = vec![last];
            let mut place = at;
            while let Some((_, _, parent, name)) = states.get(place) {
                names.push(*name);
                place = *parent;
            }
            names.reverse();
            Refused { steps: names, why }
        };
        if crate::compare::is_quiet(&state, scope) {
            replay.is_at_rest().map_err(|why| refused(why, "at rest"))?;
        }
        let mut found = Vec::new();
        for step in steps_from(&state, scope).0 {
            let mut next = replay.clone();
            take(&mut next, &state, &step).map_err(|why| refused(why, step.name))?;
            steps += 1;
            if known.insert(step.to) {
                found.push((step.to, next, at, step.name));
            }
        }
        states.extend(found);
        at += 1;
    }
    Ok(steps)
}

/// Replays the steps to a state. Returns why a step is refused, or why the run is not at rest at its end.
#[must_use]
pub fn replay_path(scope: &Scope, path: &Path) -> Option<String> {
    let mut state = State::first(scope.total);
    let mut replay = start(&state);
    for to in &path.states {
        let step = steps_from(&state, scope).0.into_iter().find(|step| step.to == *to)?;
        if let Err(why) = take(&mut replay, &state, &step) {
            return Some(format!("{}: {why}", step.name));
        }
        state = *to;
    }
    replay.is_at_rest().err()
}

fn start(state: &State) -> Replay {
    let nothing = State { redis: state::Redis::default(), postgres: state::Postgres::default(), ..*state };
    let mut replay = Replay::default();
    let (mut effects, changes) = differences(&nothing, state, &replay, "");
    effects.push(Effect::GroupMade { at_start: true });
    drop(replay.take(&Line::Hand { effects, changes }));
    replay
}

fn take(replay: &mut Replay, from: &State, step: &Step) -> Result<(), String> {
    let (effects, changes) = match step.fault {
        Some(fault) => {
            let (mut effects, changes) = differences(from, &step.to, replay, step.name);
            effects.splice(0..0, removals(fault, from, &step.to, replay));
            return replay.take(&Line::Hand { effects, changes }).map(drop);
        }
        None => differences(from, &step.to, replay, step.name),
    };
    if !changes.is_empty() {
        replay.take(&Line::Postgres { lsn: 0, changes })?;
    }
    // The program records a position by a separate command before the effect; a rebuild records it with its marker.
    let is_marked = effects.iter().any(|effect| matches!(effect, Effect::Marked { .. }));
    let (noted, others): (Vec<Effect>, Vec<Effect>) =
        effects.into_iter().partition(|effect| !is_marked && matches!(effect, Effect::Noted { .. }));
    // A rebuild writes the line by a script of its own.
    let (of_line, others) =
        others.into_iter().partition(|effect| step.name == SETS_COUPON && is_of_line(effect));
    for group in [noted, others, of_line].into_iter().filter(|group| !group.is_empty()) {
        replay.take(&Line::Redis(group))?;
    }
    Ok(())
}

fn order_id(order: Order) -> String {
    format!("order {order}")
}

fn user_id(user: usize) -> String {
    format!("user {user}")
}

fn epoch_id(epoch: u8) -> String {
    format!("{}-{}", state::counter(epoch), epoch % 8)
}

fn event(order: Order) -> Event {
    Event { order: order_id(order), coupon: COUPON.into(), user: user_id(user_of(order)), key: None }
}

fn differences(from: &State, to: &State, replay: &Replay, name: &str) -> (Vec<Effect>, Vec<Change>) {
    (in_redis(&from.redis, &to.redis, replay, name), in_postgres(&from.postgres, &to.postgres))
}

fn in_redis(from: &state::Redis, to: &state::Redis, replay: &Replay, name: &str) -> Vec<Effect> {
    let mut effects = Vec::new();
    let is_ready = from.marker != to.marker && matches!(to.marker, Marker::Ready(_));
    if to.noted > from.noted || is_ready {
        effects.push(Effect::Noted { lsn: to.noted.into() });
    }
    if from.marker != to.marker {
        let epoch = epoch_id(to.marker.epoch());
        effects.extend(match to.marker {
            Marker::None => None,
            Marker::Building(_) => Some(Effect::Marked { is_ready: false, epoch }),
            Marker::Ready(_) => Some(Effect::Marked { is_ready: true, epoch }),
        });
    }
    for user in 0..state::USERS {
        let (coupon, name) = (COUPON.to_owned(), user_id(user));
        match (from.claims[user], to.claims[user]) {
            (before, Some(order)) if before != Some(order) => {
                effects.push(Effect::Held { coupon, user: name, order: order_id(order), key: None });
            }
            (Some(_), None) => effects.push(Effect::Freed { coupon, user: name }),
            _ => {}
        }
    }
    if let Some(coupon) = to.coupon {
        effects.extend(of_coupon(from.coupon, coupon, name));
    }
    let group = |redis: &state::Redis| redis.stream.is_some_and(|stream| stream.has_group);
    let of_line = of_line(from, to, replay, name);
    if group(to) && !group(from) {
        let at_start = to
            .stream
            .is_some_and(|stream| stream.entries.iter().all(|e| e.place != state::Place::Acknowledged));
        effects.push(Effect::GroupMade { at_start });
    } else {
        effects.extend(of_entries(from, to, replay, name));
    }
    effects.extend(of_line);
    effects
}

fn is_of_line(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Placed { .. }
            | Effect::Promised { .. }
            | Effect::Gone { key: Key::Places(_) | Key::Promises(_) }
    )
}

fn of_line(from: &state::Redis, to: &state::Redis, replay: &Replay, name: &str) -> Vec<Effect> {
    let mut effects = Vec::new();
    let mut line = replay.stores.redis.lines.get(COUPON).cloned().unwrap_or_default();
    let coupon = || COUPON.to_owned();
    let is_new = |ticket: &Order| from.line.tickets().all(|before| before != *ticket);
    let mut come: Vec<Order> = to.line.tickets().filter(is_new).collect();
    if name == SETS_COUPON && from.line != to.line {
        effects.extend([Key::Places(coupon()), Key::Promises(coupon())].map(|key| Effect::Gone { key }));
        line.places.clear();
        come = to.line.tickets().collect();
    } else {
        for ticket in from.line.tickets().filter(|ticket| to.line.tickets().all(|left| left != *ticket)) {
            let user = user_id(user_of(ticket));
            effects.push(Effect::Unplaced { coupon: coupon(), user: user.clone() });
            effects.push(Effect::Unpromised { coupon: coupon(), user });
        }
    }
    let last = line.places.values().max().copied().unwrap_or(0);
    for (ticket, place) in come.into_iter().zip(last + 1..) {
        let user = user_id(user_of(ticket));
        effects.push(Effect::Placed { coupon: coupon(), user: user.clone(), place });
        effects.push(Effect::Promised { coupon: coupon(), user, order: order_id(ticket), key: None });
    }
    effects
}

fn of_coupon(from: Option<Coupon>, to: Coupon, name: &str) -> Option<Effect> {
    let coupon = COUPON.to_owned();
    let before = from.unwrap_or_default();
    let is_set = name == SETS_COUPON || (to.total, to.version) != (before.total, before.version);
    if is_set {
        let (total, stock) = (Some(to.total.into()), Some(to.stock.into()));
        return Some(Effect::Defined { coupon, total, stock, version: Some(to.version.into()) });
    }
    (to.stock != before.stock).then(|| Effect::StockMoved { coupon, by: i64::from(to.stock - before.stock) })
}

/// The moves of entries: pairs the entries that left a place with those that arrived at one, by order.
fn of_entries(from: &state::Redis, to: &state::Redis, replay: &Replay, name: &str) -> Vec<Effect> {
    let entries = |redis: &state::Redis| -> Vec<state::Entry> {
        let all = redis.stream.iter().flat_map(|stream| stream.entries);
        all.filter(|entry| entry.place != state::Place::Empty).collect()
    };
    let (mut left, mut come) = (entries(from), Vec::new());
    for entry in entries(to) {
        match left.iter().position(|other| *other == entry) {
            Some(place) => drop(left.remove(place)),
            None => come.push(entry),
        }
    }
    let mut effects = Vec::new();
    let mut new = replay.memory.entries.keys().next_back().map_or(0, |id| id.0);
    let mut used = Vec::new();
    for entry in come {
        match entry.place {
            state::Place::Undelivered => {
                new += 1;
                effects.push(Effect::Sent { entry: (new, 0), event: Some(event(entry.order)) });
            }
            state::Place::Pending(worker) => {
                let before = left.iter().position(|other| other.order == entry.order);
                let was = before.map(|place| left.remove(place).place);
                if let Some(id) = was.and_then(|was| find(replay, entry.order, was, &used)) {
                    used.push(id);
                    effects.push(Effect::Delivered { entry: id, consumer: worker.to_string() });
                }
            }
            // Found below among the entries that left: the model drops some of these at once.
            _ => {}
        }
    }
    for entry in left {
        let Some(id) = find(replay, entry.order, entry.place, &used) else { continue };
        used.push(id);
        match (name, entry.place) {
            (
                "a worker acknowledges" | "a rebuild sends events",
                state::Place::Pending(_) | state::Place::Deleted(_),
            ) => {
                effects.push(Effect::Acknowledged { entry: id });
            }
            ("a worker finds a deleted entry", _) => {
                effects.push(Effect::Delivered { entry: id, consumer: "finder".into() });
            }
            _ => {}
        }
    }
    effects
}

fn find(replay: &Replay, order: Order, place: state::Place, used: &[EntryId]) -> Option<EntryId> {
    let stream = replay.stores.redis.stream.as_ref()?;
    let is_it = |entry: &super::stores::Entry| {
        let is_there = match (&entry.place, place) {
            (Place::Undelivered, state::Place::Undelivered) => true,
            (Place::Pending(of), state::Place::Pending(worker)) => {
                !entry.is_deleted && *of == worker.to_string()
            }
            (Place::Pending(of), state::Place::Deleted(worker)) => {
                entry.is_deleted && *of == worker.to_string()
            }
            _ => false,
        };
        is_there && entry.event.as_ref().is_some_and(|event| event.order == order_id(order))
    };
    stream.entries.iter().find(|(id, entry)| is_it(entry) && !used.contains(id)).map(|(id, _)| *id)
}

fn in_postgres(from: &state::Postgres, to: &state::Postgres) -> Vec<Change> {
    let mut changes = Vec::new();
    if (from.row.epoch, from.row.run, from.row.identity, from.row.lost)
        != (to.row.epoch, to.row.run, to.row.identity, to.row.lost)
    {
        changes.push(Change::Fence { epoch: epoch_id(to.row.epoch), lost: to.row.lost });
    }
    for order in 0..state::ORDERS as u8 {
        let (before, after) = (from.status[usize::from(order)], to.status[usize::from(order)]);
        if before == after {
            continue;
        }
        let status = match after {
            Status::None => {
                changes.push(Change::OrderGone { order: order_id(order) });
                continue;
            }
            Status::Reserved => "reserved",
            Status::Confirmed => "confirmed",
            Status::Cancelled => "cancelled",
            Status::Expired => "expired",
            Status::Rejected => "rejected",
        };
        let Event { order, coupon, user, key } = event(order);
        if after == Status::Rejected {
            changes.push(Change::Letter { entry: None, order: Some(order.clone()) });
        }
        changes.push(Change::Order { order, coupon, user, key, status: status.into() });
    }
    if (from.coupon, from.published) != (to.coupon, to.published) {
        let Coupon { total, stock, version, .. } = to.coupon;
        changes.push(Change::Coupon {
            coupon: COUPON.into(),
            total: total.into(),
            stock: stock.into(),
            version: version.into(),
            published: to.published.into(),
        });
    }
    let gone = |line: state::Line, other: state::Line| {
        line.tickets().filter(move |ticket| other.tickets().all(|also| also != *ticket))
    };
    changes.extend(gone(from.line, to.line).map(|ticket| Change::JoinGone { order: order_id(ticket) }));
    changes.extend(gone(to.line, from.line).map(|ticket| {
        let Event { order, coupon, user, key } = event(ticket);
        Change::Joined { order, coupon, user, key }
    }));
    changes.extend(each(to.outbox & !from.outbox).map(|order| Change::Waiting { order: order_id(order) }));
    changes.extend(each(from.outbox & !to.outbox).map(|order| Change::Returned { order: order_id(order) }));
    changes
}

/// What a fault deletes; its writes are ordinary differences.
fn removals(fault: Fault, from: &State, to: &State, replay: &Replay) -> Vec<Effect> {
    let gone = |key| vec![Effect::Gone { key }];
    match fault {
        Fault::RedisFlushed => vec![Effect::Flushed],
        Fault::ClaimsDeleted => gone(Key::Claims(COUPON.into())),
        Fault::CouponDeleted => gone(Key::Coupon(COUPON.into())),
        Fault::StreamDeleted => gone(Key::Stream),
        Fault::MarkerDeleted => gone(Key::Marker),
        Fault::GroupDestroyed => vec![Effect::GroupGone],
        Fault::EntryDeleted | Fault::PendingDeleted => {
            let entries = |state: &State| state.redis.stream.map(|stream| stream.entries).unwrap_or_default();
            let (mut left, after) = (entries(from).to_vec(), entries(to));
            for entry in after {
                if let Some(place) = left.iter().position(|other| *other == entry) {
                    left.remove(place);
                }
            }
            let entry = left.first().and_then(|entry| find(replay, entry.order, entry.place, &[]));
            entry.map(|entry| Effect::EntryGone { entry }).into_iter().collect()
        }
        _ => Vec::new(),
    }
}
