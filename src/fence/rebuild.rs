//! Rule 7: makes Redis agree with Postgres again while no claims are accepted. Numbers in the comments are the rule's
//! steps. If a step is refused or a connection breaks, the caller starts over. `decide` chooses the order that each
//! user keeps, `definitions` the definition that is in force afterwards.

mod decide;
mod definitions;
mod kept;
mod line;
mod report;

use std::collections::HashMap;
use std::time::Instant;

use anyhow::bail;
use futures_util::{FutureExt, StreamExt};
use serde_json::json;

use super::Evidence;
use super::postgres_loss::{self, Sign};
use super::probe::{self, Difference};
use super::promotion::{self, Successor};
use crate::config;
use crate::domain::{AuditAction, CouponId, Definition, Epoch, OrderEvent, Origin, counter};
use crate::logs::info_or_warn;
use crate::metrics;
use crate::postgres::Postgres;
use crate::postgres::audit::AuditEntry;
use crate::postgres::fence::FenceRow;
use crate::postgres::rebuild::RebuildSession;
use crate::redis::claims_hash::ClaimsHash;
use crate::redis::coupon_hash::{self, CouponHash};
use crate::redis::probe as redis_probe;
use crate::redis::probe::RedisProbe;
use crate::redis::rebuild::{self as redis_rebuild, CouponSet};
use crate::redis::{Redis, RedisServer, deleted_entries, lua, marker, order_stream, waitlist, wal_position};
use decide::{Plan, Trust, decide_coupon};
use line::decide_line;
pub use report::Report;
use report::log;

const NEWER: &str = "another process has begun a newer rebuild";

/// Why a rebuild did not begin, or stopped before it changed anything.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Postgres has lost commits, and no operator has ordered the rebuild.
    #[error("{}", postgres_loss::sentence(.0))]
    Waits(String),
    #[error("another process is rebuilding")]
    Busy,
}

/// Why a rebuild is needed.
pub struct Cause {
    /// Evidence that a probe would not find.
    pub evidence: Option<Evidence>,
    /// The difference between the stores, for the log and the metrics.
    pub difference: Difference,
    /// The operator who ordered the rebuild; `None` if the fence started it. Only an ordered rebuild may run after
    /// Postgres has lost commits.
    pub ordered_by: Option<Origin>,
    /// The rebuild before this one failed: the log does not warn again.
    pub is_repeated: bool,
}

/// Rebuilds. `None` if another process has rebuilt before this one got the lock.
///
/// # Errors
/// If a step was refused or a connection broke: the fence stays down and the caller starts over.
pub async fn rebuild(
    server: &RedisServer,
    postgres: &Postgres,
    cause: &Cause,
) -> anyhow::Result<Option<Report>> {
    let started = Instant::now();
    // 1. A lock that belongs to the Postgres session, and a Redis connection that never reconnects by itself.
    let Some(mut session) = RebuildSession::open(postgres, server.keys.partition).await? else {
        bail!(Refused::Busy);
    };
    let redis = server.connect().await?;
    let seen = redis_probe::probe(&redis).await?;
    let row = session.row().await?;
    let evidence = cause.evidence.as_ref().filter(|evidence| evidence.epoch == row.epoch);
    if cause.ordered_by.is_none() && evidence.is_none() && probe::compare(&seen, &row).is_ok() {
        session.close().await?;
        return Ok(None);
    }
    if !seen.is_master {
        bail!("Redis is a replica: REDIS_URL must lead to the master");
    }

    // 2. Records in the fence row that Postgres has lost commits: other processes then know it if this one dies. Then
    // waits until every open recording transaction has ended, and sets a new epoch.
    let versions = coupon_hash::versions(&redis).await?;
    let compared = postgres_loss::Definitions::compare(&redis, &versions, &session.versions().await?).await?;
    let successor = Successor::find(session.connection(), &seen, &row).await?;
    let sign = postgres_loss::by_postgres(&redis, &seen, &row, evidence, &compared, &successor).await?;
    if let Some(sign) = &sign
        && cause.ordered_by.is_none()
    {
        return wait_for_an_operator(&mut session, sign, &row).await;
    }
    if promotion::has_agreed(&seen, &row) {
        // Before the row names another epoch: if this rebuild dies, the next one compares with this agreement.
        session.record_last_agreement(&row.epoch).await?;
    }
    let source = begin(&redis, &mut session, &seen, &row, cause, sign.is_some()).await?;
    let decided = async {
        if sign.is_none() {
            check_again(&redis, &successor).await?;
        }
        decide_and_apply(&redis, &mut session, &source, compared.unknown).await
    };
    let decided = decided.await;
    let (report, definitions) = match decided {
        Err(error) => {
            // An older copy may have replaced this Postgres since the probe.
            if let Some(Refused::Waits(_)) = error.downcast_ref() {
                session.flag_postgres_loss().await?;
            }
            return Err(error);
        }
        Ok(decided) => decided,
    };

    // 7. On the same connection, so that the scripts are loaded into the server that was rebuilt.
    lua::load_all(&redis).await?;
    session.mark_published(&source.epoch, &definitions).await?;
    session.record_agreement(&source.epoch, &seen.run_id, &seen.replid).await?;
    session.close().await?;
    log(&report, started);
    metrics::DEAD_LETTERS.add(report.rejected as u64);
    metrics::REBUILDS.add(cause.difference.cause, 1);
    Ok(Some(report))
}

async fn wait_for_an_operator(
    session: &mut RebuildSession,
    sign: &Sign,
    row: &FenceRow,
) -> anyhow::Result<Option<Report>> {
    if !sign.may_be_foreign && !row.postgres_lost {
        session.flag_postgres_loss().await?;
    }
    bail!(Refused::Waits(sign.why.clone()))
}

/// The connections and the epoch of a rebuild.
struct Source {
    epoch: Epoch,
    trust: Trust,
    /// The origin of the changes that the rebuild decides, for the audit log.
    origin: Origin,
}

/// Steps 2 and 3: sets the new epoch in Postgres, then in Redis.
async fn begin(
    redis: &Redis,
    session: &mut RebuildSession,
    seen: &RedisProbe,
    row: &FenceRow,
    cause: &Cause,
    is_lost: bool,
) -> anyhow::Result<Source> {
    let epoch = next_epoch(&row.epoch, seen.marker.as_deref());
    if cause.is_repeated {
        tracing::debug!(
            fence.epoch = epoch.as_str(),
            "rebuild begins epoch {epoch} again: {}",
            cause.difference
        );
    } else {
        info_or_warn!(
            cause.difference.is_normal && !is_lost,
            fence.epoch = epoch.as_str(),
            "rebuild begins epoch {epoch}: {}",
            cause.difference
        );
    }
    let may_cancel = postgres_loss::may_cancel(seen, row);
    // A Redis that may be behind must not count as the Redis of the agreement, even if this rebuild dies later.
    let (run_id, replid) = if may_cancel { (&*seen.run_id, &*seen.replid) } else { ("", "") };
    let ordered = cause.ordered_by.as_ref().map(|origin| AuditEntry {
        origin,
        action: AuditAction::Rebuild,
        coupon: None,
        order: None,
        old: Some(json!({ "epoch": row.epoch.as_str() })),
        new: Some(json!({ "epoch": epoch.as_str() })),
    });
    session.start_epoch(&epoch, run_id, replid, is_lost, ordered.as_ref()).await?;
    // From here on only this rebuild writes to Redis.
    if !redis_rebuild::begin(redis, &epoch).await? {
        bail!(NEWER);
    }
    let trust = Trust { after_loss: is_lost, is_believed: false, may_cancel };
    let request_id = cause.ordered_by.as_ref().and_then(|origin| origin.request_id.clone());
    Ok(Source { epoch, trust, origin: Origin::system(request_id) })
}

/// Compares a promoted standby once more with the position in Redis. Only now no process records another one: until the
/// marker, a commit of the server that was replaced may have had an effect in Redis.
async fn check_again(redis: &Redis, successor: &Successor) -> anyhow::Result<()> {
    match successor.loss_before(wal_position::read(redis).await?.as_deref()) {
        Some(why) => bail!(Refused::Waits(why)),
        None => Ok(()),
    }
}

/// Steps 4 to 6.
async fn decide_and_apply(
    redis: &Redis,
    session: &mut RebuildSession,
    source: &Source,
    unknown: Vec<CouponId>,
) -> anyhow::Result<(Report, Vec<Definition>)> {
    let Source { epoch, trust, origin } = source;
    let building = marker::building_marker(epoch);
    let mut decision = session.decide().await?;
    let mut definitions = decision.definitions().await?;
    let known = definitions.iter().map(|d| d.id.clone());
    let ids: Vec<CouponId> = known.chain(unknown.iter().cloned()).collect();
    if redis_rebuild::remove_wrong_types(redis, &building, &ids).await?.is_none() {
        bail!(NEWER);
    }

    // 4. Claims hashes first, then unacknowledged entries: an event moves in this direction.
    let mut hashes = Vec::with_capacity(ids.len());
    for id in &ids {
        let claims = ClaimsHash::read(redis, id).await?;
        // A claims hash may cancel live orders only if it was consistent with its coupon: a flushed or partial hash
        // must not.
        let stored = coupon_hash::read_hash(redis, id).await?.with_held(claims.held());
        hashes.push((claims, stored));
    }
    let (mut events, gone) = unacknowledged(redis).await?;

    // 5. Decides which order each user keeps, in one transaction of the session that holds the lock.
    let mut report = Report { epoch: epoch.to_string(), coupons: ids.len(), ..Report::default() };
    for (id, (claims, stored)) in unknown.iter().zip(&hashes[definitions.len()..]) {
        let (definition, edit) = definitions::adopt(&mut decision, id, stored, claims.held(), origin).await?;
        definitions.push(definition);
        report.edits.extend(edit);
    }
    report.adopted = unknown;
    let mut plans = Vec::with_capacity(ids.len());
    for ((id, definition), (claims, stored)) in ids.iter().zip(&mut definitions).zip(hashes) {
        if !trust.after_loss {
            refuse_newer(definition, &stored)?;
        }
        let events = events.remove(id).unwrap_or_default();
        let trust = Trust { is_believed: trust.after_loss && stored.adds_up(), ..*trust };
        let mut plan = decide_coupon(&mut decision, epoch, id, claims, &events, trust).await?;
        if trust.after_loss && !report.adopted.contains(id) {
            let edit = definitions::settle(&mut decision, definition, &stored, plan.held, origin).await?;
            report.edits.extend(edit);
        }
        if definition.waitlist {
            let line = waitlist::read(redis, id).await?;
            plan.line = decide_line(&mut decision, id, line, trust.after_loss).await?;
        }
        report.add(&mut plan);
        plans.push(plan);
    }
    if trust.after_loss {
        report.restarted = decision.restart_deadlines().await?;
    }
    decision.commit().await?;

    // 6. Writes only differences, and the marker last.
    for (definition, plan) in definitions.iter().zip(&plans) {
        apply_plan(redis, &building, definition, plan).await?;
    }
    deleted_entries::acknowledge_deleted(redis, &gone).await?;
    let Some(lsn) = session.position_to_record(epoch).await? else {
        bail!("this Postgres is not that of the epoch any more");
    };
    if !redis_rebuild::ready(redis, epoch, &lsn).await? {
        bail!(NEWER);
    }
    Ok((report, definitions))
}

/// Refuses to undo an edit: an older copy may have replaced Postgres since the probe.
fn refuse_newer(definition: &Definition, stored: &CouponHash) -> Result<(), Refused> {
    let theirs = stored.valid_version().filter(|_| stored.adds_up());
    match theirs.and_then(|theirs| postgres_loss::newer_in_redis(&definition.id, theirs, definition.version))
    {
        Some(why) => Err(Refused::Waits(why)),
        None => Ok(()),
    }
}

/// Order events that are not acknowledged, by coupon, and the ids of deleted entries.
async fn unacknowledged(
    redis: &Redis,
) -> anyhow::Result<(HashMap<CouponId, Vec<(String, OrderEvent)>>, Vec<String>)> {
    let mut events: HashMap<CouponId, Vec<(String, OrderEvent)>> = HashMap::new();
    let mut walk = order_stream::UnacknowledgedScan::start(redis).await?;
    while let Some(page) = walk.next_page().await? {
        for entry in page {
            // Workers turn unreadable entries into dead letters.
            if let Ok(event) = OrderEvent::read(&entry.fields) {
                events.entry(event.coupon.clone()).or_default().push((entry.id, event));
            }
        }
    }
    Ok((events, walk.deleted()))
}

async fn apply_plan(
    redis: &Redis,
    building: &str,
    definition: &Definition,
    plan: &Plan,
) -> anyhow::Result<()> {
    // Several chunks in flight on one connection: Redis applies one while the next one is sent.
    let apply = |delete, set| {
        redis_rebuild::apply_chunk(redis, building, &definition.id, delete, set, &plan.keys).boxed()
    };
    let deletions = plan.delete.chunks(config::REBUILD_CHUNK_FIELDS).map(|delete| apply(delete, &[]));
    let claims = plan.set.chunks(config::REBUILD_CHUNK_FIELDS).map(|set| apply(&[], set));
    let chunks: Vec<_> = deletions.chain(claims).collect();
    let mut applied = futures_util::stream::iter(chunks).buffered(config::REBUILD_CHUNKS_IN_FLIGHT);
    while let Some(is_newest) = applied.next().await {
        if !is_newest? {
            bail!(NEWER);
        }
    }
    let hash = coupon_hash::read_hash(redis, &definition.id).await?;
    if !hash.is_rebuilt(definition, plan.held) {
        match redis_rebuild::set_coupon(redis, building, definition, plan.held).await? {
            CouponSet::Done => {}
            CouponSet::Fenced => bail!(NEWER),
            CouponSet::ClaimsChanged => {
                bail!("another program changed the claims of coupon {} during the rebuild", definition.id)
            }
        }
    }
    if !redis_rebuild::append_events(redis, building, &definition.id, &plan.resend, &plan.keys).await? {
        bail!(NEWER);
    }
    if let Some(line) = &plan.line
        && !waitlist::rebuild(redis, building, &definition.id, definition.per_user_limit, line).await?
    {
        bail!(NEWER);
    }
    Ok(())
}

/// A number above those of the row and the marker; the random part distinguishes two databases with equal numbers.
fn next_epoch(row: &Epoch, marker: Option<&str>) -> Epoch {
    let marker = marker.and_then(marker::epoch_of).map_or(0, counter);
    let text = format!("{}-{:08x}", row.counter().max(marker) + 1, rand::random::<u32>());
    Epoch::new(row.partition, text)
}
