//! One coupon's definition: whether it is in force in Redis, and its repair. The cost does not grow with claims.

use crate::config;
use crate::coupons::in_force::{self, Outcome, Standing};
use crate::domain::{CouponId, FieldDifference};
use crate::fence::{Fence, Session, StoreError};
use crate::postgres::Postgres;
use crate::postgres::coupons::CouponRow;
use crate::redis::coupon_hash::CouponHash;

/// The result of a repair.
pub enum Repair {
    Done,
    /// Postgres no longer has the coupon, the request that created it has not published it yet, or other requests keep
    /// editing it.
    NotNeeded,
    /// The fence was taken down.
    Fenced,
}

/// The fields that differ between a row and Redis's hash, which was read after the row; `None` if the definition is in
/// force, or if its edit is not published yet.
///
/// # Errors
/// If a store does not answer.
pub async fn difference(
    session: &Session,
    postgres: &Postgres,
    row: &CouponRow,
    kept: Option<CouponHash>,
) -> Result<Option<Vec<FieldDifference>>, StoreError> {
    let (_, standing) = in_force::stands(&session.redis, postgres, row.clone(), kept).await?;
    let is_normal = matches!(standing, Standing::InForce | Standing::Unpublished(_));
    Ok((!is_normal).then(|| standing.differences()))
}

/// Brings Postgres's definition into force.
///
/// # Errors
/// If a store does not answer.
pub async fn repair(
    fence: &Fence,
    session: &Session,
    postgres: &Postgres,
    id: &CouponId,
) -> Result<Repair, StoreError> {
    for _ in 0..config::DEFINITION_REPAIR_MAX_TRIES {
        match in_force::bring(fence, session, postgres, id).await {
            Ok(Outcome::InForce(_)) => return Ok(Repair::Done),
            Ok(Outcome::Overtaken) => {}
            Ok(Outcome::NotMade | Outcome::Unknown) => return Ok(Repair::NotNeeded),
            Err(StoreError::Fenced) => return Ok(Repair::Fenced),
            Err(error) => return Err(error),
        }
    }
    Ok(Repair::NotNeeded)
}
