//! Adds coupons: new ones, and those that only Redis has.

use sqlx::PgConnection;

use crate::domain::{AuditAction, Definition, Origin, Partition};
use crate::postgres::audit::{self, AuditEntry};
use crate::postgres::{Pool, PostgresError};

const ADOPT: &str = include_str!("../../../sql/queries/adopt_coupon.sql");

/// Inserts a new coupon of one partition, and records the change in the audit log; `false` if the id exists.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn insert(
    pool: &Pool,
    new: &Definition,
    partition: Partition,
    origin: &Origin,
) -> Result<bool, PostgresError> {
    insert_shares(pool, new, &[(partition, new.clone())], origin).await
}

/// Inserts a new coupon with the definition of each share, and records the change in the audit log; `false` if the id
/// exists. `new` is the definition of the whole.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn insert_shares(
    pool: &Pool,
    new: &Definition,
    shares: &[(Partition, Definition)],
    origin: &Origin,
) -> Result<bool, PostgresError> {
    let mut transaction = pool.current().begin().await?;
    // Two requests that choose different partitions would not conflict by the primary key.
    sqlx::query("select pg_advisory_xact_lock(hashtextextended(current_schema() || '/coupon/' || $1, 0))")
        .bind(new.id.as_str())
        .persistent(false)
        .execute(&mut *transaction)
        .await?;
    let exists: bool = sqlx::query_scalar("select exists (select 1 from coupons where id = $1)")
        .bind(new.id.as_str())
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    if exists {
        transaction.rollback().await?;
        return Ok(false);
    }
    for (partition, share) in shares {
        insert_row(&mut transaction, share, *partition).await?;
    }
    audit::record(&mut transaction, &AuditEntry::of_new(origin, AuditAction::Create, new)).await?;
    transaction.commit().await?;
    Ok(true)
}

async fn insert_row(
    connection: &mut PgConnection,
    new: &Definition,
    partition: Partition,
) -> Result<(), PostgresError> {
    sqlx::query(
        "insert into coupons (id, title, total, stock, starts_at, ends_at, paused, per_user_limit, reserve_seconds,
            durability, waitlist, unlisted, partition, spread, whole)
         values ($1, $2, $3, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(new.id.as_str())
    .bind(&new.title)
    .bind(new.total)
    .bind(new.starts_at)
    .bind(new.ends_at)
    .bind(new.paused)
    .bind(new.per_user_limit)
    .bind(new.reserve_seconds)
    .bind(new.durability.as_str())
    .bind(new.waitlist)
    .bind(new.unlisted)
    .bind(partition.number())
    .bind(new.spread.map_or(1, |spread| spread.shares))
    .bind(new.spread.map(|spread| spread.whole))
    .persistent(false)
    .execute(connection)
    .await?;
    Ok(())
}

/// Inserts a coupon with Redis's definition and version, and records the change in the audit log. Returns the total.
/// The total is raised to the number of live orders, which can be higher if the coupon's row was deleted.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn adopt(
    connection: &mut PgConnection,
    known: &Definition,
    partition: Partition,
    origin: &Origin,
) -> Result<i64, PostgresError> {
    let total = sqlx::query_scalar(ADOPT)
        .bind(known.id.as_str())
        .bind(&known.title)
        .bind(known.total)
        .bind(known.starts_at)
        .bind(known.ends_at)
        .bind(known.paused)
        .bind(known.per_user_limit)
        .bind(known.reserve_seconds)
        .bind(known.durability.as_str())
        .bind(known.waitlist)
        .bind(known.unlisted)
        .bind(known.version)
        .bind(partition.number())
        .bind(known.spread.map_or(1, |spread| spread.shares))
        .bind(known.spread.map(|spread| spread.whole))
        .fetch_one(&mut *connection)
        .await?;
    let adopted = Definition { total, ..known.clone() };
    audit::record(connection, &AuditEntry::of_new(origin, AuditAction::Adopt, &adopted)).await?;
    Ok(total)
}
