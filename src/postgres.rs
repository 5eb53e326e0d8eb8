//! The only module that knows sqlx: connections, session settings, migrations, and the classes of Postgres's errors. The
//! files below have the statements, one file for each table; longer statements are in `sql/queries`.
//!
//! A future on the pool must run to its end (a cancelled `begin` can leave a connection in a transaction): callers that
//! may be cancelled spawn the future, and Postgres itself enforces the timeouts. A dedicated connection may be dropped
//! at any time, also during a statement.

pub mod audit;
pub mod coupons;
pub mod dead_letters;
pub mod expiry;
pub mod fence;
pub mod health;
pub mod known;
pub mod orders;
pub mod outbox;
mod pool;
pub mod rebuild;
pub mod receipt;
pub mod timeline;
pub mod transitions;
pub mod turns;
pub mod waitlist;
pub mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sqlx::migrate::Migrator;
pub use sqlx::postgres::PgConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection};
use tokio::sync::Semaphore;

pub use pool::Pool;
use turns::Turns;
use work::WorkConnections;

use crate::{config, disk};

static MIGRATIONS: Migrator = sqlx::migrate!("./sql/migrations");

/// Settings that make every statement use an index. By default Postgres keeps a plan that it made for an empty table,
/// and scans the whole table later. `jit` would compile statements that cannot use an index.
pub const BY_INDEX: [(&str, &str); 4] =
    [("enable_seqscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off"), ("jit", "off")];

/// All connections of this process: the pool for requests and probes, `work` for transactions of workers and of orders,
/// one session for `turns`, and beyond these one for a rebuild. Requests cannot use up the connections for work, and one
/// that does not answer can be dropped.
#[derive(Clone)]
pub struct Postgres {
    options: PgConnectOptions,
    /// Options of sessions that only read: these sessions cannot write, and have the server's own `synchronous_commit`.
    reading: PgConnectOptions,
    schema: String,
    most_connections: u32,
    pub pool: Pool,
    pub work: WorkConnections,
    pub turns: Turns,
    rebuilds: Arc<Semaphore>,
}

/// A failed statement, classified by what the caller should do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PostgresError {
    /// Postgres is down, restarting, full or locked, or there was a deadlock: the caller tries again until it works.
    #[error("Postgres cannot serve now: {0}")]
    Transient(String),
    /// The row is not valid: a retry cannot help.
    #[error("Postgres refused a row: {0}")]
    Row(String),
    /// The statement or the schema is wrong, or the error is of an unknown class: keep the entries and log an error.
    #[error("Postgres refused a statement: {0}")]
    Statement(String),
}

/// Waits at most `timeout` for work on the pool. After a timeout the work continues to its end, since work on the pool
/// must not be dropped half-way.
///
/// # Errors
/// The error of the work; `Transient` if the work takes longer than `timeout`, `Statement` if it panics.
pub async fn with_timeout<T: Send + 'static>(
    timeout: Duration,
    work: impl Future<Output = Result<T, PostgresError>> + Send + 'static,
) -> Result<T, PostgresError> {
    match tokio::time::timeout(timeout, tokio::spawn(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(panicked)) => {
            tracing::error!("work on Postgres panicked: {panicked}");
            Err(PostgresError::Statement(panicked.to_string()))
        }
        Err(_) => Err(PostgresError::Transient("it gives no answer".into())),
    }
}

impl Postgres {
    /// As [`with_connections`](Self::with_connections), with the default number.
    ///
    /// # Errors
    /// If `url` is not a valid Postgres address.
    pub fn new(url: &str, schema: &str) -> anyhow::Result<Self> {
        Self::with_connections(url, schema, config::POSTGRES_CONNECTIONS_DEFAULT)
    }

    /// Prepares at most this many connections; does not connect yet.
    ///
    /// # Errors
    /// If `url` is not a valid Postgres address.
    pub fn with_connections(url: &str, schema: &str, connections: u32) -> anyhow::Result<Self> {
        // sqlx accepts any scheme.
        let is_ours = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
        anyhow::ensure!(is_ours, "DATABASE_URL must start with postgres://");
        let options: PgConnectOptions = url.parse().context("DATABASE_URL is not a valid address")?;
        // As in libpq, a Unix socket has no TLS, even if `sslmode` requires it.
        let options = match options.get_socket() {
            Some(_) => options.ssl_mode(PgSslMode::Disable),
            None => options,
        };
        let ms = |timeout: Duration| format!("{}ms", timeout.as_millis());
        let options = options
            .application_name("seckill")
            .statement_cache_capacity(config::POSTGRES_CACHE_STATEMENTS)
            .options([
                ("search_path", schema.to_owned()),
                ("client_min_messages", "warning".to_owned()),
                ("statement_timeout", ms(config::POSTGRES_STATEMENT_TIMEOUT)),
                ("lock_timeout", ms(config::POSTGRES_LOCK_TIMEOUT)),
                ("idle_in_transaction_session_timeout", ms(config::POSTGRES_IDLE_IN_TRANSACTION_TIMEOUT)),
            ]);
        let reading = options.clone().options([("default_transaction_read_only", "on")]);
        let options = options.options([("synchronous_commit", "on")]).options(BY_INDEX);
        // One is the session of `turns`.
        let shared = connections.saturating_sub(1).max(2);
        let for_requests = (shared / 2).min(config::POSTGRES_POOL_CONNECTIONS);
        let pool = {
            let options = options.clone();
            Pool::new(move || {
                PgPoolOptions::new()
                    .max_connections(for_requests)
                    .acquire_timeout(config::POSTGRES_CONNECT_TIMEOUT)
                    .connect_lazy_with(options.clone())
            })
        };
        Ok(Self {
            pool,
            schema: schema.to_owned(),
            most_connections: connections,
            work: WorkConnections::new(options.clone(), (shared - for_requests) as usize),
            turns: Turns::new(options.clone()),
            rebuilds: Arc::new(Semaphore::new(config::POSTGRES_REBUILD_CONNECTIONS.into())),
            options,
            reading,
        })
    }

    /// Checks that no transaction pooler is in front of Postgres, and migrates the schema. Must succeed before any
    /// other call.
    ///
    /// # Errors
    /// If Postgres cannot serve, a transaction pooler is in front of it, or a migration fails.
    pub async fn prepare(&self) -> Result<(), PostgresError> {
        if self.is_behind_transaction_pooler().await? {
            return Err(PostgresError::Statement(
                "DATABASE_URL leads through a transaction pooler: connect to Postgres itself, or use the pooler's \
                 session mode"
                    .into(),
            ));
        }
        self.migrate().await
    }

    /// Migrates the schema to this program's version, on a dedicated connection: a failed migration keeps its advisory
    /// lock until the connection is closed.
    async fn migrate(&self) -> Result<(), PostgresError> {
        let mut connection = self.dedicated().await?;
        // Without this lock, a second process that creates the same schema would fail at a unique index of Postgres's
        // catalogue. The wait has no `lock_timeout`, since another process's migration may take longer than other locks
        // are held.
        sqlx::query("set lock_timeout = 0").execute(&mut connection).await?;
        sqlx::query("select pg_advisory_lock(hashtextextended($1 || '/schema', 0))")
            .bind(&self.schema)
            .execute(&mut connection)
            .await?;
        sqlx::query("reset lock_timeout").execute(&mut connection).await?;
        let create = format!("create schema if not exists {}", self.schema);
        sqlx::query(AssertSqlSafe(create)).execute(&mut connection).await?;
        MIGRATIONS.run_direct(None, &mut connection, false).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(error) => PostgresError::from(error),
            other => PostgresError::Statement(format!("migration: {other}")),
        })?;
        connection.close().await?;
        Ok(())
    }

    /// Whether there is a transaction pooler in front of Postgres: two connections then share one server process, and
    /// our session-level lock could belong to another client.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn is_behind_transaction_pooler(&self) -> Result<bool, PostgresError> {
        let pid = "select pg_backend_pid()";
        let (mut one, mut two) = (self.dedicated().await?, self.dedicated().await?);
        let mut shared = false;
        for _ in 0..3 {
            let first: i32 = sqlx::query_scalar(pid).fetch_one(&mut one).await?;
            let second: i32 = sqlx::query_scalar(pid).fetch_one(&mut two).await?;
            shared |= first == second;
        }
        one.close().await?;
        two.close().await?;
        Ok(shared)
    }

    /// Opens a connection beyond those of the running program: for the start, a rebuild and the tools.
    ///
    /// # Errors
    /// If Postgres cannot be reached within `POSTGRES_CONNECT_TIMEOUT`.
    pub async fn dedicated(&self) -> Result<PgConnection, PostgresError> {
        connect_with(&self.options).await
    }

    /// Uses no open connection again: they lead to a server that another has replaced, and that may never answer.
    pub fn renew_connections(&self) {
        self.pool.renew();
        self.work.renew();
    }

    /// The folder of an embedded Postgres: its disk and log may show why it does not answer. `None` for other servers.
    #[must_use]
    pub fn store_folder(&self) -> Option<&Path> {
        store_folder(&self.options)
    }

    /// The schema of all tables.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The most connections that the running program opens, one of a rebuild included.
    #[must_use]
    pub fn most_connections(&self) -> i64 {
        i64::from(self.most_connections) + i64::from(config::POSTGRES_REBUILD_CONNECTIONS)
    }

    /// Closes the pool; waits at most `POSTGRES_CONNECT_TIMEOUT` for a Postgres that does not answer.
    pub async fn close(&self) {
        if tokio::time::timeout(config::POSTGRES_CONNECT_TIMEOUT, self.pool.current().close()).await.is_err()
        {
            tracing::debug!("the connections to Postgres were not closed in time");
        }
    }
}

async fn connect_with(options: &PgConnectOptions) -> Result<PgConnection, PostgresError> {
    let connecting = PgConnection::connect_with(options);
    let why = match tokio::time::timeout(config::POSTGRES_CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) => error.into(),
        Err(_) => PostgresError::Transient("connecting took too long".into()),
    };
    Err(match (why, store_folder(options).and_then(disk::shortage)) {
        (PostgresError::Transient(why), Some(shortage)) => {
            PostgresError::Transient(format!("{why}; {shortage}"))
        }
        (why, _) => why,
    })
}

fn store_folder(options: &PgConnectOptions) -> Option<&Path> {
    options.get_socket().map(PathBuf::as_path).filter(|folder| disk::is_embedded_store(folder))
}

/// The only place that classifies errors of Postgres, by the class of the SQLSTATE
/// (<https://www.postgresql.org/docs/15/errcodes-appendix.html>).
impl From<sqlx::Error> for PostgresError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return match error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::Protocol(_) => Self::Transient(error.to_string()),
                other => Self::Statement(other.to_string()),
            };
        };
        let code = database.code().unwrap_or_default();
        let text = format!("{} ({code})", database.message());
        // The caller drops the connection; a new connection prepares its own statements.
        if pool::is_stale(&error) {
            return Self::Transient(format!("a table has changed since a statement was prepared: {text}"));
        }
        match code.get(..2).unwrap_or_default() {
            "08" | "25" | "28" | "40" | "53" | "55" | "57" | "58" => Self::Transient(text),
            "22" | "23" | "54" => Self::Row(text),
            _ => Self::Statement(text),
        }
    }
}
