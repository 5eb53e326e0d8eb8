//! Shows whether the program's tasks work, whether claims are accepted, and the metrics.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Value, json as value};

use super::Api;
use super::answer::{Content, json};
use super::auth::AdminToken;
use super::gauges::{self, ClaimGauges, Sources};
use super::problem::{Answer, Code, Problem};
use super::request::Request;
use crate::metrics;
use crate::tasks::Tasks;

/// `GET /livez`: 200 if every task that lives as long as the program works. The answer does not depend on the stores.
pub fn livez(tasks: &Tasks, method: &Method) -> Answer {
    if ![Method::GET, Method::HEAD].contains(method) {
        return Err(Problem::method_not_allowed("GET, HEAD"));
    }
    match tasks.problem() {
        None => Ok(json(StatusCode::OK, &value!({"status": "ok"}))),
        Some(trouble) => Err(Problem::unavailable(trouble.to_string()).with("task", trouble.task)),
    }
}

/// `GET /readyz`: 200 if claims are accepted. `?verbose` shows each store and, except over loopback, requires the admin
/// token.
pub async fn readyz(api: Arc<Api>, request: Request) -> Answer {
    let verbose = request.query_fields().contains_key("verbose");
    if verbose {
        admit(Some(&api.auth.admin_token), &request)?;
    }
    let stores = if verbose {
        let status = api.partitions.store_status().await;
        Some(serde_json::to_value(status).unwrap_or(Value::Null))
    } else {
        None
    };
    match api.partitions.taking_claims() {
        Ok(session) => {
            let mut body = value!({"status": "ready"});
            if let Some(stores) = stores {
                body["epoch"] = session.epoch.as_str().into();
                body["stores"] = stores;
            }
            Ok(json(StatusCode::OK, &body))
        }
        Err(reason) => {
            let problem = Problem::unavailable(format!("claims are not taken: {reason}"));
            Err(match stores {
                Some(stores) => problem.with("stores", stores),
                None => problem,
            })
        }
    }
}

/// `GET /metrics`: Prometheus text. Except over loopback, it requires the admin token.
pub async fn metrics(api: Arc<Api>, request: Request) -> Answer {
    admit(Some(&api.auth.admin_token), &request)?;
    let is_ready = api.partitions.taking_claims().is_ok();
    let claims = Some(ClaimGauges { is_ready, max_backlog: api.max_backlog });
    let stores = api.partitions.all().iter().map(|partition| partition.stores.clone()).collect();
    Ok(render(Sources { stores, postgres: &api.postgres, claims }).await)
}

/// Every metric of this process.
pub async fn render(sources: Sources<'_>) -> Response<Content> {
    gauges::read(sources).await;
    let mut response = Response::new(Bytes::from(metrics::render()).into());
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Over loopback anyone, else the admin.
pub fn admit(admin_token: Option<&AdminToken>, request: &Request) -> Result<(), Problem> {
    match admin_token {
        _ if request.from_loopback => Ok(()),
        Some(token) => token.check(&request.headers),
        None => Err(Problem::new(Code::Unauthorized, "this process has no admin token")),
    }
}
