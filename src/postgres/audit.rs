//! Table `audit_log`: who changed what. Rows are only added, each in the transaction of its change.

use serde_json::{Map, Value};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Pool, PostgresError};
use crate::domain::{AuditAction, CouponId, Definition, OrderId, Origin};

/// One change for the audit log.
#[derive(Clone, Debug)]
pub struct AuditEntry<'a> {
    pub origin: &'a Origin,
    pub action: AuditAction,
    pub coupon: Option<&'a CouponId>,
    pub order: Option<OrderId>,
    /// The changed fields before the change, as an object.
    pub old: Option<Value>,
    /// The changed fields after it.
    pub new: Option<Value>,
}

impl<'a> AuditEntry<'a> {
    /// A new coupon with its fields.
    #[must_use]
    pub fn of_new(origin: &'a Origin, action: AuditAction, new: &'a Definition) -> Self {
        let fields = new.fields().into_iter().map(|(field, value)| (field.to_owned(), value));
        let new_fields = Some(Value::Object(fields.collect()));
        Self { origin, action, coupon: Some(&new.id), order: None, old: None, new: new_fields }
    }

    /// An edit with the fields that it changed; `None` if it changed none.
    #[must_use]
    pub fn of_edit(origin: &'a Origin, from: &Definition, to: &'a Definition) -> Option<Self> {
        let changes = from.changes(to);
        let action = AuditAction::of_edit(&changes);
        let (mut old, mut new) = (Map::new(), Map::new());
        for change in changes {
            old.insert(change.field.to_owned(), change.from);
            new.insert(change.field.to_owned(), change.to);
        }
        let (coupon, is_empty) = (Some(&to.id), new.is_empty());
        let entry =
            Self { origin, action, coupon, order: None, old: Some(old.into()), new: Some(new.into()) };
        (!is_empty).then_some(entry)
    }
}

/// Records a change. The caller passes the connection with the transaction that makes the change.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn record(connection: &mut PgConnection, entry: &AuditEntry<'_>) -> Result<(), PostgresError> {
    let text = |fields: &Option<Value>| fields.as_ref().map(Value::to_string);
    sqlx::query(
        "insert into audit_log (actor, action, coupon_id, order_id, request_id, old, new)
         values ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb)",
    )
    .bind(&*entry.origin.actor)
    .bind(entry.action.as_str())
    .bind(entry.coupon.map(CouponId::as_str))
    .bind(entry.order.map(|order| order.0))
    .bind(entry.origin.request_id.as_deref())
    .bind(text(&entry.old))
    .bind(text(&entry.new))
    // Not prepared: inside a transaction the pool cannot repeat a statement whose plan has become stale.
    .persistent(false)
    .execute(connection)
    .await?;
    Ok(())
}

/// Records a change that Postgres does not store, such as a repair in Redis.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn record_alone(pool: &Pool, entry: &AuditEntry<'_>) -> Result<(), PostgresError> {
    record(&mut *pool.current().acquire().await?, entry).await
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    pub id: i64,
    pub at: OffsetDateTime,
    pub actor: String,
    pub action: String,
    pub coupon: Option<String>,
    pub order: Option<Uuid>,
    pub request_id: Option<String>,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

impl FromRow<'_, PgRow> for AuditRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let fields = |column: &str| {
            let text: Option<&str> = row.try_get(column)?;
            text.map(serde_json::from_str).transpose().map_err(|error| sqlx::Error::Decode(error.into()))
        };
        Ok(Self {
            id: row.try_get("id")?,
            at: row.try_get("at")?,
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            coupon: row.try_get("coupon_id")?,
            order: row.try_get("order_id")?,
            request_id: row.try_get("request_id")?,
            old: fields("old")?,
            new: fields("new")?,
        })
    }
}

/// Which rows a list shows; `None` means all.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    pub coupon: Option<CouponId>,
    pub order: Option<OrderId>,
}

/// One page of rows with ids below `before`, newest first.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn list(
    pool: &Pool,
    filter: &AuditFilter,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<AuditRow>, PostgresError> {
    // Only the conditions of the filter, so that Postgres can use the index of each combination.
    let mut query = sqlx::QueryBuilder::new(
        "select id::bigint, at::timestamptz, actor::text, action::text, coupon_id::text, order_id::uuid,
            request_id::text, old::text, new::text from audit_log where id < ",
    );
    query.push_bind(before.unwrap_or(i64::MAX));
    if let Some(coupon) = &filter.coupon {
        query.push(" and coupon_id = ").push_bind(coupon.as_str());
    }
    if let Some(order) = filter.order {
        query.push(" and order_id = ").push_bind(order.0);
    }
    query.push(" order by id desc limit ").push_bind(limit);
    Ok(query.build_query_as().fetch_all(pool).await?)
}
