//! Table `outbox`: units that wait for their return to stock in Redis.

use std::collections::HashSet;

use sqlx::Row;
use uuid::Uuid;

use super::{Pool, PostgresError};
use crate::domain::{CouponId, OrderId};

/// One unit that waits for its return.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    pub order: OrderId,
    pub coupon: CouponId,
    pub user: String,
    /// From 1 to the coupon's limit for each user.
    pub slot: i16,
}

/// At most 1,000 rows, oldest first.
///
/// # Errors
/// If Postgres cannot serve, or a row has a coupon id that is not valid.
pub async fn oldest(pool: &Pool) -> Result<Vec<OutboxRow>, PostgresError> {
    let rows = sqlx::query(
        "select order_id::uuid, coupon_id::text, user_id::text, slot::smallint from outbox
         order by created_at, order_id limit 1000",
    )
    .fetch_all(pool)
    .await?;
    let mut outbox = Vec::with_capacity(rows.len());
    for row in rows {
        let coupon: String = row.try_get("coupon_id")?;
        outbox.push(OutboxRow {
            order: OrderId(row.try_get("order_id")?),
            coupon: coupon
                .parse()
                .map_err(|e| PostgresError::Statement(format!("outbox.coupon_id {coupon:?}: {e}")))?,
            user: row.try_get("user_id")?,
            slot: row.try_get("slot")?,
        });
    }
    Ok(outbox)
}

/// The number of rows.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn count(pool: &Pool) -> Result<u64, PostgresError> {
    let rows: i64 = sqlx::query_scalar("select count(*) from outbox").fetch_one(pool).await?;
    Ok(u64::try_from(rows).unwrap_or(0))
}

/// Those of the given orders that have a row.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn waiting(pool: &Pool, orders: &[OrderId]) -> Result<HashSet<OrderId>, PostgresError> {
    if orders.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<Uuid> = orders.iter().map(|order| order.0).collect();
    let rows: Vec<Uuid> = sqlx::query_scalar("select order_id::uuid from outbox where order_id = any($1)")
        .bind(ids)
        .fetch_all(pool)
        .await?;
    Ok(rows.into_iter().map(OrderId).collect())
}

/// Deletes a row after Redis has decided about its unit.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn remove(pool: &Pool, order: OrderId) -> Result<(), PostgresError> {
    sqlx::query("delete from outbox where order_id = $1").bind(order.0).execute(pool).await?;
    Ok(())
}
