//! Creates, edits and reads coupons. Postgres owns a definition; a coupon is returned as created or edited only when
//! Redis has its definition in every field. `publish` brings a definition to Redis, `in_force` reads it back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::catalogue::Catalogue;
use super::held_units::{Counted, Counts, HeldUnits};
use super::in_force::{self, Outcome};
use super::publish::publish;
use super::snapshots::Snapshots;
use crate::config;
use crate::domain::{
    ClaimDurability, CouponId, CouponPatch, CouponSnapshot, Definition, FieldDifference, InvalidDefinition,
    NewCoupon, Origin, Partition,
};
use crate::fence::{Fence, StoreError};
use crate::postgres::coupons::{self, CouponRow, Edited};
use crate::postgres::{Postgres, PostgresError};
use crate::redis::coupon_hash::{self, CouponHash};
use crate::redis::health::{self, Durability};
use crate::redis::{Redis, RedisError, claims_hash};

/// Creates, edits and reads coupons. A cheap handle.
#[derive(Clone)]
pub struct Coupons {
    fence: Fence,
    postgres: Postgres,
    catalogue: Catalogue,
    snapshots: Snapshots,
    counts: Counts,
    /// Wakes the task that gives units in stock to users in line.
    stock_came: Arc<Notify>,
    /// The least that must have a claim when it is answered: the least durability of a coupon that names none.
    answer_after: ClaimDurability,
}

/// The versions that an edit may start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedVersion {
    Any,
    OneOf(Vec<i64>),
}

/// A coupon as the admin sees it: the definition from Postgres, the stock and the state from Redis.
#[derive(Clone, Debug)]
pub struct AdminCoupon {
    pub snapshot: CouponSnapshot,
    pub definition: Definition,
    /// The partitions that have a share of the coupon.
    pub shares: Vec<Share>,
    pub units: HeldUnits,
    /// Fields that differ between Redis and Postgres: an edit that is not published yet, or an edit by hand.
    pub not_in_force: Vec<FieldDifference>,
}

/// What one partition has of a coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub partition: Partition,
    pub total: i64,
    /// Units left, at least 0.
    pub stock: i64,
}

impl AdminCoupon {
    /// The coupon as a whole, from two of its shares. The definition stays that of the first.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.snapshot = CouponSnapshot::merge(&self.snapshot, &other.snapshot);
        self.shares.extend(other.shares);
        self.units = self.units.add(other.units);
        self.not_in_force.extend(other.not_in_force);
        self
    }
}

/// The result of a request to create a coupon.
#[derive(Clone, Debug)]
pub enum Created {
    New(AdminCoupon),
    /// The same coupon exists already.
    Same(AdminCoupon),
}

#[derive(Debug, thiserror::Error)]
pub enum CouponError {
    #[error(transparent)]
    Invalid(#[from] InvalidDefinition),
    #[error("there is no coupon {0}")]
    Unknown(CouponId),
    #[error("another coupon {0} exists: edit it with PATCH, or choose another id")]
    Exists(CouponId),
    /// The coupon is at this version.
    #[error("the coupon is at \"v{0}\" now: read it again")]
    Stale(i64),
    #[error("{held} units of coupon {coupon} are held already")]
    TotalTooLow { coupon: CouponId, held: i64 },
    #[error(
        "{spread} shares need as many partitions, and there are {found}: set SECKILL_PARTITIONS={spread}, or lower spread"
    )]
    TooFewPartitions { spread: usize, found: usize },
    #[error("others are editing this coupon: send the edit again")]
    Contended,
    /// The definition is in Postgres and not yet in Redis. The program publishes it later by itself.
    #[error("saved, but not in force yet: send it again")]
    NotInForce,
    /// As `NotInForce`, with the reason.
    #[error("saved, but not in force yet ({0}): send it again")]
    NotPublished(#[source] StoreError),
    #[error("coupon {0} is not in force yet: ask again in a moment")]
    NotInRedis(CouponId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PostgresError> for CouponError {
    fn from(error: PostgresError) -> Self {
        Self::Store(error.into())
    }
}

impl From<RedisError> for CouponError {
    fn from(error: RedisError) -> Self {
        Self::Store(error.into())
    }
}

impl Coupons {
    #[must_use]
    pub fn new(
        fence: Fence,
        postgres: Postgres,
        catalogue: Catalogue,
        snapshots: Snapshots,
        stock_came: Arc<Notify>,
        answer_after: ClaimDurability,
    ) -> Self {
        let counts = Counts::new(postgres.clone(), fence.partition());
        Self { fence, postgres, catalogue, snapshots, counts, stock_came, answer_after }
    }

    /// Creates a coupon and returns when it is in force.
    ///
    /// # Errors
    /// Where the definition breaks a limit, another coupon of that id exists, or it is saved and not in force in time.
    pub async fn create(&self, new: NewCoupon, origin: &Origin) -> Result<Created, CouponError> {
        let named = new.durability;
        let mut definition = new.define()?;
        definition.durability = self.durability_of_new(named).await?;
        let is_new =
            coupons::insert(&self.postgres.pool, &definition, self.fence.partition(), origin).await?;
        if is_new {
            self.publish_new(&definition).await?;
            self.catalogue.refresh_briefly(Duration::ZERO).await;
            tracing::info!(
                coupon = %definition.id,
                total = definition.total,
                "created coupon {}", definition.id
            );
        } else {
            let row = coupons::get(&self.postgres.pool, self.fence.partition(), &definition.id).await?;
            if !row.as_ref().is_some_and(|row| is_same(&row.definition, &definition, named)) {
                return Err(CouponError::Exists(definition.id));
            }
            // Another request has created it at the same time; a repeat finds its partition.
            if row.is_some_and(|row| row.partition != self.fence.partition()) {
                return Err(CouponError::Contended);
            }
        }
        let coupon = self.view_in_force(&definition.id).await?;
        Ok(if is_new { Created::New(coupon) } else { Created::Same(coupon) })
    }

    /// The durability of a new coupon, for which the request names this one or none.
    ///
    /// # Errors
    /// If the fence is down, or Redis does not answer.
    pub async fn durability_of_new(
        &self,
        named: Option<ClaimDurability>,
    ) -> Result<ClaimDurability, CouponError> {
        let session = self.fence.require_session()?;
        match named {
            Some(named) => Ok(named),
            None => Ok(default_durability(&session.redis).await?.max(self.answer_after)),
        }
    }

    /// Publishes a coupon that this request has inserted.
    ///
    /// # Errors
    /// If the coupon is not in force: the program publishes it later by itself.
    pub async fn publish_new(&self, definition: &Definition) -> Result<(), CouponError> {
        let session = self.fence.require_session()?;
        let published = publish(&self.fence, &session, &self.postgres, true, definition).await;
        published.map_err(CouponError::NotPublished)
    }

    /// Edits a coupon and returns when the edit is in force. An edit that changes nothing makes no new version.
    ///
    /// # Errors
    /// If the result breaks a limit, the coupon is at another version than expected, its new total is below the units
    /// that are held, or the edit is saved but not in force in time.
    pub async fn edit(
        &self,
        id: &CouponId,
        patch: &CouponPatch,
        expected: &ExpectedVersion,
        origin: &Origin,
    ) -> Result<AdminCoupon, CouponError> {
        let deadline = Instant::now() + config::COUPON_EDIT_TIMEOUT;
        while Instant::now() < deadline {
            let row = self.row(id).await?;
            expected.check(row.definition.version)?;
            let edited = patch.apply(&row.definition)?;
            if edited == row.definition {
                return self.view_in_force(id).await;
            }
            // Only the request that inserted the coupon may create it in Redis. Until then there is nothing to edit.
            if row.published_version == 0 {
                self.wait_until_in_force(id).await?;
                continue;
            }
            let session = self.fence.require_session()?;
            // Some claims have no order row yet: this checks Redis first, then Postgres checks its rows.
            let held = claims_hash::held_units(&session.redis, id).await?;
            if edited.total < row.definition.total && edited.total < held {
                return Err(CouponError::TotalTooLow { coupon: id.clone(), held });
            }
            match coupons::edit(&self.postgres.pool, &row.definition, &edited, origin).await? {
                Edited::Done => {
                    let edited = Definition { version: edited.version + 1, ..edited };
                    let published = publish(&self.fence, &session, &self.postgres, false, &edited).await;
                    published.map_err(CouponError::NotPublished)?;
                    self.stock_came.notify_one();
                    tracing::info!(coupon = %id, version = edited.version, "edited coupon {id}");
                    return self.view_in_force(id).await;
                }
                Edited::TotalTooLow => {
                    let held = row.definition.total - row.stock;
                    return Err(CouponError::TotalTooLow { coupon: id.clone(), held });
                }
                Edited::Stale => {}
            }
        }
        Err(CouponError::Contended)
    }

    /// A coupon as it is now, in force or not.
    ///
    /// # Errors
    /// If there is none, or a store does not answer.
    pub async fn get(&self, id: &CouponId) -> Result<AdminCoupon, CouponError> {
        let row = self.row(id).await?;
        self.view_row(row).await
    }

    /// The coupons of these rows. An id comes without a coupon if Redis does not have the coupon yet.
    ///
    /// # Errors
    /// If a store does not answer.
    pub async fn view_rows(
        &self,
        rows: Vec<CouponRow>,
    ) -> Result<Vec<(CouponId, Option<AdminCoupon>)>, CouponError> {
        let session = self.fence.require_session()?;
        let ids: Vec<CouponId> = rows.iter().map(|row| row.definition.id.clone()).collect();
        let kept = coupon_hash::read(&session.redis, &ids).await?;
        let counted = self.counts.read().await?;
        let mut page = Vec::with_capacity(rows.len());
        for ((id, row), kept) in ids.into_iter().zip(rows).zip(kept) {
            page.push((id, self.view(row, &counted, kept).await?));
        }
        Ok(page)
    }

    async fn row(&self, id: &CouponId) -> Result<CouponRow, CouponError> {
        let row = coupons::get(&self.postgres.pool, self.fence.partition(), id).await?;
        row.ok_or_else(|| CouponError::Unknown(id.clone()))
    }

    /// Waits until Redis has the definition in every field, also if another request made this version.
    async fn wait_until_in_force(&self, id: &CouponId) -> Result<CouponRow, CouponError> {
        let deadline = Instant::now() + config::COUPON_IN_FORCE_TIMEOUT;
        while Instant::now() < deadline {
            let session = self.fence.require_session()?;
            let outcome = in_force::bring(&self.fence, &session, &self.postgres, id).await;
            match outcome.map_err(CouponError::NotPublished)? {
                Outcome::InForce(row) => return Ok(*row),
                Outcome::Unknown => return Err(CouponError::Unknown(id.clone())),
                Outcome::NotMade => tokio::time::sleep(config::COUPON_IN_FORCE_POLL).await,
                Outcome::Overtaken => {}
            }
        }
        Err(CouponError::NotInForce)
    }

    /// The coupon, when Redis has its definition in every field.
    ///
    /// # Errors
    /// If it is not in force in time, or a store does not answer.
    pub async fn view_in_force(&self, id: &CouponId) -> Result<AdminCoupon, CouponError> {
        let row = self.wait_until_in_force(id).await?;
        self.view_row(row).await
    }

    async fn view_row(&self, row: CouponRow) -> Result<AdminCoupon, CouponError> {
        let id = row.definition.id.clone();
        let session = self.fence.require_session()?;
        let counted = self.counts.read().await?;
        let kept = coupon_hash::read_one(&session.redis, &id).await?;
        self.view(row, &counted, kept).await?.ok_or(CouponError::NotInRedis(id))
    }

    /// `kept` was read after `row`.
    async fn view(
        &self,
        row: CouponRow,
        counted: &Counted,
        kept: Option<CouponHash>,
    ) -> Result<Option<AdminCoupon>, CouponError> {
        let session = self.fence.require_session()?;
        let units = counted.of(&row, kept.as_ref().and_then(CouponHash::held).unwrap_or(0));
        let (row, standing) = in_force::stands(&session.redis, &self.postgres, row, kept).await?;
        let snapshot = self.snapshots.read(&row.definition.id).await?;
        Ok(snapshot.map(|snapshot| AdminCoupon {
            shares: vec![Share {
                partition: row.partition,
                total: row.definition.total,
                stock: snapshot.stock,
            }],
            snapshot: (*snapshot).clone(),
            definition: row.definition,
            units,
            not_in_force: standing.differences(),
        }))
    }
}

impl ExpectedVersion {
    /// # Errors
    /// If the coupon is at another version.
    pub fn check(&self, version: i64) -> Result<(), CouponError> {
        match self {
            Self::OneOf(versions) if !versions.contains(&version) => Err(CouponError::Stale(version)),
            Self::Any | Self::OneOf(_) => Ok(()),
        }
    }
}

/// Whether the request describes the existing coupon, in any version. Compares the durability only if the request names
/// one, because the default may have changed since the coupon was created.
fn is_same(row: &Definition, asked: &Definition, named: Option<ClaimDurability>) -> bool {
    let durability = named.unwrap_or(row.durability);
    Definition { version: row.version, durability, ..asked.clone() } == *row
}

/// The default durability of a new coupon: `redis` if Redis is known to write each claim to disk before it answers.
/// Otherwise `postgres`.
async fn default_durability(redis: &Redis) -> Result<ClaimDurability, RedisError> {
    Ok(match health::durability(redis).await? {
        Durability::Always => ClaimDurability::Redis,
        Durability::Weaker(_) | Durability::Unreadable => ClaimDurability::Postgres,
    })
}
