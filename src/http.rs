//! Everything that knows warp. `server` owns sockets, `routes` shows every route on one screen, `problem` every error;
//! one file for each kind of resource. A handler reads the request, calls one function of a layer below and renders the
//! result.

mod admin;
mod admin_coupons;
mod admin_waitlist;
mod answer;
mod audit;
pub mod auth;
mod body;
mod claims;
mod code;
mod coupons;
mod dead_letters;
mod events;
mod gauges;
mod head;
mod health;
pub mod monitoring;
pub mod openapi;
mod order;
mod orders;
mod pages;
mod prefer;
pub mod problem;
mod receipt;
mod request;
mod routes;
pub mod server;
mod shapes;
pub mod sign_in;
mod socket;
mod token;
mod waitlist;

use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::coupons::catalogue::Catalogue;
use crate::live::{Live, Operations};
use crate::partitions::Partitions;
use crate::postgres::Postgres;
use crate::tasks::Tasks;
use auth::Auth;
use problem::{Code, Problem};
use sign_in::DemoSignIn;

/// What the handlers call. The server has one.
pub struct Api {
    pub partitions: Partitions,
    pub catalogue: Catalogue,
    /// The backlog of a partition above which its claims are refused.
    pub max_backlog: u64,
    pub live: Live,
    pub operations: Operations,
    /// For lists: a handler of a list makes a plain query.
    pub postgres: Postgres,
    pub auth: Auth,
    /// Only in a demo.
    pub demo: OnceLock<DemoSignIn>,
}

/// What answers requests once it is open, and before that the status that clients get.
pub struct Slot<T> {
    api: OnceLock<Arc<T>>,
    startup_status: Mutex<String>,
    tasks: Tasks,
}

pub type ApiSlot = Slot<Api>;

impl<T> Slot<T> {
    /// A slot without an API; `/livez` reports on these tasks.
    #[must_use]
    pub fn new(tasks: Tasks) -> Self {
        Self { tasks, api: OnceLock::new(), startup_status: Mutex::default() }
    }

    /// Opens the API. May be called once.
    ///
    /// # Errors
    /// When the API is open already.
    pub fn open(&self, api: Arc<T>) -> anyhow::Result<()> {
        self.api.set(api).map_err(|_| anyhow::anyhow!("the API is opened once"))
    }

    /// Sets the status that clients get before there is an API.
    pub fn set_startup_status(&self, status: &str) {
        status.clone_into(&mut self.startup_status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn api(&self) -> Result<Arc<T>, Problem> {
        let status = || self.startup_status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.api.get().cloned().ok_or_else(|| Problem::not_ready(&status()))
    }
}

/// Runs work on Postgres to its end, even if the client closes its connection. Waits up to `timeout` for the result.
async fn detached<T: Send + 'static>(
    timeout: Duration,
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::time::timeout(timeout, tokio::spawn(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(panicked)) => {
            tracing::error!("the work of a request panicked: {panicked}");
            Err(Problem::new(Code::Internal, "the request could not be finished; it has been logged"))
        }
        Err(_) => Err(Problem::unavailable("Postgres gives no answer")),
    }
}
