//! What Postgres knows of the whole sale, to compare with the log of Redis: every coupon with the values that its
//! definition has had, and every live order.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use super::coupons::{self, CouponRow};
use super::{Pool, PostgresError, fence, orders};
use crate::config;
use crate::domain::{CouponId, Epoch, IdempotencyKey, OrderId, Partition, UserId};

/// A coupon, and the values of its fields that the audit log has.
#[derive(Clone, Debug)]
pub struct KnownCoupon {
    pub row: CouponRow,
    /// Names and values of all fields, as the API shows them, in all versions.
    values: Vec<(String, Value)>,
    /// Whether the audit log goes back to the creation of the coupon.
    is_complete: bool,
}

impl KnownCoupon {
    /// Whether an admin may have set the field to this value.
    #[must_use]
    pub fn may_have(&self, field: &str, value: &Value) -> bool {
        !self.is_complete || self.values.iter().any(|(name, known)| name == field && known == value)
    }
}

/// The epoch of the partition and its coupons.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn coupons(
    pool: &Pool,
    partition: Partition,
) -> Result<(Epoch, BTreeMap<CouponId, KnownCoupon>), PostgresError> {
    let epoch = fence::read(pool, partition).await?.epoch;
    let mut known: BTreeMap<CouponId, KnownCoupon> = BTreeMap::new();
    loop {
        let after = known.last_key_value().map(|(id, _)| id);
        let page = coupons::page(pool, partition, after, config::PAGE_MAX_ROWS).await?;
        if page.is_empty() {
            break;
        }
        for row in page {
            let fields = row.definition.fields().into_iter();
            let values = fields.map(|(field, value)| (field.to_owned(), value)).collect();
            known.insert(row.definition.id.clone(), KnownCoupon { row, values, is_complete: false });
        }
    }
    let changes = "select coupon_id::text, action::text, old::text, new::text from audit_log
        where coupon_id is not null and order_id is null order by id";
    for row in sqlx::query(changes).fetch_all(pool).await? {
        let id: &str = row.try_get("coupon_id")?;
        let Some(coupon) = id.parse().ok().and_then(|id: CouponId| known.get_mut(&id)) else { continue };
        let action: &str = row.try_get("action")?;
        coupon.is_complete |= action == "create";
        for side in ["old", "new"] {
            let fields: Option<&str> = row.try_get(side)?;
            let fields: Option<Value> = fields.and_then(|text| serde_json::from_str(text).ok());
            if let Some(Value::Object(fields)) = fields {
                coupon.values.extend(fields);
            }
        }
    }
    Ok((epoch, known))
}

/// A live order.
#[derive(Clone, Debug)]
pub struct LiveOrder {
    pub order: OrderId,
    pub partition: Partition,
    pub coupon: CouponId,
    pub user: UserId,
    pub slot: i16,
    pub key: Option<IdempotencyKey>,
}

impl FromRow<'_, PgRow> for LiveOrder {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let parse = |error: &dyn std::fmt::Display| sqlx::Error::Decode(error.to_string().into());
        let (coupon, user): (&str, &str) = (row.try_get("coupon_id")?, row.try_get("user_id")?);
        Ok(Self {
            order: OrderId(row.try_get("id")?),
            partition: Partition::new(row.try_get("partition")?),
            coupon: coupon.parse().map_err(|error| parse(&error))?,
            user: user.parse().map_err(|error| parse(&error))?,
            slot: row.try_get("slot")?,
            key: orders::read_key(row)?,
        })
    }
}

/// Every live order of all partitions, read page by page.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn live_orders(pool: &Pool) -> Result<Vec<LiveOrder>, PostgresError> {
    let page =
        "select id::uuid, partition::smallint, coupon_id::text, user_id::text, slot::smallint, idempotency_key::text
        from orders where id > $1 and status in ('reserved', 'confirmed') order by id limit $2";
    let most = i64::try_from(10 * config::SCAN_PAGE_ENTRIES).unwrap_or(i64::MAX);
    let mut orders: Vec<LiveOrder> = Vec::new();
    loop {
        let after = orders.last().map_or(Uuid::nil(), |order| order.order.0);
        let rows: Vec<LiveOrder> = sqlx::query_as(page).bind(after).bind(most).fetch_all(pool).await?;
        if rows.is_empty() {
            return Ok(orders);
        }
        orders.extend(rows);
    }
}
