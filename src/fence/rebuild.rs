//! Rule 7: makes Redis agree with Postgres again, beside no live claim. Numbers in the comments are the
//! rule's steps; anything refused or dropped means starting over, which the caller does.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use anyhow::{Context, bail};
use bytes::Bytes;

use super::{Loss, look};
use crate::config;
use crate::model::{CouponId, Definition, OrderEvent, OrderId, UserId};
use crate::postgres::Postgres;
use crate::postgres::dead_letters::{Ended, Letter, encode_fields};
use crate::postgres::rebuild::{Decision, RebuildSession};
use crate::redis::{Redis, RedisServer, info, rebuild as redis_rebuild, script, stream};

/// Rebuilds, or returns at once where another process has done so meanwhile.
///
/// # Errors
/// Whatever was refused or dropped: the fence stays down and the caller starts over.
pub async fn rebuild(
    server: &RedisServer,
    postgres: &Postgres,
    loss: Option<&Loss>,
    difference: &str,
) -> anyhow::Result<()> {
    let started = Instant::now();
    // 1. A lock of the session's, and a connection that never reconnects by itself.
    let Some(mut session) = RebuildSession::open(postgres).await? else {
        bail!("another process is rebuilding");
    };
    let redis = server.connect().await?;
    let seen = info::look(&redis).await?;
    let row = session.row().await?;
    let loss_stands = loss.is_some_and(|loss| loss.epoch == row.epoch);
    if !loss_stands && look::compare(&seen, &row).is_ok() {
        session.close().await?;
        return Ok(());
    }
    if !seen.is_master {
        bail!("Redis is a replica: REDIS_URL must lead to the master");
    }

    // 2. A new epoch, after every open recording transaction has ended.
    let epoch = next_epoch(&row.epoch, seen.marker.as_deref());
    tracing::warn!(fence.epoch = epoch, "rebuild begins epoch {epoch}: {difference}");
    session.start_epoch(&epoch, &seen.run_id, &seen.replid).await?;

    // 3. From here nothing else writes to Redis.
    if !redis_rebuild::begin(&redis, &epoch).await? {
        bail!("another process has begun a newer rebuild");
    }

    let outcome = decide_and_apply(&redis, &mut session, &epoch).await?;

    // 7. On the same connection, so that these are the scripts of the server just rebuilt.
    script::load_all(&redis).await?;
    session.mark_published(&outcome.definitions).await?;
    session.close().await?;
    tracing::warn!(
        fence.epoch = epoch,
        coupons = outcome.definitions.len(),
        claims = outcome.claims,
        changed = outcome.changed,
        resent = outcome.resent,
        rejected = outcome.rejected,
        elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "rebuild of epoch {epoch} done: {} claims of {} coupons, {} fields changed, {} events sent again, {} rejected",
        outcome.claims,
        outcome.definitions.len(),
        outcome.changed,
        outcome.resent,
        outcome.rejected,
    );
    Ok(())
}

/// What a rebuild found and did.
#[derive(Default)]
struct Outcome {
    definitions: Vec<Definition>,
    claims: usize,
    changed: usize,
    resent: usize,
    rejected: usize,
}

/// One coupon's differences.
struct Plan {
    /// Fields of the claims hash to set or delete.
    changes: Vec<(Bytes, Option<OrderId>)>,
    /// Kept orders that have neither row nor entry.
    resend: Vec<(UserId, OrderId)>,
    /// Units held once the changes are applied.
    held: usize,
}

/// Steps 4 to 6.
async fn decide_and_apply(
    redis: &Redis,
    session: &mut RebuildSession,
    epoch: &str,
) -> anyhow::Result<Outcome> {
    let building = redis_rebuild::building_marker(epoch);
    let mut outcome = Outcome::default();
    let mut decision = session.decide().await?;
    outcome.definitions = decision.definitions().await?;
    let ids: Vec<CouponId> = outcome.definitions.iter().map(|d| d.id.clone()).collect();
    if redis_rebuild::remove_wrong_types(redis, &building, &ids).await?.is_none() {
        bail!("another process has begun a newer rebuild");
    }
    refuse_unknown_coupons(redis, &ids).await?;

    // 4. Claims hashes first, then what is not acknowledged: the direction in which an event moves.
    let mut hashes = Vec::with_capacity(ids.len());
    for id in &ids {
        hashes.push(redis_rebuild::claims_hash(redis, id).await?);
    }
    let unacknowledged = read_unacknowledged(redis).await?;
    let mut events = unacknowledged.events;

    // 5. Who keeps what, in one transaction of the lock's own session.
    let mut plans = Vec::with_capacity(ids.len());
    for (id, hash) in ids.iter().zip(hashes) {
        let events = events.remove(id).unwrap_or_default();
        let (plan, rejected) = decide_coupon(&mut decision, epoch, id, hash, &events).await?;
        outcome.claims += plan.held;
        outcome.changed += plan.changes.len();
        outcome.resent += plan.resend.len();
        outcome.rejected += rejected;
        plans.push(plan);
    }
    decision.commit().await?;

    // 6. Differences only, and the marker last.
    for (definition, plan) in outcome.definitions.iter().zip(&plans) {
        apply_plan(redis, &building, definition, plan).await?;
    }
    stream::acknowledge(redis, &unacknowledged.deleted).await?;
    if !redis_rebuild::ready(redis, epoch).await? {
        bail!("another process has begun a newer rebuild");
    }
    Ok(outcome)
}

/// A coupon that Redis has and Postgres does not know is a lost database, and claims of it are the only
/// trace of its winners: nothing is deleted.
async fn refuse_unknown_coupons(redis: &Redis, known: &[CouponId]) -> anyhow::Result<()> {
    let known: HashSet<&CouponId> = known.iter().collect();
    let mut cursor = "0".to_owned();
    loop {
        let (found, next) = info::scan_coupons(redis, &cursor).await?;
        if let Some(stranger) = found.iter().find(|id| !known.contains(id)) {
            bail!(
                "Redis holds coupon {stranger}, which Postgres does not know: is DATABASE_URL the right database, \
                 or was it restored from an older copy? Point both addresses at stores that belong together, \
                 or use another SECKILL_REDIS_PREFIX"
            );
        }
        if next == "0" {
            return Ok(());
        }
        cursor = next;
    }
}

struct Unacknowledged {
    /// Readable events in the order of the stream; unreadable ones are the workers' affair.
    events: HashMap<CouponId, Vec<(String, OrderEvent)>>,
    /// Pending ids whose entries somebody trimmed or deleted.
    deleted: Vec<String>,
}

/// Pending and undelivered entries. Acknowledged ones do not count.
async fn read_unacknowledged(redis: &Redis) -> anyhow::Result<Unacknowledged> {
    let mut pending: HashSet<String> = HashSet::new();
    let mut first_pending = None;
    let mut from = "-".to_owned();
    loop {
        let page = stream::pending_ids(redis, &from).await?;
        let Some(last) = page.last().cloned() else { break };
        first_pending.get_or_insert_with(|| page[0].clone());
        pending.extend(page);
        from = format!("({last}");
    }
    let groups = stream::groups(redis).await?;
    let group = groups.iter().find(|group| group.name == crate::redis::keys::GROUP);
    let last_delivered = group.context("the consumer group is gone again")?.last_delivered_id.clone();

    let mut events: HashMap<CouponId, Vec<(String, OrderEvent)>> = HashMap::new();
    let mut take = |entry: stream::Entry| {
        if let Ok(event) = OrderEvent::read(&entry.fields) {
            events.entry(event.coupon.clone()).or_default().push((entry.id, event));
        }
    };
    if let Some(first) = first_pending {
        let mut from = first;
        loop {
            let page = stream::range(redis, &from, &last_delivered).await?;
            let Some(last) = page.last().map(|entry| entry.id.clone()) else { break };
            page.into_iter().filter(|entry| pending.remove(&entry.id)).for_each(&mut take);
            from = format!("({last}");
        }
    }
    let mut from = format!("({last_delivered}");
    loop {
        let page = stream::range(redis, &from, "+").await?;
        let Some(last) = page.last().map(|entry| entry.id.clone()) else { break };
        page.into_iter().for_each(&mut take);
        from = format!("({last}");
    }
    Ok(Unacknowledged { events, deleted: pending.into_iter().collect() })
}

/// For each user: the live order in Postgres, else the claim without a row, else an event without a row.
async fn decide_coupon(
    decision: &mut Decision<'_>,
    epoch: &str,
    coupon: &CouponId,
    hash: HashMap<Bytes, Bytes>,
    events: &[(String, OrderEvent)],
) -> anyhow::Result<(Plan, usize)> {
    let live = decision.live_orders(coupon).await?;
    let mut plan = Plan { changes: Vec::new(), resend: Vec::new(), held: live.len() };
    let mut claims: HashMap<UserId, OrderId> = HashMap::new();
    let mut settled = 0;
    for (field, value) in hash {
        match read_claim(&field, &value) {
            Some((user, order)) if live.get(&user) == Some(&order) => {
                settled += usize::from(claims.insert(user, order).is_none());
            }
            Some((user, order)) => {
                claims.insert(user, order);
            }
            // No field of ours: it would hold a unit that nobody owns.
            None => plan.changes.push((field, None)),
        }
    }
    let suspects: Vec<OrderId> = events
        .iter()
        .map(|(_, event)| event.order)
        .chain(claims.iter().filter(|(user, order)| live.get(user) != Some(order)).map(|(_, &order)| order))
        .collect();
    let with_row = decision.with_row(&suspects).await?;
    let entries: HashSet<OrderId> = events.iter().map(|(_, event)| event.order).collect();

    let mut kept: HashMap<UserId, OrderId> = HashMap::new();
    for (user, &order) in claims.iter().filter(|(user, _)| !live.contains_key(user)) {
        if !with_row.contains(&order) {
            kept.insert(user.clone(), order);
        }
    }
    for (_, event) in events {
        if !live.contains_key(&event.user) && !with_row.contains(&event.order) {
            kept.entry(event.user.clone()).or_insert(event.order);
        }
    }
    let rejected = reject_losers(decision, epoch, coupon, &claims, events, &with_row, |user, order| {
        live.get(user).or_else(|| kept.get(user)) == Some(&order)
    })
    .await?;

    plan.held += kept.len();
    for (user, order) in live.iter().filter(|_| settled < live.len()).chain(&kept) {
        if claims.get(user) != Some(order) {
            plan.changes.push((Bytes::copy_from_slice(user.as_str().as_bytes()), Some(*order)));
        }
    }
    for user in claims.keys().filter(|user| !live.contains_key(user) && !kept.contains_key(user)) {
        plan.changes.push((Bytes::copy_from_slice(user.as_str().as_bytes()), None));
    }
    plan.resend = kept.into_iter().filter(|(_, order)| !entries.contains(order)).collect();
    Ok((plan, rejected))
}

/// Claims and events without a row that lost to another order of their user end as `rejected`.
async fn reject_losers(
    decision: &mut Decision<'_>,
    epoch: &str,
    coupon: &CouponId,
    claims: &HashMap<UserId, OrderId>,
    events: &[(String, OrderEvent)],
    with_row: &HashSet<OrderId>,
    is_kept: impl Fn(&UserId, OrderId) -> bool,
) -> anyhow::Result<usize> {
    let from_claims = claims
        .iter()
        .map(|(user, &order)| (None, OrderEvent { order, coupon: coupon.clone(), user: user.clone() }));
    let from_events = events.iter().map(|(entry, event)| (Some(entry.as_str()), event.clone()));
    let mut seen = HashSet::new();
    // Events first: their letters carry the entry.
    let losers = from_events
        .chain(from_claims)
        .filter(|(_, event)| !with_row.contains(&event.order) && !is_kept(&event.user, event.order));
    for (entry_id, event) in losers {
        if !seen.insert(event.order) {
            continue;
        }
        let (order, user) = (event.order.to_string(), event.user.as_str());
        let fields = encode_fields(&["order", &order, "coupon", coupon.as_str(), "user", user]);
        let error = "another order of this user was kept when Redis was rebuilt";
        let letter = Letter { entry_id, fields, error, deliveries: None };
        if decision.reject(epoch, &event, &letter).await? == Ended::Fenced {
            bail!("another process has begun a newer rebuild");
        }
    }
    Ok(seen.len())
}

async fn apply_plan(
    redis: &Redis,
    building: &str,
    definition: &Definition,
    plan: &Plan,
) -> anyhow::Result<()> {
    let newer = "another process has begun a newer rebuild";
    for chunk in plan.changes.chunks(config::REBUILD_CHUNK_FIELDS) {
        if !redis_rebuild::apply_chunk(redis, building, &definition.id, chunk).await? {
            bail!(newer);
        }
    }
    let hash = redis_rebuild::coupon_hash(redis, &definition.id).await?;
    if !redis_rebuild::coupon_is_right(&hash, definition, plan.held)
        && !redis_rebuild::set_coupon(redis, building, definition).await?
    {
        bail!(newer);
    }
    if !redis_rebuild::append_events(redis, building, &definition.id, &plan.resend).await? {
        bail!(newer);
    }
    Ok(())
}

fn read_claim(field: &[u8], value: &[u8]) -> Option<(UserId, OrderId)> {
    let user = std::str::from_utf8(field).ok()?.parse().ok()?;
    let order = std::str::from_utf8(value).ok()?.parse().ok()?;
    Some((user, order))
}

/// Above the row's and the marker's; the random part tells apart two databases that count alike.
fn next_epoch(row: &str, marker: Option<&str>) -> String {
    let counter = |epoch: &str| epoch.split('-').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let marker = marker.and_then(|marker| marker.split_once(':')).map_or(0, |(_, epoch)| counter(epoch));
    format!("{}-{:08x}", counter(row).max(marker) + 1, rand::random::<u32>())
}
