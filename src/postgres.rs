//! Everything that knows sqlx: connections, what every session is set to, migrations, and the classes of
//! Postgres's errors. The statements are grouped by intent in the files below; the larger ones lie in `sql/`.
//!
//! Work on the pool is never dropped half-way (a cancelled `begin` can poison it): callers that may be
//! cancelled spawn it, and deadlines are Postgres's own. A dedicated connection may be dropped at any
//! moment, with whatever was under way on it.

pub mod coupons;
pub mod dead_letters;
pub mod fence;
pub mod health;
pub mod orders;
pub mod outbox;
mod pool;
pub mod rebuild;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use sqlx::migrate::Migrator;
pub use sqlx::postgres::PgConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection};

pub use pool::Pool;

use crate::{config, disk};

static MIGRATIONS: Migrator = sqlx::migrate!("./sql/migrations");

/// Every statement of a session looks up by index what it was given. Left to itself, Postgres keeps the plan it made
/// when a table was still empty, and reads all of it ever after. `jit` would compile whatever has no index to use.
pub const BY_INDEX: [(&str, &str); 4] =
    [("enable_seqscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off"), ("jit", "off")];

/// A pool for requests and looks. Workers and rebuilds have connections of their own, so that a flood of
/// requests never keeps them waiting, and one that gives no answer can be thrown away.
#[derive(Clone)]
pub struct Postgres {
    options: PgConnectOptions,
    /// The same for looking: it cannot write, and has the server's own `synchronous_commit`.
    reading: PgConnectOptions,
    schema: String,
    pub pool: Pool,
}

/// What went wrong with a statement, by what it means for the caller.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PostgresError {
    /// Away, restarting, full, locked, a deadlock: try again for as long as it takes.
    #[error("Postgres cannot serve now: {0}")]
    Transient(String),
    /// The row itself is at fault: trying again cannot help.
    #[error("Postgres refused a row: {0}")]
    Row(String),
    /// Our statement or schema is at fault, or a class that nobody has thought of: keep everything, alarm.
    #[error("Postgres refused a statement: {0}")]
    Statement(String),
}

impl Postgres {
    /// Prepares the pool; connects to nothing yet.
    ///
    /// # Errors
    /// For an address that is no Postgres one.
    pub fn new(url: &str, schema: &str) -> anyhow::Result<Self> {
        // sqlx would take any scheme.
        let is_ours = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
        anyhow::ensure!(is_ours, "DATABASE_URL must start with postgres://");
        let options: PgConnectOptions = url.parse().context("DATABASE_URL is no valid address")?;
        // As libpq does: no TLS on a Unix socket, whatever `sslmode` says.
        let options = match options.get_socket() {
            Some(_) => options.ssl_mode(PgSslMode::Disable),
            None => options,
        };
        let ms = |timeout: Duration| format!("{}ms", timeout.as_millis());
        let options = options.application_name("seckill").statement_cache_capacity(256).options([
            ("search_path", schema.to_owned()),
            ("client_min_messages", "warning".to_owned()),
            ("statement_timeout", ms(config::POSTGRES_STATEMENT_TIMEOUT)),
            ("lock_timeout", ms(config::POSTGRES_LOCK_TIMEOUT)),
            ("idle_in_transaction_session_timeout", ms(config::POSTGRES_IDLE_IN_TRANSACTION_TIMEOUT)),
        ]);
        let reading = options.clone().options([("default_transaction_read_only", "on")]);
        let options = options.options([("synchronous_commit", "on")]).options(BY_INDEX);
        let pool = PgPoolOptions::new()
            .max_connections(config::POSTGRES_POOL_CONNECTIONS)
            .acquire_timeout(config::POSTGRES_CONNECT_TIMEOUT)
            .connect_lazy_with(options.clone());
        Ok(Self { pool: pool.into(), schema: schema.to_owned(), options, reading })
    }

    /// What must be so before anything else: a session connection and this program's schema.
    pub async fn prepare(&self) -> Result<(), PostgresError> {
        if self.is_behind_transaction_pooler().await? {
            return Err(PostgresError::Statement(
                "DATABASE_URL leads through a transaction pooler: give a session connection, \
                 or the pooler's session mode"
                    .into(),
            ));
        }
        self.migrate().await
    }

    /// Brings the schema to this program's version, on a connection of its own: a failed migration
    /// leaks its advisory lock.
    async fn migrate(&self) -> Result<(), PostgresError> {
        let mut connection = self.dedicated().await?;
        // A second process that makes the same schema would fail on its catalogue's unique index. It waits for as
        // long as a statement may take: another one's migration is more than a lock that should be free by now.
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

    /// Whether a transaction pooler stands between us and Postgres: it would hand our session-level
    /// lock to others. Two of our connections then share one server process.
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

    /// A connection of its own, outside the pools.
    pub async fn dedicated(&self) -> Result<PgConnection, PostgresError> {
        connect_with(&self.options).await
    }

    /// That of an embedded store, whose disk and log may tell why it gives no answer.
    #[must_use]
    pub fn store_folder(&self) -> Option<&Path> {
        store_folder(&self.options)
    }

    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// Says goodbye, but does not wait for a Postgres that hangs.
    pub async fn close(&self) {
        if tokio::time::timeout(config::POSTGRES_CONNECT_TIMEOUT, self.pool.close()).await.is_err() {
            tracing::debug!("Postgres was left without a goodbye");
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
    options.get_socket().map(PathBuf::as_path).filter(|folder| disk::is_store(folder))
}

/// The one place where an error of Postgres is classified, by its SQLSTATE's class
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
        // Its connection is thrown away, and the next one prepares its own.
        if pool::is_stale(&error) {
            return Self::Transient(format!("a table has changed under a prepared statement: {text}"));
        }
        match code.get(..2).unwrap_or_default() {
            "08" | "25" | "28" | "40" | "53" | "55" | "57" | "58" => Self::Transient(text),
            "22" | "23" | "54" => Self::Row(text),
            _ => Self::Statement(text),
        }
    }
}
