//! Table `fence`: the epoch of the current agreement and the two servers that agreed; and the locks of the fence.

use sqlx::postgres::PgRow;
use sqlx::{Connection, FromRow, PgConnection, PgExecutor, Row};

use super::{Pool, Postgres, PostgresError};
use crate::domain::{Epoch, Partition};

/// The row, and the state of the server that returned it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct FenceRow {
    #[sqlx(flatten)]
    pub epoch: Epoch,
    pub postgres_identity: String,
    pub redis_run_id: String,
    pub redis_replid: String,
    /// This Postgres has lost commits, and a rebuild has not repaired that yet.
    pub postgres_lost: bool,
    /// The identity of the server that returned the row, to compare with `postgres_identity`.
    pub this_postgres: String,
    /// The durable WAL position, padded so that positions compare as text. `None` in a row that was read earlier.
    pub lsn: Option<String>,
    /// The epoch of the last agreement; empty if there was none.
    pub agreed_epoch: String,
    agreed_postgres: String,
    /// At the last agreement, commits waited for a synchronous standby.
    pub agreed_with_standby: bool,
    waits_for_standby: bool,
}

impl FenceRow {
    /// The identity of the Postgres of the last agreement; empty if there was none.
    #[must_use]
    pub fn agreed_postgres(&self) -> &str {
        if self.agreed_postgres.is_empty() { &self.postgres_identity } else { &self.agreed_postgres }
    }

    /// Whether the row has what the agreement rests on now.
    #[must_use]
    pub fn has_current_terms(&self) -> bool {
        self.agreed_epoch == self.epoch.as_str()
            && self.agreed_postgres == self.postgres_identity
            && self.agreed_with_standby == self.waits_for_standby
    }
}

impl FromRow<'_, PgRow> for Epoch {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self::new(Partition::new(row.try_get("partition")?), row.try_get("epoch")?))
    }
}

const READ: &str = "select partition::smallint, epoch::text, postgres_identity::text, redis_run_id::text, redis_replid::text,
    postgres_lost::boolean, postgres_identity() as this_postgres, durable_lsn() as lsn, agreed_epoch::text,
    agreed_postgres::text, agreed_with_standby::boolean, current_setting('synchronous_standby_names') <> '' as waits_for_standby
    from fence where partition = $1";

/// The message is written after the position is read. Its commit waits until the synchronous standby has the WAL before
/// it: the position of this server alone may be ahead of every standby, and a failover would then look like a loss.
const POSITION: &str = "select durable_lsn() as position,
        case when current_setting('synchronous_standby_names') <> '' then
            pg_logical_emit_message(true, 'seckill', '')::text
        end as sent
    from fence where partition = $1 and epoch = $2 and postgres_identity = postgres_identity()";

const TERMS: &str = "update fence set agreed_epoch = epoch, agreed_postgres = postgres_identity,
        agreed_with_standby = current_setting('synchronous_standby_names') <> ''
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity()";

/// Adds partitions until there are `count`, and returns all. Removes none: a coupon belongs to its partition for ever.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn add_partitions(postgres: &Postgres, count: usize) -> Result<Vec<Partition>, PostgresError> {
    let numbers: Vec<i16> = Partition::NUMBERS.into_iter().take(count).collect();
    let mut connection = postgres.dedicated().await?;
    sqlx::query(
        "insert into fence (partition, epoch) select unnest($1::smallint[]), '0-0' on conflict do nothing",
    )
    .bind(numbers)
    .execute(&mut connection)
    .await?;
    let partitions = partitions(&mut connection).await?;
    connection.close().await?;
    Ok(partitions)
}

/// All partitions, by number.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn partitions(executor: impl PgExecutor<'_>) -> Result<Vec<Partition>, PostgresError> {
    let numbers: Vec<i16> = sqlx::query_scalar("select partition::smallint from fence order by partition")
        .fetch_all(executor)
        .await?;
    Ok(numbers.into_iter().map(Partition::new).collect())
}

/// Reads the row on the pool.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn read(pool: &Pool, partition: Partition) -> Result<FenceRow, PostgresError> {
    Ok(sqlx::query_as(READ).bind(partition.number()).fetch_one(pool).await?)
}

/// Takes the fence's shared lock: the first statement of every transaction that records or rejects. A rebuild waits for
/// the end of the transaction. The epoch must be read in a later statement.
///
/// # Errors
/// If Postgres cannot serve, or a rebuild has the lock for longer than `lock_timeout`.
pub async fn lock_shared(connection: &mut PgConnection, partition: Partition) -> Result<(), PostgresError> {
    sqlx::query(
        "select pg_advisory_xact_lock_shared(hashtextextended(current_schema() || '/fence/' || $1::int, 0))",
    )
    .bind(partition.number())
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes the fence's exclusive lock: waits for every open transaction that records or rejects.
///
/// # Errors
/// If Postgres cannot serve, or a transaction is open for longer than `lock_timeout`.
pub async fn lock_exclusive(
    connection: &mut PgConnection,
    partition: Partition,
) -> Result<(), PostgresError> {
    sqlx::query(
        "select pg_advisory_xact_lock(hashtextextended(current_schema() || '/fence/' || $1::int, 0))",
    )
    .bind(partition.number())
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes the session-level lock of a rebuild; `false` if another process has the lock.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn try_lock_rebuild(
    connection: &mut PgConnection,
    partition: Partition,
) -> Result<bool, PostgresError> {
    Ok(sqlx::query_scalar(
        "select pg_try_advisory_lock(hashtextextended(current_schema() || '/rebuild/' || $1::int, 0))",
    )
    .bind(partition.number())
    .fetch_one(connection)
    .await?)
}

/// Takes the session-level lock of a kind of comparison; `false` if another process has the lock.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn try_lock_comparison(
    connection: &mut PgConnection,
    partition: Partition,
    kind: &str,
) -> Result<bool, PostgresError> {
    Ok(sqlx::query_scalar(
        "select pg_try_advisory_lock(hashtextextended(current_schema() || '/compare/' || $2 || '/' || $1::int, 0))",
    )
    .bind(partition.number())
    .bind(kind)
    .fetch_one(connection)
    .await?)
}

/// Releases the lock of [`try_lock_comparison`].
///
/// # Errors
/// If Postgres cannot serve.
pub async fn unlock_comparison(
    connection: &mut PgConnection,
    partition: Partition,
    kind: &str,
) -> Result<(), PostgresError> {
    sqlx::query(
        "select pg_advisory_unlock(hashtextextended(current_schema() || '/compare/' || $2 || '/' || $1::int, 0))",
    )
    .bind(partition.number())
    .bind(kind)
    .execute(connection)
    .await?;
    Ok(())
}

/// As [`read`], on a dedicated connection.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn read_in(connection: &mut PgConnection, partition: Partition) -> Result<FenceRow, PostgresError> {
    Ok(sqlx::query_as(READ).bind(partition.number()).fetch_one(connection).await?)
}

/// The durable WAL position of this Postgres, padded so that positions compare as text.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn durable_lsn(executor: impl PgExecutor<'_>) -> Result<String, PostgresError> {
    Ok(sqlx::query_scalar("select durable_lsn()").fetch_one(executor).await?)
}

/// A position that covers every commit on this Postgres so far, to be recorded in Redis; `None` if this is not the Postgres
/// of the epoch. If there is a synchronous standby, it has everything up to the position.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn position_to_record(
    executor: impl PgExecutor<'_>,
    epoch: &Epoch,
) -> Result<Option<String>, PostgresError> {
    let position = sqlx::query_scalar(POSITION).bind(epoch.partition.number()).bind(epoch.as_str());
    // The end of all rows comes after the commit.
    Ok(position.fetch_all(executor).await?.pop())
}

/// Records that the stores have agreed in this epoch, on the Postgres that the row names.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn record_last_agreement(
    executor: impl PgExecutor<'_>,
    epoch: &Epoch,
) -> Result<(), PostgresError> {
    let agreed = "update fence set agreed_epoch = epoch, agreed_postgres = postgres_identity
        where partition = $1 and epoch = $2";
    sqlx::query(agreed).bind(epoch.partition.number()).bind(epoch.as_str()).execute(executor).await?;
    Ok(())
}

/// Records what the agreement of the epoch rests on.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn record_terms(executor: impl PgExecutor<'_>, epoch: &Epoch) -> Result<(), PostgresError> {
    sqlx::query(TERMS).bind(epoch.partition.number()).bind(epoch.as_str()).execute(executor).await?;
    Ok(())
}

/// Records that this Postgres has lost commits.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn flag_postgres_loss(
    connection: &mut PgConnection,
    partition: Partition,
) -> Result<(), PostgresError> {
    sqlx::query("update fence set postgres_lost = true where partition = $1")
        .bind(partition.number())
        .execute(connection)
        .await?;
    Ok(())
}

/// Records that Redis and Postgres agree and that lost commits are repaired, unless another rebuild has begun since.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn record_agreement(
    connection: &mut PgConnection,
    epoch: &Epoch,
    redis_run_id: &str,
    redis_replid: &str,
) -> Result<(), PostgresError> {
    sqlx::query(
        "update fence set postgres_lost = false, redis_run_id = $3, redis_replid = $4
         where partition = $1 and epoch = $2",
    )
    .bind(epoch.partition.number())
    .bind(epoch.as_str())
    .bind(redis_run_id)
    .bind(redis_replid)
    .execute(&mut *connection)
    .await?;
    record_terms(connection, epoch).await
}

/// Starts a new epoch with the given Redis. The names of Redis are empty if Redis may be older than this Postgres: it
/// must not count as the Redis of this epoch, even if the rebuild is killed.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn write_epoch(
    connection: &mut PgConnection,
    epoch: &Epoch,
    redis_run_id: &str,
    redis_replid: &str,
    postgres_lost: bool,
) -> Result<(), PostgresError> {
    sqlx::query(
        "update fence set epoch = $2, postgres_identity = postgres_identity(), redis_run_id = $3,
            redis_replid = $4, postgres_lost = $5, rebuilt_at = clock_timestamp() where partition = $1",
    )
    .bind(epoch.partition.number())
    .bind(epoch.as_str())
    .bind(redis_run_id)
    .bind(redis_replid)
    .bind(postgres_lost)
    .execute(connection)
    .await?;
    Ok(())
}
