//! Everything that knows warp. `server` owns sockets, `routes` shows every route on one screen, `problem`
//! every error; one file for each kind of resource. No handler asks Redis about stock but through the gate.

mod admin;
mod answer;
mod auth;
mod body;
mod claims;
mod coupons;
mod dead;
mod head;
mod orders;
mod prefer;
pub mod problem;
mod reconcile;
mod repeats;
mod request;
mod routes;
pub mod server;
mod service;
mod snapshots;
mod socket;
mod token;

use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::catalogue::Catalogue;
use crate::config::CredentialSettings;
use crate::fence::{Fence, Session};
use crate::gate::Gate;
use crate::postgres::Postgres;
use crate::recorded::Recorded;
use crate::redis::RedisServer;
use crate::tasks::Tasks;
use auth::Auth;
use problem::{Code, Problem};
use snapshots::Snapshots;

/// What the handlers need; one for the whole server.
pub struct Api {
    gate: Gate,
    recorded: Recorded,
    catalogue: Catalogue,
    fence: Fence,
    /// Where Redis is, for questions while the fence has no connection.
    redis: RedisServer,
    postgres: Postgres,
    snapshots: Snapshots,
    auth: Auth,
}

/// The API as soon as there is one, and until then what is waited for.
#[derive(Default)]
pub struct Front {
    api: OnceLock<Arc<Api>>,
    waits_for: Mutex<String>,
    tasks: Tasks,
}

impl Front {
    /// Before there is an API, and for as long as these tasks live.
    #[must_use]
    pub fn new(tasks: Tasks) -> Self {
        Self { tasks, ..Self::default() }
    }

    /// Opens the API; once.
    ///
    /// # Errors
    /// When it is open already.
    pub fn open(&self, api: Arc<Api>) -> anyhow::Result<()> {
        self.api.set(api).map_err(|_| anyhow::anyhow!("the API is opened once"))
    }

    /// Says to whoever asks meanwhile why there is no API yet.
    pub fn waits_for(&self, what: &str) {
        what.clone_into(&mut self.waits_for.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn api(&self) -> Result<Arc<Api>, Problem> {
        let waits_for = || self.waits_for.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.api.get().cloned().ok_or_else(|| Problem::not_ready(&waits_for()))
    }
}

/// How long a handler waits for work on Postgres that goes on without it, beside what its client asked it to wait.
const DETACHED_TIMEOUT: Duration = Duration::from_secs(8);

impl Api {
    /// # Errors
    /// When a credential is missing or too short.
    pub fn new(
        gate: Gate,
        recorded: Recorded,
        catalogue: Catalogue,
        fence: Fence,
        redis: RedisServer,
        postgres: Postgres,
        credentials: &CredentialSettings,
    ) -> anyhow::Result<Arc<Self>> {
        let auth = Auth::new(credentials)?;
        let snapshots = Snapshots::new(fence.clone());
        Ok(Arc::new(Self { gate, recorded, catalogue, fence, redis, postgres, snapshots, auth }))
    }

    fn session(&self) -> Result<Arc<Session>, Problem> {
        self.fence.session().map_err(|reason| Problem::not_ready(&reason))
    }
}

/// Runs work on Postgres to its end even if the client goes away, and waits for it only so long.
async fn detached<T: Send + 'static>(
    patience: Duration,
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::time::timeout(patience, tokio::spawn(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(panicked)) => {
            tracing::error!("a request's work ended badly: {panicked}");
            Err(Problem::new(Code::Internal, "the request could not be finished; it has been logged"))
        }
        Err(_) => Err(Problem::unavailable("Postgres gives no answer")),
    }
}
