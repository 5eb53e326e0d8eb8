//! Rule 6: publishes a coupon's definition to Redis, as a difference and only over a lower version. Repeats this until
//! Redis has Postgres's version. `in_force` reads back what Redis has.

use tokio::time::MissedTickBehavior;

use super::abandoned::AbandonedTakes;
use super::catalogue::Catalogue;
use crate::config;
use crate::domain::Definition;
use crate::fence::{Fence, FenceState, Session, StoreError, postgres_loss, wal_position};
use crate::postgres::{self, Postgres, PostgresError, coupons};
use crate::redis::coupon_hash;
use crate::redis::scripts::{self, Published};

/// Publishes one definition and marks it as published in Postgres. `just_inserted` is true only in the request that
/// inserted the row: only that request may create the hash, and it tries once.
///
/// # Errors
/// If a store does not answer, the agreement has changed, or Postgres has lost an edit.
pub async fn publish(
    fence: &Fence,
    session: &Session,
    postgres: &Postgres,
    just_inserted: bool,
    definition: &Definition,
) -> Result<(), StoreError> {
    wal_position::record(fence, session, postgres).await?;
    match scripts::publish(&session.redis, &session.ready, just_inserted, definition).await {
        Ok(Published::Applied) => {}
        Ok(Published::Current) => check_current(fence, session, postgres, definition).await?,
        Ok(Published::Fenced) => {
            fence.marker_changed(session);
            return Err(StoreError::Fenced);
        }
        Ok(Published::Inconsistent) => {
            fence.invalidate(
                &session.epoch,
                &format!("coupon {} is absent from Redis or inconsistent", definition.id),
            );
            return Err(StoreError::Fenced);
        }
        Err(error) => {
            fence.redis_failed(&session.epoch, &error);
            return Err(error.into());
        }
    }
    let Definition { id, version, .. } = definition;
    coupons::mark_published(&postgres.pool, &session.epoch, vec![id.as_str()], vec![*version]).await?;
    Ok(())
}

/// Handles a version in Redis that is not lower. Either another request has published it; or Postgres has lost the edit
/// that made this version, and has since made another edit with the same version.
async fn check_current(
    fence: &Fence,
    session: &Session,
    postgres: &Postgres,
    definition: &Definition,
) -> Result<(), StoreError> {
    let id = &definition.id;
    let in_redis = coupon_hash::read_hash(&session.redis, id).await?;
    let version = in_redis.version();
    // Redis first: an edit reaches Postgres before Redis.
    let in_postgres = coupons::get(&postgres.pool, fence.partition(), id).await?;
    let in_postgres = in_postgres.map_or(0, |row| row.definition.version);
    let why = if version == definition.version && !in_redis.differences(definition).is_empty() {
        Some(format!("Redis has another version {version} of coupon {id}"))
    } else {
        postgres_loss::newer_in_redis(id, version, in_postgres)
    };
    let Some(why) = why else { return Ok(()) };
    fence.report_postgres_loss(&session.epoch, &why);
    Err(StoreError::Fenced)
}

/// The publisher's task: once a second while the fence is up, publishes the definitions that are not published yet, and
/// refreshes the catalogue. Safe to drop at any moment: a publication is repeated until Postgres marks it as published.
pub async fn run(fence: Fence, postgres: Postgres, catalogue: Catalogue) {
    let mut ticks = tokio::time::interval(config::PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut states = fence.subscribe();
    let mut abandoned = AbandonedTakes::default();
    loop {
        ticks.tick().await;
        // An error means that the fence's task has ended with the program.
        if states.wait_for(|state| matches!(state, FenceState::Up(_))).await.is_err() {
            return;
        }
        let Ok(session) = fence.session() else { continue };
        let parts = (fence.clone(), postgres.clone());
        let repeat = async move { repeat(&parts.0, &session, &parts.1).await };
        if let Err(error) = postgres::with_timeout(config::PROBE_INTERVAL, repeat).await {
            tracing::debug!("publish: {error}");
        }
        catalogue.refresh_briefly(config::PROBE_INTERVAL / 2).await;
        if let Ok(session) = fence.session()
            && let Err(error) = abandoned.cancel(&fence, &session, &postgres, &catalogue).await
        {
            tracing::debug!("abandoned takes: {error}");
        }
    }
}

/// Publishes definitions that Postgres has not marked as published.
async fn repeat(fence: &Fence, session: &Session, postgres: &Postgres) -> Result<(), PostgresError> {
    let grace_seconds = config::FIRST_PUBLICATION_GRACE.as_secs_f64();
    for row in coupons::unpublished(&postgres.pool, fence.partition(), grace_seconds).await? {
        let id = &row.definition.id;
        match publish(fence, session, postgres, false, &row.definition).await {
            Ok(()) => {
                tracing::info!(coupon = %id, version = row.definition.version, "published coupon {id}, which an earlier attempt did not");
            }
            Err(error) => {
                tracing::warn!(coupon = %id, "publishing coupon {id} failed: {error}");
                break;
            }
        }
    }
    Ok(())
}
