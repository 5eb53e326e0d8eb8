//! Rule 7: makes Redis agree with Postgres again, beside no live claim. Numbers in the comments are the
//! rule's steps; anything refused or dropped means starting over, which the caller does. Who
//! keeps what is in `decide`.

mod decide;

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use anyhow::bail;
use futures_util::{FutureExt, StreamExt};
use serde::Serialize;

use super::look::{self, Difference};
use super::{Loss, counter, deleted, lost};
use crate::config;
use crate::logs::info_or_warn;
use crate::metrics;
use crate::model::{CouponId, Definition, OrderEvent, OrderId};
use crate::postgres::Postgres;
use crate::postgres::rebuild::RebuildSession;
use crate::redis::rebuild::{self as redis_rebuild, CouponSet};
use crate::redis::{Redis, RedisServer, info, script, stream};
use decide::{Plan, decide_coupon};

const NEWER: &str = "another process has begun a newer rebuild";

/// Why a rebuild is asked for.
pub struct Cause {
    /// What is known to be lost, if a look alone would not show it.
    pub loss: Option<Loss>,
    /// What differs, for the log and the metrics.
    pub difference: Difference,
    /// A person ordered it, also over a Postgres that has lost commits.
    pub ordered: bool,
}

/// What a rebuild found and did.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub epoch: String,
    pub coupons: usize,
    pub claims: usize,
    /// Fields of claims hashes set or deleted.
    pub changed: usize,
    /// Order events sent again.
    pub resent: usize,
    pub rejected: usize,
    /// Live orders that Redis did not hold, where Postgres had lost commits.
    pub cancelled: Vec<OrderId>,
    /// Coupons that only Redis still knew, where Postgres had lost commits.
    pub adopted: Vec<CouponId>,
}

/// Rebuilds; `None` where another process has done so meanwhile.
///
/// # Errors
/// Whatever was refused or dropped: the fence stays down and the caller starts over.
pub async fn rebuild(
    server: &RedisServer,
    postgres: &Postgres,
    cause: &Cause,
) -> anyhow::Result<Option<Report>> {
    let started = Instant::now();
    // 1. A lock of the session's, and a connection that never reconnects by itself.
    let Some(mut session) = RebuildSession::open(postgres).await? else {
        bail!("another process is rebuilding");
    };
    let redis = server.connect().await?;
    let seen = info::look(&redis).await?;
    let row = session.row().await?;
    let loss = cause.loss.as_ref().filter(|loss| loss.epoch == row.epoch);
    if !cause.ordered && loss.is_none() && look::compare(&seen, &row).is_ok() {
        session.close().await?;
        return Ok(None);
    }
    if !seen.is_master {
        bail!("Redis is a replica: REDIS_URL must lead to the master");
    }

    // 2. What Postgres lost is known from here on, whoever dies; then a new epoch, after every open
    // recording transaction has ended.
    let strangers = unknown_coupons(&redis, &session.coupon_ids().await?).await?;
    let postgres_lost = lost::by_postgres(&redis, &seen, &row, loss, &strangers).await?;
    if let Some(why) = &postgres_lost
        && !cause.ordered
    {
        session.flag_lost(&seen.run_id, &seen.replid).await?;
        bail!(lost::sentence(why));
    }
    if postgres_lost.is_none()
        && let Some(stranger) = strangers.first()
    {
        bail!(
            "Redis holds coupon {stranger}, which Postgres does not know: point REDIS_URL and DATABASE_URL at \
             stores that belong together, or use another SECKILL_REDIS_PREFIX"
        );
    }
    let epoch = next_epoch(&row.epoch, seen.marker.as_deref());
    info_or_warn!(
        cause.difference.is_normal && postgres_lost.is_none(),
        fence.epoch = epoch,
        "rebuild begins epoch {epoch}: {}",
        cause.difference
    );
    session.start_epoch(&epoch, &seen.run_id, &seen.replid, postgres_lost.is_some()).await?;

    // 3. From here nothing else writes to Redis.
    if !redis_rebuild::begin(&redis, &epoch).await? {
        bail!(NEWER);
    }
    let adopted = if postgres_lost.is_some() { strangers } else { Vec::new() };
    let (report, definitions) =
        decide_and_apply(&redis, &mut session, &epoch, postgres_lost.is_some(), adopted).await?;

    // 7. On the same connection, so that these are the scripts of the server just rebuilt.
    script::load_all(&redis).await?;
    session.mark_published(&epoch, &definitions).await?;
    session.clear_lost(&epoch).await?;
    session.close().await?;
    log(&report, started);
    metrics::DEAD_LETTERS.add(report.rejected as u64);
    metrics::REBUILDS.add(cause.difference.cause, 1);
    Ok(Some(report))
}

fn log(report: &Report, started: Instant) {
    let Report { epoch, coupons, claims, changed, resent, rejected, cancelled, adopted } = report;
    let found_nothing = changed + resent + rejected + cancelled.len() + adopted.len() == 0;
    info_or_warn!(
        found_nothing,
        fence.epoch = epoch,
        coupons,
        claims,
        changed,
        resent,
        rejected,
        cancelled = cancelled.len(),
        adopted = adopted.len(),
        elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "rebuild of epoch {epoch} done: {claims} claims of {coupons} coupons, {changed} fields changed, \
         {resent} events sent again, {rejected} rejected",
    );
    for order in cancelled {
        tracing::warn!(%order, "order {order} was cancelled: Postgres had lost commits, and Redis does not hold it");
    }
}

/// Steps 4 to 6.
async fn decide_and_apply(
    redis: &Redis,
    session: &mut RebuildSession,
    epoch: &str,
    postgres_lost: bool,
    adopted: Vec<CouponId>,
) -> anyhow::Result<(Report, Vec<Definition>)> {
    let building = redis_rebuild::building_marker(epoch);
    let mut decision = session.decide().await?;
    for id in &adopted {
        if let Some(definition) = info::coupon(redis, id).await?.map(Definition::from) {
            decision.adopt(&definition).await?;
        }
    }
    let definitions = decision.definitions().await?;
    let ids: Vec<CouponId> = definitions.iter().map(|d| d.id.clone()).collect();
    if redis_rebuild::remove_wrong_types(redis, &building, &ids).await?.is_none() {
        bail!(NEWER);
    }

    // 4. Claims hashes first, then what is not acknowledged: the direction in which an event moves.
    let mut hashes = Vec::with_capacity(ids.len());
    for id in &ids {
        let hash = redis_rebuild::claims_hash(redis, id).await?;
        // What cancels live orders must be the hash that stood beside them: neither a flushed one nor half of one.
        let is_believed =
            postgres_lost && is_whole(&redis_rebuild::coupon_hash(redis, id).await?, hash.held());
        hashes.push((hash, is_believed));
    }
    let mut events: HashMap<CouponId, Vec<(String, OrderEvent)>> = HashMap::new();
    let mut walk = stream::Walk::start(redis).await?;
    while let Some(page) = walk.next_page().await? {
        for entry in page {
            // Unreadable ones are the workers' affair.
            if let Ok(event) = OrderEvent::read(&entry.fields) {
                events.entry(event.coupon.clone()).or_default().push((entry.id, event));
            }
        }
    }
    let gone = walk.gone();

    // 5. Who keeps what, in one transaction of the lock's own session.
    let mut report = Report { epoch: epoch.to_owned(), coupons: ids.len(), adopted, ..Report::default() };
    let mut plans = Vec::with_capacity(ids.len());
    for (id, (hash, is_believed)) in ids.iter().zip(hashes) {
        let events = events.remove(id).unwrap_or_default();
        let mut plan = decide_coupon(&mut decision, epoch, id, hash, &events, is_believed).await?;
        report.claims += plan.held;
        report.changed += plan.delete.len() + plan.set.len();
        report.resent += plan.resend.len();
        report.rejected += plan.rejected;
        report.cancelled.append(&mut plan.cancelled);
        plans.push(plan);
    }
    decision.commit().await?;

    // 6. Differences only, and the marker last.
    for (definition, plan) in definitions.iter().zip(&plans) {
        apply_plan(redis, &building, definition, plan).await?;
    }
    deleted::settle(redis, &gone).await?;
    let lsn = session.durable_lsn().await?;
    if !redis_rebuild::ready(redis, epoch, &lsn).await? {
        bail!(NEWER);
    }
    Ok((report, definitions))
}

/// Whether stock + claims is the total of a coupon's hash.
fn is_whole(hash: &HashMap<String, String>, held: usize) -> bool {
    let number = |name| hash.get(name).and_then(|text: &String| text.parse::<i64>().ok());
    let held = i64::try_from(held).unwrap_or(i64::MAX);
    number("total").zip(number("stock")).is_some_and(|(total, stock)| total.checked_sub(stock) == Some(held))
}

/// Coupons that Redis has and Postgres does not know. Claims of theirs are the only trace of winners:
/// nothing is deleted.
async fn unknown_coupons(redis: &Redis, known: &[CouponId]) -> anyhow::Result<Vec<CouponId>> {
    let known: HashSet<&CouponId> = known.iter().collect();
    let mut strangers = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let (found, next) = info::scan_coupons(redis, &cursor).await?;
        strangers.extend(found.into_iter().filter(|id| !known.contains(id)));
        if next == "0" {
            strangers.sort();
            strangers.dedup();
            return Ok(strangers);
        }
        cursor = next;
    }
}

async fn apply_plan(
    redis: &Redis,
    building: &str,
    definition: &Definition,
    plan: &Plan,
) -> anyhow::Result<()> {
    // Several on their way at once, on one connection: Redis applies one while the next is being written.
    let apply =
        |delete, set| redis_rebuild::apply_chunk(redis, building, &definition.id, delete, set).boxed();
    let deletions = plan.delete.chunks(config::REBUILD_CHUNK_FIELDS).map(|delete| apply(delete, &[]));
    let claims = plan.set.chunks(config::REBUILD_CHUNK_FIELDS).map(|set| apply(&[], set));
    let chunks: Vec<_> = deletions.chain(claims).collect();
    let mut applied = futures_util::stream::iter(chunks).buffered(config::REBUILD_CHUNKS_IN_FLIGHT);
    while let Some(is_newest) = applied.next().await {
        if !is_newest? {
            bail!(NEWER);
        }
    }
    let hash = redis_rebuild::coupon_hash(redis, &definition.id).await?;
    if !redis_rebuild::coupon_is_right(&hash, definition, plan.held) {
        match redis_rebuild::set_coupon(redis, building, definition, plan.held).await? {
            CouponSet::Done => {}
            CouponSet::Fenced => bail!(NEWER),
            CouponSet::ClaimsChanged => {
                bail!("somebody has changed the claims of coupon {} during the rebuild", definition.id)
            }
        }
    }
    if !redis_rebuild::append_events(redis, building, &definition.id, &plan.resend).await? {
        bail!(NEWER);
    }
    Ok(())
}

/// Above the row's and the marker's; the random part tells apart two databases that count alike.
fn next_epoch(row: &str, marker: Option<&str>) -> String {
    let marker = marker.and_then(script::marker_epoch).map_or(0, counter);
    format!("{}-{:08x}", counter(row).max(marker) + 1, rand::random::<u32>())
}
