//! The admin's addresses for the program as a whole: the order stream, and reconciling.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Api;
use super::answer::{List, json};
use super::problem::{Answer, Code, Problem};
use super::request::{Page, Request, query_field};
use crate::domain::Partition;
use crate::orders::stream_entries::{self, EntryId, Selection};
use crate::orders::stream_status;
use crate::partitions::PartitionFunctions;

/// `GET /v1/admin/stream`
pub async fn stream(api: &Api, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let partition = asked_partition(api, &request.query_fields())?;
    Ok(json(StatusCode::OK, &stream_status::read(&partition.fence).await?))
}

/// The partition of `?partition=`; without it, the first one.
fn asked_partition(api: &Api, fields: &HashMap<String, String>) -> Result<Arc<PartitionFunctions>, Problem> {
    let number: Option<i16> = query_field(fields, "partition")?;
    let partition = number.map_or(Partition::DEFAULT, Partition::new);
    let all = api.partitions.all();
    let found = all.into_iter().find(|functions| functions.fence.partition() == partition);
    found.ok_or_else(|| Problem::bad_request(format!("this installation has no partition {partition}")))
}

/// `GET /v1/admin/stream/entries`: entries of the order stream, oldest first; with `newest=true` the newest ones.
pub async fn entries(api: Arc<Api>, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let fields = request.query_fields();
    let page: Page<EntryId> = Page::read(&fields)?;
    let newest: Option<bool> = query_field(&fields, "newest")?;
    let (selection, rows) = match (page.after.clone(), newest.unwrap_or_default()) {
        (Some(_), true) => return Err(Problem::bad_request("send `after` or `newest`, not both")),
        // Nothing is newer: there is no next page.
        (None, true) => (Selection::Newest, page.limit),
        (Some(after), false) => (Selection::After(after), page.rows()),
        (None, false) => (Selection::FromStart, page.rows()),
    };
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    let partition = asked_partition(&api, &fields)?;
    let mut items = stream_entries::read(&partition.fence, &api.postgres, selection, rows).await?;
    let next = page.cut(&mut items, |item| item.id().to_owned());
    Ok(json(StatusCode::OK, &List::page(items, next)))
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
        let partitions = api.partitions.clone();
        // To its end even if the client goes away.
        let comparing = tokio::spawn(async move { partitions.compare(fix.then_some(origin)).await });
        let compared = comparing.await.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        let found = compared.map_err(|error| Problem::unavailable(error.to_string()))?;
        return Ok(json(StatusCode::OK, &found));
    }
    let report = api.partitions.rebuild(&origin).await;
    let report =
        report.map_err(|why| Problem::unavailable(format!("the rebuild was not finished: {why}")))?;
    Ok(json(StatusCode::OK, &report))
}
