//! The serving process: the fence's probe, claims (`lua/claim.lua`), publications (`lua/publish.lua`) and releases
//! of units (`lua/release.lua`). Also the admin's edits of a total.

use crate::broken::Broken;
use crate::state::{
    Coupon, Epoch, Marker, Order, Postgres, Publication, Redis, Releasing, State, USERS, bit, counter, each,
    user_of,
};
use crate::steps::Steps;
use crate::{Rule, Scope, postgres_loss};

/// The fence's probe: whether Redis and Postgres match the fence row.
#[must_use]
pub fn agrees(redis: &Redis, postgres: &Postgres, scope: &Scope) -> bool {
    let row = &postgres.row;
    !row.lost
        && (!scope.has(Rule::PostgresIdentity)
            || (postgres.identity == row.identity && postgres.position >= redis.noted))
        && (!scope.has(Rule::RedisIdentity) || redis.run == row.run)
        && redis.marker == Marker::Ready(row.epoch)
        && redis.has_group()
}

/// The check that each script makes first: the marker is `ready:<epoch>`, the coupon is consistent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ScriptCheck {
    Passed,
    Fenced,
    Inconsistent,
}

fn check(redis: &Redis, epoch: Epoch, scope: &Scope) -> ScriptCheck {
    if redis.marker != Marker::Ready(epoch) {
        ScriptCheck::Fenced
    } else if scope.has(Rule::Sum) && !redis.is_consistent() || redis.stream.is_none() {
        ScriptCheck::Inconsistent
    } else {
        ScriptCheck::Passed
    }
}

/// Records a loss in this epoch. A loss in an older epoch never replaces one in a newer epoch.
pub fn note_loss(state: &mut State, epoch: Epoch, by_postgres: bool) {
    let server = &mut state.server;
    match server.loss {
        Some((known, _)) if counter(known) > counter(epoch) => {}
        Some((known, before)) if known == epoch => server.loss = Some((epoch, before || by_postgres)),
        _ => server.loss = Some((epoch, by_postgres)),
    }
    if server.session == Some(epoch) {
        server.session = None;
    }
}

/// Handles a script's refusal; returns `true` if the script may write.
pub fn passes(state: &mut State, epoch: Epoch, scope: &Scope) -> bool {
    match check(&state.redis, epoch, scope) {
        ScriptCheck::Passed => true,
        ScriptCheck::Fenced => {
            if state.server.session == Some(epoch) {
                state.server.session = None;
            }
            false
        }
        ScriptCheck::Inconsistent => {
            note_loss(state, epoch, false);
            false
        }
    }
}

pub fn steps(state: &State, scope: &Scope, steps: &mut Steps) {
    probe(state, scope, steps);
    if let Some(epoch) = state.server.session {
        for user in 0..USERS {
            if scope.slots {
                claim_with_key(state, scope, epoch, user, steps);
            } else {
                claim(state, scope, epoch, user, steps);
            }
        }
        admin_actions(state, scope, steps);
    }
    publish(state, scope, steps);
    release(state, scope, steps);
}

fn probe(state: &State, scope: &Scope, steps: &mut Steps) {
    let agrees = agrees(&state.redis, &state.postgres, scope);
    let epoch = state.postgres.row.epoch;
    let is_lost = state.server.loss.is_some_and(|(of, _)| of == epoch);
    let is_newer = postgres_loss::has_newer_definition(&state.redis, &state.postgres, scope);
    match state.server.session {
        None if agrees && !is_lost && is_newer => steps.take("the fence finds a newer definition", |next| {
            note_loss(next, epoch, true);
            true
        }),
        None if agrees && !is_lost => steps.take("the fence comes up", |next| {
            next.server.session = Some(epoch);
            next.server.loss = None;
            if next.users.loss_pending {
                next.users.broken = Some(Broken::SoldOverLoss);
            }
            true
        }),
        Some(session) if agrees && session == epoch && !state.postgres.row.has_agreed() => {
            steps.take("the fence records its agreement", |next| {
                next.postgres.agree();
                true
            });
        }
        Some(session) if !agrees || (session != epoch && scope.has(Rule::SessionOfTheRow)) => {
            steps.take("the fence comes down", |next| {
                next.server.session = None;
                true
            });
        }
        _ => {}
    }
}

fn claim(state: &State, scope: &Scope, epoch: Epoch, user: usize, steps: &mut Steps) {
    let attempt = state.users.sent[user];
    if attempt >= scope.claims[user] {
        return;
    }
    let order = (2 * user) as u8 + attempt;
    steps.take("a user claims", |next| {
        if !passes(next, epoch, scope) {
            return true;
        }
        let Some(coupon) = next.redis.coupon else { return true };
        if let Some(held) = next.redis.claims[user] {
            return repeat(next, scope, held);
        }
        if scope.waitlist && !next.redis.line.is_empty() {
            if scope.has(Rule::LineBlocksClaims) {
                return true;
            }
            if coupon.stock > 0 && !coupon.paused {
                next.users.broken = Some(Broken::Barged);
            }
        }
        let has_room = accept(next, coupon, order);
        next.users.sent[user] += u8::from(next.users.accepted & bit(order) != 0);
        has_room
    });
}

/// The only user claims a coupon with a limit of two. The script looks for the key in both slots, then takes the first
/// free slot.
fn claim_with_key(state: &State, scope: &Scope, epoch: Epoch, key: usize, steps: &mut Steps) {
    if state.users.sent[key] >= scope.claims[key] {
        return;
    }
    let redis = &state.redis;
    let has_key = |order: &Order| state.users.key_of(*order) == key && redis.keyless & bit(*order) == 0;
    let held = redis.claims.iter().flatten().copied().find(has_key).filter(|_| scope.has(Rule::KeyIsHeld));
    let slot = redis.claims.iter().position(Option::is_none);
    let unused = |slot: usize| {
        let first = 2 * slot as u8;
        [first, first + 1].into_iter().find(|&order| state.users.accepted & bit(order) == 0)
    };
    let new = slot.and_then(unused);
    if held.is_none() && new.is_none() {
        return;
    }
    steps.take("a user claims", |next| {
        if !passes(next, epoch, scope) {
            return true;
        }
        let Some(coupon) = next.redis.coupon else { return true };
        if let Some(held) = held {
            return repeat(next, scope, held);
        }
        let Some(order) = new else { return true };
        let is_live = |other: &Order| !next.postgres.status[usize::from(*other)].is_dead();
        let earlier = each(next.users.accepted & !next.users.excused);
        let has_earlier =
            earlier.filter(|&other| next.users.key_of(other) == key).any(|other| is_live(&other));
        if has_earlier && coupon.stock > 0 && !coupon.paused {
            next.users.broken = Some(Broken::SecondUnitForKey);
        }
        let has_room = accept(next, coupon, order);
        next.users.sent[key] += u8::from(next.users.accepted & bit(order) != 0);
        next.users.second_key |= next.users.accepted & (bit(order) * key as u8);
        has_room
    });
}

/// Accepts a claim, if a unit is left.
pub fn accept(next: &mut State, coupon: Coupon, order: Order) -> bool {
    if coupon.stock <= 0 || coupon.paused {
        return true;
    }
    if coupon.version < next.users.in_force {
        next.users.broken = Some(Broken::SoldByOldDefinition);
    }
    next.redis.coupon = Some(Coupon { stock: coupon.stock - 1, ..coupon });
    next.redis.claims[user_of(order)] = Some(order);
    next.users.accepted |= bit(order);
    next.redis.stream.as_mut().is_some_and(|stream| stream.add(order))
}

/// The user holds a unit already. If its order has ended, the unit is released first, and the claim runs again.
fn repeat(next: &mut State, scope: &Scope, held: Order) -> bool {
    if next.postgres.dead() & bit(held) != 0 {
        if scope.has(Rule::RepeatAsksPostgres) {
            if !may_release(next, scope, held) || !is_of_the_row(&next.postgres, scope) {
                return true;
            }
            note_position(next, scope, next.postgres.position);
            release_unit(&mut next.redis, held, scope);
        } else {
            next.users.broken = Some(Broken::DeadOrderAnswered);
        }
    }
    true
}

/// Records the WAL position of a commit in Redis before an effect of that commit.
pub fn note_position(next: &mut State, scope: &Scope, position: u8) {
    if scope.has(Rule::EffectsNotePosition) {
        next.redis.noted = next.redis.noted.max(position);
    }
}

/// Whether a WAL position of this Postgres may be recorded in Redis.
pub fn is_of_the_row(postgres: &Postgres, scope: &Scope) -> bool {
    postgres.identity == postgres.row.identity || !scope.has(Rule::PositionOfTheRow)
}

/// Whether the unit of an ended order may return. A withdrawn unit may return only after Redis has the lowered total.
fn may_release(state: &State, scope: &Scope, order: Order) -> bool {
    let version = state.redis.coupon.map_or(0, |coupon| coupon.version);
    !scope.has(Rule::ReleaseAwaitsVersion) || version >= state.postgres.released_after(order)
}

/// `release.lua`, with the rules that can be switched off.
pub fn release_unit(redis: &mut Redis, order: Order, scope: &Scope) {
    let user = user_of(order);
    let is_its =
        if scope.has(Rule::ReleaseNamesTheOrder) { redis.holds(order) } else { redis.claims[user].is_some() };
    if is_its {
        redis.claims[user] = None;
    }
    if is_its || !scope.has(Rule::HashArbitrates) {
        redis.coupon = redis.coupon.map(|coupon| Coupon { stock: coupon.stock + 1, ..coupon });
    }
}

/// Edits of the coupon. They write the coupon's row, so they wait while a transaction locks it.
fn admin_actions(state: &State, scope: &Scope, steps: &mut Steps) {
    // A commit on an older copy could bring it to the recorded position before a process has probed it.
    let may_be_older = state.backup.is_some() && !agrees(&state.redis, &state.postgres, scope);
    if state.row_is_locked() || may_be_older {
        return;
    }
    if let Some(&change) = scope.edits.get(usize::from(state.edits))
        && state.postgres.coupon.stock + change >= 0
    {
        steps.take("the total is edited", |next| {
            next.edits += 1;
            next.users.lowered |= change < 0;
            let coupon = &mut next.postgres.coupon;
            coupon.total += change;
            coupon.stock += change;
            coupon.paused |= change == 0;
            coupon.version += 1;
            next.postgres.position += u8::from(next.backup.is_some());
            true
        });
    }
    if state.postgres.coupon.paused && usize::from(state.edits) == scope.edits.len() {
        steps.take("an admin resumes the coupon", |next| {
            next.postgres.coupon.paused = false;
            next.postgres.coupon.version += 1;
            next.postgres.position += u8::from(next.backup.is_some());
            true
        });
    }
}

fn publish(state: &State, scope: &Scope, steps: &mut Steps) {
    match state.server.publishing {
        None => {
            let Some(epoch) = state.server.session else { return };
            if state.postgres.published == state.postgres.coupon.version
                || !is_of_the_row(&state.postgres, scope)
            {
                return;
            }
            let Coupon { version, total, paused, .. } = state.postgres.coupon;
            let position = state.postgres.position;
            steps.take("a definition is read", |next| {
                next.server.publishing =
                    Some(Publication { epoch, version, total, paused, position, is_answered: false });
                true
            });
        }
        Some(publication) if !publication.is_answered => steps.take("a definition is published", |next| {
            next.server.publishing = None;
            if publish_script(next, scope, publication) {
                next.server.publishing = Some(Publication { is_answered: true, ..publication });
            } else if !scope.has(Rule::PublishRepeats) {
                next.postgres.published = next.postgres.published.max(publication.version);
            }
            true
        }),
        Some(publication) => steps.take("a publication is recorded", |next| {
            next.server.publishing = None;
            let postgres = &mut next.postgres;
            let is_its_own =
                postgres.row.epoch == publication.epoch && publication.version <= postgres.coupon.version;
            if is_its_own || !scope.has(Rule::PublicationOfItsEpoch) {
                postgres.published = postgres.published.max(publication.version);
            }
            true
        }),
    }
}

/// Returns `false` if the script refused.
fn publish_script(next: &mut State, scope: &Scope, publication: Publication) -> bool {
    let Publication { epoch, version, total, paused, position, .. } = publication;
    if next.redis.coupon.is_none() && !scope.has(Rule::PublishNeverCreates) {
        next.redis.coupon = Some(Coupon { total, stock: total, version, paused });
        return next.redis.marker == Marker::Ready(epoch);
    }
    if !passes(next, epoch, scope) {
        return false;
    }
    note_position(next, scope, position);
    let Some(coupon) = &mut next.redis.coupon else { return false };
    if coupon.version < version {
        coupon.stock += total - coupon.total;
        if !scope.has(Rule::NoClamp) {
            coupon.stock = coupon.stock.max(0);
        }
        coupon.total = total;
        coupon.version = version;
        coupon.paused = paused;
        next.users.in_force = next.users.in_force.max(version);
    }
    true
}

fn release(state: &State, scope: &Scope, steps: &mut Steps) {
    match state.server.releasing {
        Releasing::Idle => {
            let Some(epoch) = state.server.session else { return };
            if !is_of_the_row(&state.postgres, scope) {
                return;
            }
            for order in each(state.postgres.outbox) {
                steps.take("an outbox row is read", |next| {
                    next.server.releasing = Releasing::Picked(epoch, order, next.postgres.position);
                    true
                });
            }
        }
        Releasing::Picked(epoch, order, position) => steps.take("a unit is released", |next| {
            next.server.releasing = Releasing::Idle;
            if passes(next, epoch, scope) && may_release(next, scope, order) {
                note_position(next, scope, position);
                release_unit(&mut next.redis, order, scope);
                next.server.releasing = Releasing::Answered(epoch, order);
            }
            true
        }),
        Releasing::Answered(epoch, order) => steps.take("an outbox row is deleted", |next| {
            next.server.releasing = Releasing::Idle;
            // On the same Postgres it is the same row, also in a later epoch.
            let is_its = next.postgres.row.epoch == epoch || next.postgres.identity == 1;
            if is_its || !scope.has(Rule::OutboxOfItsPostgres) {
                next.postgres.outbox &= !bit(order);
            }
            true
        }),
    }
}
