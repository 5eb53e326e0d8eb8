//! Rule 6: a coupon's definition reaches Redis as a difference, over a lower version only, and is
//! repeated until Redis has Postgres's version. Whether Redis has it is in `in_force`.

pub mod in_force;

use super::position::{self, EffectError};
use super::{Fence, Session, lost};
use crate::model::Definition;
use crate::postgres::{Postgres, coupons};
use crate::redis::rebuild as redis_rebuild;
use crate::redis::script::{self, Published};

/// How long a first publication is left to the request that inserted the coupon.
const FIRST_PUBLICATION_GRACE_SECONDS: f64 = 2.0;

/// The definition is saved, but not in force yet.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct PublishError(#[from] pub EffectError);

/// Brings one definition into force and notes it in Postgres. `just_inserted` only from the request
/// that inserted the row: it alone may make the hash, and it tries once.
pub async fn publish(
    fence: &Fence,
    session: &Session,
    postgres: &Postgres,
    just_inserted: bool,
    definition: &Definition,
) -> Result<(), PublishError> {
    position::note(fence, session, postgres).await?;
    match script::publish(&session.redis, &session.ready, just_inserted, definition).await {
        Ok(Published::Applied) => {}
        Ok(Published::Current) => check_current(fence, session, postgres, definition).await?,
        Ok(Published::Fenced) => {
            fence.marker_changed(session);
            return Err(EffectError::Fenced.into());
        }
        Ok(Published::Lost) => {
            fence.lost(&session.epoch, &format!("coupon {} is not in Redis as it should be", definition.id));
            return Err(EffectError::Fenced.into());
        }
        Err(error) => {
            fence.redis_failed(&session.epoch, &error);
            return Err(EffectError::from(error).into());
        }
    }
    let Definition { id, version, .. } = definition;
    coupons::mark_published(&postgres.pool, &session.epoch, vec![id.as_str()], vec![*version])
        .await
        .map_err(EffectError::from)?;
    Ok(())
}

/// Redis had this version or a higher one: another publication has brought it, or Postgres has lost the edit that made
/// it, and made another of the same version since.
async fn check_current(
    fence: &Fence,
    session: &Session,
    postgres: &Postgres,
    definition: &Definition,
) -> Result<(), EffectError> {
    let id = &definition.id;
    let in_redis = redis_rebuild::coupon_hash(&session.redis, id).await?;
    let version = in_redis.get("version").and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    // Redis first: an edit reaches Postgres before it.
    let in_postgres = coupons::get(&postgres.pool, id).await?.map_or(0, |row| row.definition.version);
    let why = if version == definition.version && !redis_rebuild::is_defined_as(&in_redis, definition) {
        Some(format!("Redis has another version {version} of coupon {id}"))
    } else {
        lost::newer_in_redis(id, version, in_postgres)
    };
    let Some(why) = why else { return Ok(()) };
    fence.lost_by_postgres(&session.epoch, &why);
    Err(EffectError::Fenced)
}

/// Publishes what an earlier attempt could not.
pub(super) async fn repeat(fence: &Fence, session: &Session, postgres: &Postgres) {
    let rows = match coupons::unpublished(&postgres.pool, FIRST_PUBLICATION_GRACE_SECONDS).await {
        Ok(rows) => rows,
        Err(error) => return tracing::debug!("publish: {error}"),
    };
    for row in rows {
        let id = &row.definition.id;
        match publish(fence, session, postgres, false, &row.definition).await {
            Ok(()) => {
                tracing::info!(coupon = %id, version = row.definition.version, "published coupon {id} at last");
            }
            Err(error) => return tracing::warn!(coupon = %id, "publishing coupon {id} failed: {error}"),
        }
    }
}
