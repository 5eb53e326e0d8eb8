//! Table `outbox`: units that wait for their return to stock in Redis.

use std::collections::HashSet;

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use super::{Pool, PostgresError};
use crate::config;
use crate::domain::{CouponId, Epoch, OrderId, Partition};

/// One unit that is to return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    pub order: OrderId,
    pub coupon: CouponId,
    pub user: String,
    /// From 1 to the coupon's limit for each user.
    pub slot: i16,
    /// The version that the coupon must have in Redis before the unit returns; `None` for any version. At most the
    /// coupon's version in Postgres, because a rebuild after lost commits may have lowered that version.
    pub after_version: Option<i64>,
}

impl FromRow<'_, PgRow> for OutboxRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let coupon: String = row.try_get("coupon_id")?;
        let invalid = |error| sqlx::Error::Decode(format!("outbox.coupon_id {coupon:?}: {error}").into());
        Ok(Self {
            order: OrderId(row.try_get("order_id")?),
            coupon: coupon.parse().map_err(invalid)?,
            user: row.try_get("user_id")?,
            slot: row.try_get("slot")?,
            after_version: row.try_get("after_version")?,
        })
    }
}

/// One page of the partition's units that may return now: at most `OUTBOX_PAGE_ROWS`, ordered by order id, after the id `after`. Leaves
/// out a unit that waits for a version that Redis is not known to have.
///
/// # Errors
/// If Postgres cannot serve, or a row has a coupon id that is not valid.
pub async fn page(
    pool: &Pool,
    partition: Partition,
    after: Option<OrderId>,
) -> Result<Vec<OutboxRow>, PostgresError> {
    let rows = sqlx::query_as(
        "select o.order_id::uuid, o.coupon_id::text, o.user_id::text, o.slot::smallint,
            least(o.after_version, c.version)::bigint as after_version
         from outbox o left join coupons c on o.after_version is not null and c.id = o.coupon_id
         where o.order_id > $1 and o.partition = $3
            and (o.after_version is null or least(o.after_version, c.version) <= c.published_version)
         order by o.order_id limit $2",
    )
    .bind(after.map_or(Uuid::nil(), |order| order.0))
    .bind(i64::try_from(config::OUTBOX_PAGE_ROWS).unwrap_or(i64::MAX))
    .bind(partition.number());
    Ok(rows.fetch_all(pool).await?)
}

/// The units of the given orders, as far as the orders have ended. An order needs no outbox row.
///
/// # Errors
/// If Postgres cannot serve, or a row has a coupon id that is not valid.
pub async fn units_of_ended(pool: &Pool, orders: &[OrderId]) -> Result<Vec<OutboxRow>, PostgresError> {
    let ids: Vec<Uuid> = orders.iter().map(|order| order.0).collect();
    let rows = sqlx::query_as(
        "select o.id::uuid as order_id, o.coupon_id::text, o.user_id::text, o.slot::smallint,
            least(w.after_version, c.version)::bigint as after_version
         from orders o left join outbox w on w.order_id = o.id
            left join coupons c on w.after_version is not null and c.id = w.coupon_id
         where o.id = any($1) and o.status not in ('reserved', 'confirmed')",
    )
    .bind(ids);
    Ok(rows.fetch_all(pool).await?)
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

/// Deletes the rows of these orders, after Redis has decided about their units in this epoch. In a later epoch an order that
/// had lost its end may have ended again: its row is another one.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn remove(pool: &Pool, epoch: &Epoch, orders: &[OrderId]) -> Result<(), PostgresError> {
    if orders.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = orders.iter().map(|order| order.0).collect();
    let delete = "delete from outbox where order_id = any($1)
        and exists (select from fence where partition = $2 and epoch = $3)";
    let (partition, epoch) = (epoch.partition.number(), epoch.as_str());
    sqlx::query(delete).bind(ids).bind(partition).bind(epoch).execute(pool).await?;
    Ok(())
}
