//! Compares a coupon's stock in Postgres with its live orders, and recounts it from them. The statements that record
//! and end orders change the stock themselves.

use serde_json::json;
use sqlx::PgConnection;

use crate::domain::{AuditAction, CouponId, Origin};
use crate::postgres::audit::{self, AuditEntry};
use crate::postgres::{Pool, PostgresError};

/// Whether a coupon's stock differs from its total minus its live orders, read in one snapshot.
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

/// Sets a coupon's stock to its total minus its live orders, and records the change in the audit log. `false` if the
/// stock is right already, or if there are more live orders than the total.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn recount_stock(pool: &Pool, id: &CouponId, origin: &Origin) -> Result<bool, PostgresError> {
    let mut transaction = pool.current().begin().await?;
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

/// Returns the new stock, if it changed. The caller has locked the row in an earlier statement. Each transaction that
/// changes the number of live orders also updates this row: if this statement does not see its orders, it updates the
/// stock after this transaction.
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
