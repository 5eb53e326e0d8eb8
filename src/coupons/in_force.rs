//! Whether a coupon's definition is in force: read back from Redis field by field, never concluded from what was
//! published before. Postgres owns definitions, so that another content of the same version in Redis is replaced by
//! a new version of Postgres's; a higher version in Redis is an edit that Postgres has lost.

use super::publish::publish;
use crate::config;
use crate::domain::{CouponId, FieldDifference};
use crate::fence::{Fence, Session, StoreError, postgres_loss};
use crate::postgres::Postgres;
use crate::postgres::coupons::{self, CouponRow};
use crate::redis::Redis;
use crate::redis::coupon_hash::{self, KeptDefinition};

/// What Redis has of a coupon, beside the row as it was read before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    InForce,
    /// Postgres knows that Redis has not had this version yet.
    Unpublished(Vec<FieldDifference>),
    /// Redis has a lower version, though it is noted that it had this one.
    Older(Vec<FieldDifference>),
    /// The same version, and another content.
    Other(Vec<FieldDifference>),
    /// A higher version than Postgres's: the row is out of date, or Postgres has lost an edit.
    Newer(Vec<FieldDifference>),
    /// Redis has no such coupon.
    Absent,
}

impl Standing {
    #[must_use]
    pub fn of(row: &CouponRow, kept: Option<&KeptDefinition>) -> Self {
        let Some(kept) = kept else { return Self::Absent };
        let (noted, version) = (row.published_version, row.definition.version);
        let differences = kept.differences(&row.definition);
        if kept.version() > version {
            Self::Newer(differences)
        } else if noted < version {
            Self::Unpublished(differences)
        } else if kept.version() < version {
            Self::Older(differences)
        } else if noted > version {
            // Noted by hand: later versions would count as published before they are.
            let postgres = format!("{noted} of version {version}");
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

/// Where a coupon stands, and the row of which that is so: a row that has changed since it was read says nothing about
/// the hash that was read after it.
pub async fn stands(
    redis: &Redis,
    postgres: &Postgres,
    mut row: CouponRow,
    mut kept: Option<KeptDefinition>,
) -> Result<(CouponRow, Standing), StoreError> {
    for _ in 0..config::COUPON_COMPARE_MAX_TRIES {
        let standing = Standing::of(&row, kept.as_ref());
        if matches!(standing, Standing::InForce | Standing::Unpublished(_)) {
            return Ok((row, standing));
        }
        let Some(again) = coupons::get(&postgres.pool, &row.definition.id).await? else { break };
        if (&again.definition, again.published_version) == (&row.definition, row.published_version) {
            return Ok((row, standing));
        }
        kept = coupon_hash::read_one(redis, &again.definition.id).await?;
        row = again;
    }
    // Edited all the time, and each edit is published by who made it.
    Ok((row, Standing::Unpublished(Vec::new())))
}

/// What became of bringing a coupon into force.
#[derive(Debug)]
pub enum Outcome {
    /// Redis has this row's definition, in every field.
    InForce(Box<CouponRow>),
    /// Only the request that inserted it may make it in Redis.
    NotMade,
    /// Another edit came between: look again.
    Overtaken,
    /// Postgres does not know it.
    Unknown,
}

/// Reads a coupon's definition back from Redis, and where it is not in force does the one thing that helps: once
/// more until the answer is `InForce` brings it into force.
pub async fn bring(
    fence: &Fence,
    session: &Session,
    postgres: &Postgres,
    id: &CouponId,
) -> Result<Outcome, StoreError> {
    let Some(row) = coupons::get(&postgres.pool, id).await? else { return Ok(Outcome::Unknown) };
    let kept = read(fence, session, id).await?;
    match Standing::of(&row, kept.as_ref()) {
        Standing::InForce => return Ok(Outcome::InForce(Box::new(row))),
        Standing::Absent if row.published_version == 0 => return Ok(Outcome::NotMade),
        Standing::Absent => {
            fence.lost(&session.epoch, &format!("coupon {id} is gone from Redis"));
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

/// The hash as it stands; what it shows to be lost takes the fence down.
async fn read(fence: &Fence, session: &Session, id: &CouponId) -> Result<Option<KeptDefinition>, StoreError> {
    let read = coupon_hash::read_one(&session.redis, id).await;
    read.map_err(|error| {
        fence.redis_failed(&session.epoch, &error);
        StoreError::from(error)
    })
}

/// Gives the content that Postgres has a new version and publishes that.
async fn renew(
    fence: &Fence,
    session: &Session,
    postgres: &Postgres,
    row: &CouponRow,
    fields: &[FieldDifference],
) -> Result<(), StoreError> {
    let id = &row.definition.id;
    let total_differs = fields.iter().any(|differing| differing.field == "total");
    let renewed = coupons::renew(&postgres.pool, id, row.definition.version, total_differs).await;
    let Some(renewed) = renewed? else { return Ok(()) };
    publish(fence, session, postgres, false, &renewed.definition).await?;
    let version = renewed.definition.version;
    tracing::warn!(
        coupon = %id, version,
        "coupon {id} was not in force as Postgres has it, and is as version {version} now: {}",
        told(fields)
    );
    Ok(())
}

/// A row that is read after the hash is never older than the hash, unless Postgres has lost an edit: then claims wait
/// for a person.
async fn check_lost_edit(
    fence: &Fence,
    session: &Session,
    postgres: &Postgres,
    id: &CouponId,
) -> Result<(), StoreError> {
    let Some(kept) = read(fence, session, id).await? else { return Ok(()) };
    let Some(row) = coupons::get(&postgres.pool, id).await? else { return Ok(()) };
    let Some(why) = postgres_loss::newer_in_redis(id, kept.version(), row.definition.version) else {
        return Ok(());
    };
    fence.postgres_lost_commits(&session.epoch, &why);
    Err(StoreError::Fenced)
}

/// `total: 10 in Postgres, 110 in Redis; …`
#[must_use]
pub fn told(fields: &[FieldDifference]) -> String {
    let told = |FieldDifference { field, postgres, redis }: &FieldDifference| {
        format!("{field}: {postgres} in Postgres, {} in Redis", redis.as_deref().unwrap_or("nothing"))
    };
    fields.iter().map(told).collect::<Vec<_>>().join("; ")
}
