//! Checks whether a coupon's definition is in force: reads it back from Redis, field by field. Postgres owns definitions:
//! other content of the same version in Redis is replaced by a new version; a higher version in Redis is an edit that
//! Postgres has lost.

use super::publish::publish;
use crate::config;
use crate::domain::{CouponId, FieldDifference};
use crate::fence::{Fence, Session, StoreError, postgres_loss};
use crate::postgres::Postgres;
use crate::postgres::coupons::{self, CouponRow};
use crate::redis::Redis;
use crate::redis::coupon_hash::{self, CouponHash};

/// How the coupon in Redis compares with its row. The row was read first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    InForce,
    /// This version is not marked as published yet.
    Unpublished(Vec<FieldDifference>),
    /// Redis has a lower version, although this one is marked as published.
    Older(Vec<FieldDifference>),
    /// The same version with other content.
    Other(Vec<FieldDifference>),
    /// A higher version in Redis: the row is out of date, or Postgres has lost an edit.
    Newer(Vec<FieldDifference>),
    /// Redis has no such coupon.
    Absent,
}

impl Standing {
    #[must_use]
    pub fn of(row: &CouponRow, kept: Option<&CouponHash>) -> Self {
        let Some(kept) = kept else { return Self::Absent };
        let (published, version) = (row.published_version, row.definition.version);
        let differences = kept.differences(&row.definition);
        if kept.version() > version {
            Self::Newer(differences)
        } else if published < version {
            Self::Unpublished(differences)
        } else if kept.version() < version {
            Self::Older(differences)
        } else if published > version {
            // An operator has set `published_version` by hand: later versions would count as published too early.
            let postgres = format!("{published} of version {version}");
            Self::Other(vec![FieldDifference { field: "published_version", postgres, redis: None }])
        } else if differences.is_empty() {
            Self::InForce
        } else {
            Self::Other(differences)
        }
    }

    /// The fields that differ.
    #[must_use]
    pub fn differences(self) -> Vec<FieldDifference> {
        match self {
            Self::InForce | Self::Absent => Vec::new(),
            Self::Unpublished(fields) | Self::Older(fields) | Self::Other(fields) | Self::Newer(fields) => {
                fields
            }
        }
    }
}

/// Compares a coupon with its row, and reads both again while the row changes: only a row that is still the same can be
/// compared with a hash that was read later. Returns the row that was compared.
///
/// # Errors
/// If a store does not answer.
pub async fn stands(
    redis: &Redis,
    postgres: &Postgres,
    mut row: CouponRow,
    mut kept: Option<CouponHash>,
) -> Result<(CouponRow, Standing), StoreError> {
    for _ in 0..config::COUPON_COMPARE_MAX_TRIES {
        let standing = Standing::of(&row, kept.as_ref());
        if matches!(standing, Standing::InForce | Standing::Unpublished(_)) {
            return Ok((row, standing));
        }
        let again = coupons::get(&postgres.pool, row.partition, &row.definition.id).await?;
        let Some(again) = again else { break };
        if (&again.definition, again.published_version) == (&row.definition, row.published_version) {
            return Ok((row, standing));
        }
        kept = coupon_hash::read_one(redis, &again.definition.id).await?;
        row = again;
    }
    // Other requests keep editing the coupon, and each request publishes its own edit.
    Ok((row, Standing::Unpublished(Vec::new())))
}

/// The result of one step of `bring`.
#[derive(Debug)]
pub enum Outcome {
    /// Redis has the definition of this row in every field.
    InForce(Box<CouponRow>),
    /// Redis does not have the coupon yet: only the request that inserted the row may create it there.
    NotMade,
    /// One step is done, or another edit came in between: call `bring` again.
    Overtaken,
    /// Postgres does not know the coupon.
    Unknown,
}

/// Reads a coupon's definition back from Redis and, if it is not in force, does the next step towards it. The caller
/// repeats it until the result is `InForce`.
///
/// # Errors
/// If a store does not answer, the agreement has changed, or Postgres has lost an edit.
pub async fn bring(
    fence: &Fence,
    session: &Session,
    postgres: &Postgres,
    id: &CouponId,
) -> Result<Outcome, StoreError> {
    let row = coupons::get(&postgres.pool, fence.partition(), id).await?;
    let Some(row) = row else { return Ok(Outcome::Unknown) };
    let kept = read(fence, session, id).await?;
    match Standing::of(&row, kept.as_ref()) {
        Standing::InForce => return Ok(Outcome::InForce(Box::new(row))),
        Standing::Absent if row.published_version == 0 => return Ok(Outcome::NotMade),
        Standing::Absent => {
            fence.invalidate(&session.epoch, &format!("coupon {id} is gone from Redis"));
            return Err(StoreError::Fenced);
        }
        Standing::Newer(_) => check_lost_edit(fence, session, postgres, id).await?,
        Standing::Unpublished(_) | Standing::Older(_) => {
            publish(fence, session, postgres, false, &row.definition).await?;
        }
        Standing::Other(fields) => renew(fence, session, postgres, &row, &fields).await?,
    }
    Ok(Outcome::Overtaken)
}

/// Reads the hash; an error takes the fence down.
async fn read(fence: &Fence, session: &Session, id: &CouponId) -> Result<Option<CouponHash>, StoreError> {
    let read = coupon_hash::read_one(&session.redis, id).await;
    read.map_err(|error| {
        fence.redis_failed(&session.epoch, &error);
        StoreError::from(error)
    })
}

/// Gives Postgres's content a new version and publishes it.
async fn renew(
    fence: &Fence,
    session: &Session,
    postgres: &Postgres,
    row: &CouponRow,
    fields: &[FieldDifference],
) -> Result<(), StoreError> {
    let id = &row.definition.id;
    let total_differs = fields.iter().any(|differing| differing.field == "total");
    let renewed =
        coupons::renew(&postgres.pool, fence.partition(), id, row.definition.version, total_differs).await;
    let Some(renewed) = renewed? else { return Ok(()) };
    publish(fence, session, postgres, false, &renewed.definition).await?;
    let version = renewed.definition.version;
    tracing::warn!(
        coupon = %id, version,
        "coupon {id} was not in force as Postgres has it; it is now, as version {version}: {}",
        describe(fields)
    );
    Ok(())
}

/// Reads the row after the hash: if the row is then older than the hash, Postgres has lost an edit, and claims wait for
/// an operator.
async fn check_lost_edit(
    fence: &Fence,
    session: &Session,
    postgres: &Postgres,
    id: &CouponId,
) -> Result<(), StoreError> {
    let Some(kept) = read(fence, session, id).await? else { return Ok(()) };
    let row = coupons::get(&postgres.pool, fence.partition(), id).await?;
    let Some(row) = row else { return Ok(()) };
    let Some(why) = postgres_loss::newer_in_redis(id, kept.version(), row.definition.version) else {
        return Ok(());
    };
    fence.report_postgres_loss(&session.epoch, &why);
    Err(StoreError::Fenced)
}

/// Describes differences for a log or report: `total: 10 in Postgres, 110 in Redis; …`.
#[must_use]
pub fn describe(fields: &[FieldDifference]) -> String {
    let one = |FieldDifference { field, postgres, redis }: &FieldDifference| {
        format!("{field}: {postgres} in Postgres, {} in Redis", redis.as_deref().unwrap_or("nothing"))
    };
    fields.iter().map(one).collect::<Vec<_>>().join("; ")
}
