//! What a process without the API answers, such as `seckill worker`: whether its tasks work, whether it records, and its
//! metrics.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};

use http::{Method, StatusCode};
use serde_json::json as value;
use warp::Filter;

use super::answer::json;
use super::auth::AdminToken;
use super::gauges::Sources;
use super::problem::{Answer, Problem};
use super::request::Request;
use super::routes::{finish, not_allowed, nothing_here, service_of};
use super::{Slot, detached, head, health};
use crate::config;
use crate::fence::store_status::Stores;
use crate::postgres::Postgres;

/// What the routes read.
pub struct Monitoring {
    /// Of each partition that was started.
    pub stores: Arc<RwLock<Vec<Stores>>>,
    pub postgres: Postgres,
    /// `None`: only clients on this machine see the metrics.
    pub admin_token: Option<AdminToken>,
}

impl Monitoring {
    fn stores(&self) -> Vec<Stores> {
        self.stores.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The routes as a service. Until the slot is open, the process waits for the stores.
pub fn service(
    slot: Arc<Slot<Monitoring>>,
) -> impl Filter<Extract = (warp::reply::Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    service_of(move |request| answer(slot.clone(), request))
}

async fn answer(slot: Arc<Slot<Monitoring>>, request: Request) -> warp::reply::Response {
    let id = request.id.clone();
    let answer = match head::check(&request) {
        Err(problem) => Err(problem),
        Ok(()) => route(slot, request).await,
    };
    finish(answer, id)
}

async fn route(slot: Arc<Slot<Monitoring>>, request: Request) -> Answer {
    let is_read = [Method::GET, Method::HEAD].contains(&request.method);
    match request.path.as_str() {
        "/livez" => health::livez(&slot.tasks, &request.method),
        "/readyz" if is_read => readyz(&*slot.api()?),
        "/metrics" if is_read => {
            let monitoring = slot.api()?;
            health::admit(monitoring.admin_token.as_ref(), &request)?;
            detached(config::HTTP_POSTGRES_TIMEOUT, metrics(monitoring)).await
        }
        "/readyz" | "/metrics" => not_allowed("GET, HEAD").await,
        _ => nothing_here().await,
    }
}

/// 200 while this process can record orders: the fence is up, and Postgres answers.
fn readyz(monitoring: &Monitoring) -> Answer {
    let stores = monitoring.stores();
    let not_recorded =
        |why: &dyn std::fmt::Display| Problem::unavailable(format!("no order is recorded: {why}"));
    // One partition that records is enough.
    let session = stores.iter().map(|stores| stores.fence().session()).reduce(Result::or);
    if let Some(Err(reason)) = session {
        return Err(not_recorded(&reason));
    }
    match stores.iter().find_map(|stores| stores.fence().postgres_outage()) {
        None => Ok(json(StatusCode::OK, &value!({"status": "ready"}))),
        Some(outage) => Err(not_recorded(&outage)),
    }
}

async fn metrics(monitoring: Arc<Monitoring>) -> Answer {
    let stores = monitoring.stores();
    Ok(health::render(Sources { stores, postgres: &monitoring.postgres, claims: None }).await)
}
