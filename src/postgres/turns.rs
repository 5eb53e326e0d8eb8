//! Which process makes the periodic comparisons of a partition: the one that has the advisory lock of their kind. One
//! session of the process has all its locks, and Postgres releases them when the process dies or stands still.

use std::collections::HashSet;
use std::sync::Arc;

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::Mutex;

use super::{PostgresError, connect_with, fence};
use crate::config;
use crate::domain::Partition;

/// The name of the session. `doctor` counts processes by it.
pub const SESSION_NAME: &str = "seckill comparisons";

/// A cheap handle.
#[derive(Clone)]
pub struct Turns {
    options: PgConnectOptions,
    session: Arc<Mutex<Option<Session>>>,
}

struct Session {
    connection: PgConnection,
    held: HashSet<(Partition, &'static str)>,
}

impl Turns {
    /// Opens no session.
    pub(super) fn new(options: PgConnectOptions) -> Self {
        let idle = config::COMPARISON_SESSION_IDLE_TIMEOUT.as_millis();
        let options =
            options.application_name(SESSION_NAME).options([("idle_session_timeout", format!("{idle}ms"))]);
        Self { options, session: Arc::default() }
    }

    /// Whether this process makes the partition's comparisons of this kind. If no process does, this one does from now on.
    ///
    /// # Errors
    /// If Postgres cannot serve: then this process has no lock.
    pub async fn take(&self, partition: Partition, kind: &'static str) -> Result<bool, PostgresError> {
        self.run(async |session| {
            if session.held.contains(&(partition, kind)) {
                // The session has its locks as long as it answers.
                session.connection.ping().await?;
                return Ok(true);
            }
            let is_taken = fence::try_lock_comparison(&mut session.connection, partition, kind).await?;
            if is_taken {
                session.held.insert((partition, kind));
            }
            Ok(is_taken)
        })
        .await
    }

    /// Lets another process make the comparisons of the partition.
    ///
    /// # Errors
    /// If Postgres cannot serve: then this process has no lock.
    pub async fn give_up(&self, partition: Partition) -> Result<(), PostgresError> {
        if self.session.lock().await.is_none() {
            return Ok(());
        }
        self.run(async |session| {
            let held: Vec<_> = session.held.extract_if(|(of, _)| *of == partition).collect();
            for (partition, kind) in held {
                fence::unlock_comparison(&mut session.connection, partition, kind).await?;
            }
            Ok(())
        })
        .await
    }

    /// Keeps the locks during a long comparison. Never returns.
    pub async fn keep(&self) {
        loop {
            tokio::time::sleep(config::COMPARISON_SESSION_PING).await;
            let turns = self.clone();
            // Spawned: if this is dropped half-way, the session stays.
            if let Err(panicked) = tokio::spawn(async move { turns.ping().await }).await {
                tracing::error!("the ping of the session for comparisons panicked: {panicked}");
            }
        }
    }

    async fn ping(&self) {
        let mut slot = self.session.lock().await;
        let Some(mut session) = slot.take() else { return };
        let ping = tokio::time::timeout(config::POSTGRES_STATEMENT_TIMEOUT, session.connection.ping()).await;
        if matches!(ping, Ok(Ok(()))) {
            *slot = Some(session);
        } else {
            tracing::debug!("another process may compare too: the session of the locks has ended");
        }
    }

    /// Runs work on the session. Without a success the session ends, also when this is dropped half-way.
    async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, PostgresError>,
    ) -> Result<T, PostgresError> {
        let mut slot = self.session.lock().await;
        let mut session = match slot.take() {
            Some(session) => session,
            None => Session { connection: connect_with(&self.options).await?, held: HashSet::new() },
        };
        let done = tokio::time::timeout(config::POSTGRES_STATEMENT_TIMEOUT, work(&mut session)).await;
        let done = done.map_err(|_| PostgresError::Transient("it gives no answer".into()))??;
        *slot = Some(session);
        Ok(done)
    }
}
