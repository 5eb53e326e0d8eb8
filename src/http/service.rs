//! Whether the program lives, and whether it takes claims.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json as value;

use super::Api;
use super::problem::Problem;
use super::request::{Request, json};
use crate::postgres;
use crate::redis::info;

/// `GET /livez`: this process answers.
pub fn livez() -> Response<Bytes> {
    json(StatusCode::OK, &value!({"status": "ok"}))
}

/// `GET /readyz`: claims are taken. `?verbose` tells of each store; off loopback it wants the admin token.
pub async fn readyz(api: Arc<Api>, request: Request) -> Result<Response<Bytes>, Problem> {
    let verbose = request.query_fields().contains_key("verbose");
    if verbose && !request.from_loopback {
        api.auth.admin(&request.headers)?;
    }
    let session = api.fence.session();
    let stores = if verbose {
        let redis = match &session {
            Ok(session) => info::now_ms(&session.redis).await.map(drop).map_err(|error| error.to_string()),
            Err(reason) => Err(reason.to_string()),
        };
        let postgres =
            postgres::fence::read(&api.postgres.pool).await.map(drop).map_err(|error| error.to_string());
        let word = |result: Result<(), String>| result.err().unwrap_or_else(|| "ok".into());
        Some(value!({"redis": word(redis), "postgres": word(postgres), "backlog": api.fence.backlog()}))
    } else {
        None
    };
    match session {
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
