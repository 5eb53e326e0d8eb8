//! What Postgres knows of one coupon's units, in one snapshot, and counts for lists of coupons.

use std::collections::HashMap;

use sqlx::{FromRow, PgTransaction, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::coupons::{self, CouponRow};
use super::{Pool, PostgresError};
use crate::config;
use crate::domain::{CouponId, OrderId};

/// A transaction that sees one snapshot of all tables.
pub struct Snapshot {
    transaction: PgTransaction<'static>,
}

/// The unit of an ended order that waits in the outbox.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct WaitingUnit {
    pub order_id: Uuid,
    pub user_id: String,
    pub slot: i16,
}

/// How many orders of a coupon have each status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct OrderCounts {
    pub reserved: i64,
    pub confirmed: i64,
    pub rejected: i64,
}

impl Snapshot {
    /// Begins a transaction; its first read takes the snapshot.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn begin(pool: &Pool) -> Result<Self, PostgresError> {
        let transaction =
            pool.current().begin_with("begin isolation level repeatable read read only").await?;
        Ok(Self { transaction })
    }

    /// The coupon's row; `None` if there is none.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn coupon(&mut self, id: &CouponId) -> Result<Option<CouponRow>, PostgresError> {
        coupons::get(&mut *self.transaction, id).await
    }

    /// Units of the coupon in the outbox, at most `RECEIPT_MAX_ASKED_UNITS`, and how many there are.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn outbox(&mut self, id: &CouponId) -> Result<(Vec<WaitingUnit>, i64), PostgresError> {
        let units = "select order_id::uuid, user_id::text, slot::smallint, count(*) over () as units
            from outbox where coupon_id = $1 order by order_id limit $2";
        let most = i64::try_from(config::RECEIPT_MAX_ASKED_UNITS).unwrap_or(i64::MAX);
        let rows = sqlx::query(units).bind(id.as_str()).bind(most).fetch_all(&mut *self.transaction).await?;
        let units = rows.first().map_or(Ok(0), |row| row.try_get("units"))?;
        let rows = rows.iter().map(WaitingUnit::from_row).collect::<Result<_, _>>()?;
        Ok((rows, units))
    }

    /// Counts all orders of the coupon.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn count(&mut self, id: &CouponId) -> Result<OrderCounts, PostgresError> {
        let count = "select count(*) filter (where status = 'reserved') as reserved,
                count(*) filter (where status = 'confirmed') as confirmed,
                count(*) filter (where status = 'rejected') as rejected
            from orders where coupon_id = $1";
        Ok(sqlx::query_as(count).bind(id.as_str()).fetch_one(&mut *self.transaction).await?)
    }

    /// Ends the transaction.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn end(self) -> Result<(), PostgresError> {
        Ok(self.transaction.rollback().await?)
    }
}

/// A recorded order that holds a unit.
#[derive(Clone, Debug, FromRow)]
pub struct Winner {
    pub id: Uuid,
    pub user_id: String,
    pub slot: i16,
    /// `reserved` or `confirmed`.
    pub status: String,
    pub claimed_at: OffsetDateTime,
    pub recorded_at: OffsetDateTime,
    pub reserved_until: Option<OffsetDateTime>,
    pub confirmed_at: Option<OffsetDateTime>,
}

/// One page of a coupon's live orders after `after`, oldest first.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn winners(
    pool: &Pool,
    coupon: &CouponId,
    after: Option<OrderId>,
    limit: i64,
) -> Result<Vec<Winner>, PostgresError> {
    let page = "select id::uuid, user_id::text, slot::smallint, status::text, claimed_at::timestamptz,
            recorded_at::timestamptz, case when reserved_until is not null
                then least(reserved_until::timestamptz, '9999-12-31 23:59:59+00') end as reserved_until,
            confirmed_at::timestamptz
        from orders where coupon_id = $1 and id > $2 and status in ('reserved', 'confirmed') order by id limit $3";
    let page = sqlx::query_as(page).bind(coupon.as_str()).bind(after.map_or(Uuid::nil(), |order| order.0));
    Ok(page.bind(limit).fetch_all(pool).await?)
}

/// The number of reserved orders of each coupon that has any. Reads one entry of an index for each of these orders: a
/// million take half a second.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn reserved_orders(pool: &Pool) -> Result<HashMap<String, i64>, PostgresError> {
    let mut transaction = pool.current().begin().await?;
    // The index has the orders in another order: sorting them would cost more than the count.
    sqlx::query("set local enable_sort = off").execute(&mut *transaction).await?;
    let count = "select coupon_id::text, count(*) from orders where status = 'reserved' group by coupon_id";
    let rows: Vec<(String, i64)> =
        sqlx::query_as(count).persistent(false).fetch_all(&mut *transaction).await?;
    transaction.rollback().await?;
    Ok(rows.into_iter().collect())
}

/// The number of units in the outbox of each coupon that has any.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn units_in_outbox(pool: &Pool) -> Result<HashMap<String, i64>, PostgresError> {
    let count = "select coupon_id::text, count(*) from outbox group by coupon_id";
    let rows: Vec<(String, i64)> = sqlx::query_as(count).fetch_all(pool).await?;
    Ok(rows.into_iter().collect())
}
