//! The fence row: the epoch of the present agreement and the servers it was made between.

use sqlx::{FromRow, PgConnection, PgExecutor};

use super::{Pool, PostgresError};

/// The one partition of now.
pub const PARTITION: i32 = 0;

#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct FenceRow {
    pub epoch: String,
    pub postgres_identity: String,
    pub redis_run_id: String,
    pub redis_replid: String,
    pub postgres_lost: bool,
    /// Who answers, to be compared with `postgres_identity`.
    pub this_postgres: String,
    /// How far this Postgres has made its WAL durable, with all digits: positions compare as text. `None`
    /// in a row that was read earlier.
    pub lsn: Option<String>,
}

const READ: &str = "select epoch::text, postgres_identity::text, redis_run_id::text, redis_replid::text,
    postgres_lost::boolean, postgres_identity() as this_postgres, durable_lsn() as lsn from fence where partition = $1";

pub async fn read(pool: &Pool) -> Result<FenceRow, PostgresError> {
    Ok(sqlx::query_as(READ).bind(PARTITION).fetch_one(pool).await?)
}

/// First statement of every transaction that records or rejects: held to its end, it keeps a rebuild
/// from reading before this transaction has ended. The epoch is to be read in a later statement.
pub async fn lock_shared(connection: &mut PgConnection) -> Result<(), PostgresError> {
    sqlx::query(
        "select pg_advisory_xact_lock_shared(hashtextextended(current_schema() || '/fence/' || $1::int, 0))",
    )
    .bind(PARTITION)
    .execute(connection)
    .await?;
    Ok(())
}

/// Waits out every open transaction that records or rejects.
pub async fn lock_exclusive(connection: &mut PgConnection) -> Result<(), PostgresError> {
    sqlx::query(
        "select pg_advisory_xact_lock(hashtextextended(current_schema() || '/fence/' || $1::int, 0))",
    )
    .bind(PARTITION)
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes the session-level lock that lets one process rebuild at a time; `false` where another has it.
pub async fn try_lock_rebuild(connection: &mut PgConnection) -> Result<bool, PostgresError> {
    Ok(sqlx::query_scalar(
        "select pg_try_advisory_lock(hashtextextended(current_schema() || '/rebuild/' || $1::int, 0))",
    )
    .bind(PARTITION)
    .fetch_one(connection)
    .await?)
}

pub async fn read_in(connection: &mut PgConnection) -> Result<FenceRow, PostgresError> {
    Ok(sqlx::query_as(READ).bind(PARTITION).fetch_one(connection).await?)
}

/// How far this Postgres has made its WAL durable.
pub async fn durable_lsn(executor: impl PgExecutor<'_>) -> Result<String, PostgresError> {
    Ok(sqlx::query_scalar("select durable_lsn()").fetch_one(executor).await?)
}

/// Notes that this Postgres has lost commits.
pub async fn flag_lost(connection: &mut PgConnection) -> Result<(), PostgresError> {
    sqlx::query("update fence set postgres_lost = true where partition = $1")
        .bind(PARTITION)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes that the agreement with the given Redis is made and what this Postgres had lost made good, unless another
/// rebuild has begun since.
pub async fn settle(
    connection: &mut PgConnection,
    epoch: &str,
    redis_run_id: &str,
    redis_replid: &str,
) -> Result<(), PostgresError> {
    sqlx::query(
        "update fence set postgres_lost = false, redis_run_id = $3, redis_replid = $4
         where partition = $1 and epoch = $2",
    )
    .bind(PARTITION)
    .bind(epoch)
    .bind(redis_run_id)
    .bind(redis_replid)
    .execute(connection)
    .await?;
    Ok(())
}

/// Starts a new agreement between this Postgres and the given Redis; no Redis of that name where it is not known to
/// be as new as this Postgres, and must not count as that after a kill.
pub async fn write_epoch(
    connection: &mut PgConnection,
    epoch: &str,
    redis_run_id: &str,
    redis_replid: &str,
    postgres_lost: bool,
) -> Result<(), PostgresError> {
    sqlx::query(
        "update fence set epoch = $2, postgres_identity = postgres_identity(), redis_run_id = $3,
            redis_replid = $4, postgres_lost = $5, rebuilt_at = clock_timestamp() where partition = $1",
    )
    .bind(PARTITION)
    .bind(epoch)
    .bind(redis_run_id)
    .bind(redis_replid)
    .bind(postgres_lost)
    .execute(connection)
    .await?;
    Ok(())
}
