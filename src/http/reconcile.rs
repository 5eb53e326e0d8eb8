//! Reconciling on demand: for now a rebuild that a person orders.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;

use super::Api;
use super::problem::Problem;
use super::request::{Request, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reconcile {
    rebuild: bool,
}

/// `POST /v1/admin/reconcile`: takes the fence down, rebuilds Redis, also over a Postgres that has lost
/// commits, and tells what was done.
pub async fn reconcile(api: Arc<Api>, mut request: Request) -> Result<Response<Bytes>, Problem> {
    api.auth.admin(&request.headers)?;
    let Reconcile { rebuild } = request.json().await?;
    if !rebuild {
        return Err(Problem::bad_request("`rebuild` can only be true"));
    }
    let report = api.fence.order_rebuild().await;
    let report =
        report.map_err(|why| Problem::unavailable(format!("the rebuild was not finished: {why}")))?;
    Ok(json(StatusCode::OK, &report))
}
