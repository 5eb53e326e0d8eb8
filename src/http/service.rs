//! Whether the program's tasks live, whether it takes claims, and its metrics.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Value, json as value};
use time::format_description::well_known::Rfc3339;

use super::Api;
use super::answer::json;
use super::problem::Problem;
use super::request::Request;
use crate::postgres::fence::{self, FenceRow};
use crate::postgres::{PostgresError, outbox};
use crate::redis::{RedisError, RedisServer, info};
use crate::tasks::Tasks;
use crate::{config, disk, metrics};

/// `GET /livez`: every task that lives as long as the program does its work. The stores are none of its business.
pub fn livez(tasks: &Tasks, method: &Method) -> Result<Response<Bytes>, Problem> {
    if ![Method::GET, Method::HEAD].contains(method) {
        return Err(Problem::method_not_allowed("GET, HEAD"));
    }
    match tasks.trouble() {
        None => Ok(json(StatusCode::OK, &value!({"status": "ok"}))),
        Some(trouble) => Err(Problem::unavailable(trouble.to_string()).with("task", trouble.task)),
    }
}

/// `GET /readyz`: claims are taken. `?verbose` tells of each store; off loopback it wants the admin token.
pub async fn readyz(api: Arc<Api>, request: Request) -> Result<Response<Bytes>, Problem> {
    let verbose = request.query_fields().contains_key("verbose");
    if verbose {
        admit(&api, &request)?;
    }
    let stores = if verbose { Some(stores(&api).await) } else { None };
    match api.gate.taking_claims() {
        Ok(session) => {
            let mut body = value!({"status": "ready"});
            if let Some(stores) = stores {
                body["epoch"] = session.epoch.clone().into();
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

/// `GET /metrics`: Prometheus text; off loopback it wants the admin token.
pub async fn metrics(api: Arc<Api>, request: Request) -> Result<Response<Bytes>, Problem> {
    admit(&api, &request)?;
    let session = api.fence.session();
    metrics::FENCE_UP.set_bool(session.is_ok());
    if let Ok(session) = session {
        metrics::FENCE_EPOCH.set_count(session.number());
    }
    metrics::BACKLOG_EVENTS.set_count(api.fence.backlog());
    let pool = api.postgres.pool.clone();
    let rows = promptly(async move { outbox::count(&pool).await }).await;
    metrics::OUTBOX_ROWS.set(rows.map_or(f64::NAN, metrics::as_number));
    let mut response = Response::new(Bytes::from(metrics::render()));
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn admit(api: &Api, request: &Request) -> Result<(), Problem> {
    if request.from_loopback { Ok(()) } else { api.auth.admin(&request.headers) }
}

/// Each store by itself: `ok`, or why not; and the fence, which compares the two.
async fn stores(api: &Api) -> Value {
    let session = api.fence.session();
    let redis = match &session {
        Ok(session) => info::now_ms(&session.redis).await.map(drop),
        // Without a session there is no connection; a new one tells of Redis itself.
        Err(_) => ask_anew(&api.redis).await,
    };
    // A Redis that answers may still refuse to write.
    let refusal = session.is_ok().then(|| api.fence.taking_claims().err()).flatten();
    let redis =
        redis.map_err(|error| error.to_string()).and(refusal.map_or(Ok(()), |why| Err(why.to_string())));
    let fence = session.map(drop).map_err(|reason| reason.to_string());
    let pool = api.postgres.pool.clone();
    let mut postgres = promptly(async move { fence::read(&pool).await }).await;
    if let Err(error) = &mut postgres {
        // The pool hides why it gets no connection; a new one tells.
        let server = api.postgres.clone();
        if let Err(why) = promptly(async move { server.dedicated().await.map(drop) }).await {
            *error = why;
        }
    }
    let word = |result: Result<(), String>| result.err().unwrap_or_else(|| "ok".into());
    let postgres = postgres.map_err(|error| error.to_string());
    let is_away = postgres.is_err();
    let mut stores = value!({
        "redis": word(redis),
        "postgres": word(postgres.and_then(|row| judge(&row))),
        "fence": word(fence),
        "backlog": api.fence.backlog(),
    });
    if let (true, Some(away)) = (is_away, api.fence.postgres_away()) {
        stores["postgres_away_since"] = away.since.format(&Rfc3339).unwrap_or_default().into();
    }
    // A Postgres without room still reads.
    if let Some(shortage) = api.postgres.store_folder().and_then(disk::shortage) {
        stores["disk"] = shortage.into();
    }
    stores
}

/// A Postgres that answers may still not be the one of the last agreement.
fn judge(row: &FenceRow) -> Result<(), String> {
    if row.postgres_lost {
        return Err("it has lost commits that Redis still knows".into());
    }
    if !row.postgres_identity.is_empty() && row.postgres_identity != row.this_postgres {
        return Err("it is not the server of the last agreement (restored, promoted or new)".into());
    }
    Ok(())
}

async fn ask_anew(server: &RedisServer) -> Result<(), RedisError> {
    let redis = server.connect().await?;
    info::now_ms(&redis).await.map(drop)
}

/// A question to Postgres for which nobody waits long; it is asked to its end all the same.
async fn promptly<T: Send + 'static>(
    question: impl Future<Output = Result<T, PostgresError>> + Send + 'static,
) -> Result<T, PostgresError> {
    match tokio::time::timeout(config::PROBE_INTERVAL, tokio::spawn(question)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(panicked)) => Err(PostgresError::Statement(panicked.to_string())),
        Err(_) => Err(PostgresError::Transient("it gives no answer".into())),
    }
}
