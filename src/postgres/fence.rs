//! The fence row: the epoch of the present agreement and the servers it was made between.

use sqlx::{FromRow, PgConnection, PgPool};

use super::PostgresError;

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
}

const READ: &str = "select epoch, postgres_identity, redis_run_id, redis_replid, postgres_lost,
    postgres_identity() as this_postgres from fence where partition = $1";

pub async fn read(pool: &PgPool) -> Result<FenceRow, PostgresError> {
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

/// Starts a new agreement between this Postgres and the given Redis.
pub async fn write_epoch(
    connection: &mut PgConnection,
    epoch: &str,
    redis_run_id: &str,
    redis_replid: &str,
) -> Result<(), PostgresError> {
    sqlx::query(
        "update fence set epoch = $2, postgres_identity = postgres_identity(), redis_run_id = $3,
            redis_replid = $4, rebuilt_at = clock_timestamp() where partition = $1",
    )
    .bind(PARTITION)
    .bind(epoch)
    .bind(redis_run_id)
    .bind(redis_replid)
    .execute(connection)
    .await?;
    Ok(())
}
