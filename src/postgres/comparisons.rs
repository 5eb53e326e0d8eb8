//! Table `comparisons`: the last full comparison of each partition, by whichever process.

use sqlx::PgExecutor;
use time::OffsetDateTime;

use super::{Pool, PostgresError};
use crate::domain::Partition;

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastComparison {
    pub partition: Partition,
    pub compared_at: OffsetDateTime,
    /// How many differences of each kind were found.
    pub differences: Vec<(String, i64)>,
}

/// Replaces the partition's row.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn record(
    executor: impl PgExecutor<'_>,
    partition: Partition,
    differences: &[(&str, usize)],
) -> Result<(), PostgresError> {
    let (kinds, counts): (Vec<&str>, Vec<i64>) =
        differences.iter().map(|(kind, count)| (*kind, i64::try_from(*count).unwrap_or(i64::MAX))).unzip();
    sqlx::query(
        "insert into comparisons (partition, compared_at, kinds, differences) values ($1, clock_timestamp(), $2, $3)
         on conflict (partition) do update set compared_at = excluded.compared_at, kinds = excluded.kinds,
            differences = excluded.differences",
    )
    .bind(partition.number())
    .bind(kinds)
    .bind(counts)
    .execute(executor)
    .await?;
    Ok(())
}

/// The last comparison of each partition that has one.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn read(pool: &Pool) -> Result<Vec<LastComparison>, PostgresError> {
    let rows: Vec<(i16, OffsetDateTime, Vec<String>, Vec<i64>)> = sqlx::query_as(
        "select partition::smallint, compared_at::timestamptz, kinds::text[], differences::bigint[] from comparisons",
    )
    .fetch_all(pool)
    .await?;
    let last = |(partition, compared_at, kinds, counts): (_, _, Vec<String>, Vec<i64>)| LastComparison {
        partition: Partition::new(partition),
        compared_at,
        differences: kinds.into_iter().zip(counts).collect(),
    };
    Ok(rows.into_iter().map(last).collect())
}
