//! The admin's view of the audit log.

use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::answer::{List, json};
use super::problem::Answer;
use super::request::{Page, Request, RowNumber, query_field};
use super::shapes;
use crate::postgres::audit::{self, AuditFilter, AuditRow};

#[derive(Serialize, ToSchema)]
#[schema(as = AuditedChange)]
pub struct ChangeView {
    id: i64,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// `admin`, or `system` for the program itself.
    actor: String,
    /// `create`, `edit`, `pause`, `resume`, `restock`, `withdraw`, `revoke`, `replay`, `discard`, `rebuild`, `adopt` or `fix`.
    action: String,
    #[schema(required)]
    coupon: Option<String>,
    #[schema(required)]
    order: Option<Uuid>,
    #[schema(required)]
    request_id: Option<String>,
    #[schema(required, schema_with = shapes::fields)]
    old: Option<Value>,
    #[schema(required, schema_with = shapes::fields)]
    new: Option<Value>,
}

impl From<AuditRow> for ChangeView {
    fn from(row: AuditRow) -> Self {
        let AuditRow { id, at, actor, action, coupon, order, request_id, old, new } = row;
        Self { id, at, actor, action, coupon, order, request_id, old, new }
    }
}

/// `GET /v1/admin/audit`, newest first
pub async fn list(api: Arc<Api>, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let fields = request.query_fields();
    let page: Page<RowNumber> = Page::read(&fields)?;
    let filter =
        AuditFilter { coupon: query_field(&fields, "coupon")?, order: query_field(&fields, "order")? };
    let mut rows = audit::list(&api.postgres.pool, &filter, page.after.map(|row| row.0), page.rows()).await?;
    let next = page.cut(&mut rows, |row| row.id);
    Ok(json(StatusCode::OK, &List::page(rows.into_iter().map(ChangeView::from).collect(), next)))
}
