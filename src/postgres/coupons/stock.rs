//! The stock of a coupon in Postgres, compared with its live orders and recounted from them. Where orders take and return
//! units, their own statements move the stock.

use serde_json::json;
use sqlx::PgConnection;

use crate::domain::{AuditAction, CouponId, Origin};
use crate::postgres::audit::{self, AuditEntry};
use crate::postgres::{Pool, PostgresError};

/// Whether a coupon's stock differs from its total less its live orders, in one snapshot.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn stock_drifts(pool: &Pool, id: &CouponId) -> Result<bool, PostgresError> {
    Ok(sqlx::query_scalar(
        "select stock <> total - (select count(*) from orders
            where coupon_id = $1 and status in ('reserved', 'confirmed')) from coupons where id = $1",
    )
    .bind(id.as_str())
    .fetch_one(pool)
    .await?)
}

/// Sets a coupon's stock to its total less its live orders, and records that in the audit log. `false` if the stock is
/// right already, or if there are more live orders than the total.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn recount_stock(pool: &Pool, id: &CouponId, origin: &Origin) -> Result<bool, PostgresError> {
    let mut transaction = pool.begin().await?;
    let before: Option<i64> =
        sqlx::query_scalar("select stock::bigint from coupons where id = $1 for no key update")
            .bind(id.as_str())
            .persistent(false)
            .fetch_optional(&mut *transaction)
            .await?;
    let after = recount_in(&mut transaction, id).await?;
    if after.is_some() {
        let stock = |stock: Option<i64>| Some(json!({ "stock": stock }));
        let (coupon, action) = (Some(id), AuditAction::Fix);
        let entry = AuditEntry { origin, action, coupon, order: None, old: stock(before), new: stock(after) };
        audit::record(&mut transaction, &entry).await?;
    }
    transaction.commit().await?;
    Ok(after.is_some())
}

/// The caller has locked the row in an earlier statement. Each transaction that changes orders also changes this row, so
/// an order that this statement does not see takes or returns its unit later. Returns the new stock, if it changed.
pub(super) async fn recount_in(
    connection: &mut PgConnection,
    id: &CouponId,
) -> Result<Option<i64>, PostgresError> {
    let recounted = sqlx::query_scalar(
        "update coupons c set stock = c.total - live.orders
         from (select count(*) as orders from orders
            where coupon_id = $1 and status in ('reserved', 'confirmed')) live
         where c.id = $1 and c.stock <> c.total - live.orders and live.orders <= c.total
         returning c.stock::bigint",
    );
    Ok(recounted.bind(id.as_str()).persistent(false).fetch_optional(connection).await?)
}
