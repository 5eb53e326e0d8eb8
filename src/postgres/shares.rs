//! Statements on the shares of a coupon: a move of units, and an edit of the whole.

use sqlx::Row;

use super::audit::{self, AuditEntry};
use super::coupons::Edited;
use super::{Pool, PostgresError, fence};
use crate::domain::{CouponId, Definition, Epoch, Origin, Partition};

const MOVE: &str = include_str!("../../sql/queries/move_share.sql");
const EDIT: &str = include_str!("../../sql/queries/edit_share.sql");

/// Units that a share in Redis has lost by a take.
#[derive(Clone, Debug)]
pub struct Take {
    /// The epoch in which the units were taken, of the partition that gives them.
    pub epoch: Epoch,
    /// The version of the share that gave them.
    pub version: i64,
    pub units: i64,
}

/// Gives the units of a take to the share of another partition; `false` if the take no longer counts.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn commit_move(
    pool: &Pool,
    coupon: &CouponId,
    take: &Take,
    to: Partition,
) -> Result<bool, PostgresError> {
    let mut transaction = pool.current().begin().await?;
    fence::lock_shared(&mut transaction, take.epoch.partition).await?;
    let row = sqlx::query(MOVE)
        .bind(take.epoch.partition.number())
        .bind(take.epoch.as_str())
        .bind(coupon.as_str())
        .bind(take.version)
        .bind(to.number())
        .bind(take.units)
        .fetch_one(&mut *transaction)
        .await?;
    let is_moved: bool = row.try_get("moved")?;
    transaction.commit().await?;
    Ok(is_moved)
}

/// One share's part of an edit.
#[derive(Clone, Debug)]
pub struct ShareEdit {
    pub partition: Partition,
    /// The share's definition before the edit.
    pub old: Definition,
    /// Its definition after the edit, in the version before.
    pub edited: Definition,
    /// The epoch in which units were taken that the lower total lacks.
    pub taken_in: Option<Epoch>,
}

/// Edits all shares of a coupon in one transaction, and records the edit of the whole in the audit log.
///
/// # Errors
/// If Postgres cannot serve, or refuses a row for another reason than its stock.
pub async fn edit(
    pool: &Pool,
    shares: &[ShareEdit],
    (old, edited): (&Definition, &Definition),
    origin: &Origin,
) -> Result<Edited, PostgresError> {
    let mut transaction = pool.current().begin().await?;
    for share in shares.iter().filter(|share| share.taken_in.is_some()) {
        fence::lock_shared(&mut transaction, share.partition).await?;
    }
    // In the order of the partitions, as all transactions take row locks.
    for ShareEdit { partition, old, edited, taken_in } in shares {
        let result = sqlx::query(EDIT)
            .bind(old.id.as_str())
            .bind(partition.number())
            .bind(old.version)
            .bind(&edited.title)
            .bind(edited.total)
            .bind(edited.starts_at)
            .bind(edited.ends_at)
            .bind(edited.paused)
            .bind(edited.spread.map(|spread| spread.whole))
            .bind(taken_in.as_ref().map(Epoch::as_str))
            .persistent(false)
            .execute(&mut *transaction)
            .await;
        match result {
            Ok(done) if done.rows_affected() == 1 => {}
            Ok(_) => return Ok(Edited::Stale),
            Err(sqlx::Error::Database(error)) if error.constraint() == Some("coupons_stock_range") => {
                return Ok(Edited::TotalTooLow);
            }
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(entry) = AuditEntry::of_edit(origin, old, edited) {
        audit::record(&mut transaction, &entry).await?;
    }
    transaction.commit().await?;
    Ok(Edited::Done)
}
