//! Lists of recorded orders: a user's own orders, and all orders for the admin.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::Api;
use super::answer::{List, json};
use super::claims::OrderView;
use super::problem::{Answer, Problem};
use super::request::{Page, Request, query_field};
use crate::domain::{OrderId, OrderStatus};
use crate::postgres::orders::{self, OrderFilter};

/// `GET /v1/orders`
pub async fn list(api: Arc<Api>, request: Request) -> Answer {
    let user = api.auth.user(&request.headers)?;
    let fields = request.query_fields();
    page(&api, &OrderFilter { user: Some(user), ..OrderFilter::default() }, &fields).await
}

/// `GET /v1/admin/orders`
pub async fn list_all(api: Arc<Api>, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let fields = request.query_fields();
    let filter = OrderFilter {
        coupon: query_field(&fields, "coupon")?,
        user: query_field(&fields, "user")?,
        status: fields.get("status").map(|word| parse_status(word)).transpose()?,
    };
    page(&api, &filter, &fields).await
}

async fn page(api: &Api, filter: &OrderFilter, fields: &HashMap<String, String>) -> Answer {
    let page: Page<OrderId> = Page::read(fields)?;
    let mut rows = orders::list(&api.postgres.pool, filter, page.after, page.rows()).await?;
    let next = page.cut(&mut rows, |order| order.id);
    Ok(json(StatusCode::OK, &List::page(rows.into_iter().map(OrderView::from).collect(), next)))
}

fn parse_status(word: &str) -> Result<OrderStatus, Problem> {
    let known: StrDeserializer<'_, ValueError> = word.into_deserializer();
    OrderStatus::deserialize(known).map_err(|_| {
        Problem::bad_request("status is accepted, reserved, confirmed, cancelled, expired or rejected")
    })
}
