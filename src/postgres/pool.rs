//! The pool for requests and probes: runs each statement on a free connection. If a table has changed since a statement
//! was prepared, the pool prepares the statement again and runs it once more. Connections outside the pool are not
//! handled here: their owner drops them after such an error.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use sqlx::postgres::{PgArguments, PgDatabaseError, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Connection, Describe, Either, Error, Execute, Executor, PgConnection, PgPool, Postgres, SqlStr};

/// Clones share the same connections.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    make: Box<dyn Fn() -> PgPool + Send + Sync>,
    current: RwLock<PgPool>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}

/// All rows and counts that one statement returns.
type Answer = Vec<Either<PgQueryResult, PgRow>>;

/// A statement that can be sent twice.
struct Statement {
    sql: SqlStr,
    arguments: Option<PgArguments>,
}

impl Pool {
    pub(super) fn new(make: impl Fn() -> PgPool + Send + Sync + 'static) -> Self {
        let current = RwLock::new(make());
        Self(Arc::new(Shared { make: Box::new(make), current }))
    }

    /// For callers that need a connection or a transaction: the pool does not repeat their statements.
    #[must_use]
    pub fn current(&self) -> PgPool {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens new connections from now on. Statements on the others run to their end, which may never come.
    pub(super) fn renew(&self) {
        let new = (self.0.make)();
        let old = {
            let mut current = self.0.current.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, new)
        };
        tokio::spawn(async move { old.close().await });
    }

    async fn run(self, statement: Result<Statement, Error>) -> Result<Answer, Error> {
        let statement = statement?;
        let mut connection = self.current().acquire().await?;
        match statement.run(&mut connection).await {
            // Safe to repeat: outside a transaction, a failed statement has written nothing.
            Err(error) if is_stale(&error) => {
                tracing::debug!("preparing the statements of a connection again: {error}");
                connection.clear_cached_statements().await?;
                statement.run(&mut connection).await
            }
            answer => answer,
        }
    }
}

impl Statement {
    fn of<'q>(mut query: impl Execute<'q, Postgres>) -> Result<Self, Error> {
        let arguments = query.take_arguments().map_err(Error::Encode)?;
        Ok(Self { sql: query.sql(), arguments })
    }

    async fn run(&self, connection: &mut PgConnection) -> Result<Answer, Error> {
        connection.fetch_many((self.sql.clone(), self.arguments.clone())).try_collect().await
    }
}

impl<'p> Executor<'p> for &Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let answer = self.clone().run(Statement::of(query));
        let items = async move { answer.await.map(|items| stream::iter(items.into_iter().map(Ok))) };
        stream::once(items).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let answer = self.clone().run(Statement::of(query));
        Box::pin(async move { Ok(answer.await?.into_iter().find_map(Either::right)) })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'p: 'e,
    {
        let pool = self.current();
        Box::pin(async move { pool.acquire().await?.prepare_with(sql, parameters).await })
    }

    // Hidden in sqlx's docs; required by the feature that `migrate!` needs.
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'p: 'e,
    {
        let pool = self.current();
        Box::pin(async move { pool.acquire().await?.describe(sql).await })
    }
}

/// Whether a prepared statement is stale: its table has changed, or the session has lost the statement.
pub(super) fn is_stale(error: &Error) -> bool {
    let Error::Database(error) = error else { return false };
    let routine = error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::routine);
    match error.code().as_deref() {
        // "cached plan must not change result type", in any language of the server
        Some("0A000") => routine == Some("RevalidateCachedQuery"),
        // The session does not have the statement (a pooler has reset it), or has another one of that name.
        Some("26000" | "42P05") => true,
        // A type or table of the statement was dropped and created again; the text is never translated.
        Some("XX000") => error.message().starts_with("cache lookup failed"),
        _ => false,
    }
}
