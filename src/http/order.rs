//! Shows, confirms, cancels and revokes one order by its id. The paths have no coupon, because a payment provider's
//! call knows only the order's id.

use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Api;
use super::answer::json;
use super::claims::OrderView;
use super::problem::{Answer, Problem};
use super::request::{Request, order_id};
use super::shapes;
use crate::config;
use crate::domain::is_reason;
use crate::postgres::transitions::Revocation;

/// `GET /v1/orders/{order}`
pub async fn show(api: Arc<Api>, order: &str, request: Request) -> Answer {
    let caller = api.auth.caller(&request.headers)?;
    let order = order_id(order)?;
    let partition = api.partitions.of_order(order, caller.user()).await?;
    let found = partition.orders.find_recorded(order, caller.user()).await?;
    Ok(json(StatusCode::OK, &OrderView::from(found)))
}

/// `POST /v1/orders/{order}/confirm`
pub async fn confirm(api: Arc<Api>, order: &str, mut request: Request) -> Answer {
    let caller = api.auth.caller(&request.headers)?;
    let order = order_id(order)?;
    request.optional_object().await?;
    let partition = api.partitions.of_order(order, caller.user()).await?;
    let order = partition.transitions.confirm(order, caller.user()).await?;
    Ok(json(StatusCode::OK, &OrderView::from(order)))
}

/// `POST /v1/orders/{order}/cancel`
pub async fn cancel(api: Arc<Api>, order: &str, mut request: Request) -> Answer {
    let caller = api.auth.caller(&request.headers)?;
    let order = order_id(order)?;
    request.optional_object().await?;
    let partition = api.partitions.of_order(order, caller.user()).await?;
    let order = partition.transitions.cancel(order, caller.user()).await?;
    Ok(json(StatusCode::OK, &OrderView::from(order)))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Revocation)]
pub struct RevocationBody {
    #[schema(schema_with = shapes::reason)]
    reason: String,
    /// True: the unit goes back to stock. False: the total falls by one.
    return_unit: bool,
}

/// `POST /v1/admin/orders/{order}/revoke`
pub async fn revoke(api: Arc<Api>, order: &str, mut request: Request) -> Answer {
    let origin = api.auth.admin_origin(&request)?;
    let order = order_id(order)?;
    let RevocationBody { reason, return_unit } = request.json().await?;
    if !is_reason(&reason) {
        let most = config::REASON_MAX_CHARS;
        return Err(Problem::bad_request(format!(
            "reason is 1 to {most} characters, none of them control characters"
        )));
    }
    let partition = api.partitions.of_order(order, None).await?;
    let order = partition.transitions.revoke(Revocation { order, reason, return_unit, origin }).await?;
    Ok(json(StatusCode::OK, &OrderView::from(order)))
}
