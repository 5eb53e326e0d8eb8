//! The admin's addresses for the program as a whole: the state of the order stream, and reconciling.

use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Api;
use super::answer::json;
use super::problem::{Answer, Code, Problem};
use super::request::Request;
use crate::orders::stream_status;

/// `GET /v1/admin/stream`
pub async fn stream(api: &Api, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    Ok(json(StatusCode::OK, &stream_status::read(&api.fence).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reconcile {
    /// Takes the fence down and rebuilds Redis from Postgres.
    #[serde(default)]
    rebuild: bool,
    /// Repairs the differences that may be repaired while claims continue.
    #[serde(default)]
    fix: bool,
}

/// `POST /v1/admin/reconcile`: with `rebuild`, takes the fence down and rebuilds Redis, also from a Postgres that has
/// lost commits. Otherwise compares the stores while claims continue and, with `fix`, repairs differences. Answers with
/// the report.
pub async fn reconcile(api: Arc<Api>, mut request: Request) -> Answer {
    let origin = api.auth.admin_origin(&request)?;
    let Reconcile { rebuild, fix } = request.json().await?;
    if rebuild && fix {
        return Err(Problem::bad_request("send `fix` or `rebuild`, not both: a rebuild repairs everything"));
    }
    if !rebuild {
        let reconciler = api.reconciler.clone();
        // To its end even if the client goes away.
        let comparing = tokio::spawn(async move { reconciler.compare(fix.then_some(origin)).await });
        let compared = comparing.await.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        let found = compared.map_err(|error| Problem::unavailable(error.to_string()))?;
        return Ok(json(StatusCode::OK, &found));
    }
    let report = api.fence.order_rebuild(origin).await;
    let report =
        report.map_err(|why| Problem::unavailable(format!("the rebuild was not finished: {why}")))?;
    Ok(json(StatusCode::OK, &report))
}
