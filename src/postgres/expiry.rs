//! Ends the reserved orders in table `orders` whose time to pay is over. Postgres's clock alone decides.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::PostgresError;
use super::fence;
use super::transitions::end_reserved;
use crate::domain::{Epoch, OrderId, Partition};

/// Locks the oldest overdue orders of the partition. Skips the orders that another transaction has locked: it may be ending them.
const LOCK_OLDEST: &str = "select id::uuid from orders
    where status = 'reserved' and partition = $2 and reserved_until <= statement_timestamp()
    order by reserved_until limit $1 for no key update skip locked";
/// Locks the overdue ones of the given orders. Waits for transactions that have locked one of them. All transactions
/// that wait take locks in the order of ids, so that they cannot deadlock. `coalesce` keeps the lookup by id: a plan for
/// few reserved orders would read all of them.
const LOCK_GIVEN: &str = "select id::uuid from orders
    where id = any($1) and coalesce(status = 'reserved' and reserved_until <= statement_timestamp(), false)
    order by id for no key update";
/// Reads one entry of the index, whatever Postgres believes of the table; `min` would read all of the partition's.
const UNTIL_NEXT: &str = "select (select extract(epoch from reserved_until - clock_timestamp()) from orders
        where status = 'reserved' and partition = $1 order by reserved_until limit 1)::double precision";

/// Which overdue orders a transaction expires.
#[derive(Clone, Copy, Debug)]
pub enum Overdue<'a> {
    /// At most this number of orders, the oldest first, without the orders that another transaction has locked.
    Oldest(usize),
    /// The given orders, as far as they are overdue.
    Given(&'a [OrderId]),
}

/// The result of one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpireOutcome {
    /// The orders that were expired.
    Expired(Vec<OrderId>),
    /// The fence row has another epoch or another Postgres, or this Postgres is an older copy: nothing was written.
    Fenced,
}

/// Expires overdue orders in one transaction: changes status and stock, and writes outbox rows. `position` is the WAL
/// position that the caller has read from Redis before. If Postgres is behind it, nothing expires.
///
/// # Errors
/// If Postgres cannot serve; then nothing is written.
pub async fn expire(
    connection: &mut PgConnection,
    epoch: &Epoch,
    position: &str,
    which: Overdue<'_>,
) -> Result<ExpireOutcome, PostgresError> {
    let mut transaction = connection.begin().await?;
    fence::lock_shared(&mut transaction, epoch.partition).await?;
    let lock = match which {
        Overdue::Oldest(limit) => sqlx::query_scalar(LOCK_OLDEST)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(epoch.partition.number()),
        Overdue::Given(orders) => {
            sqlx::query_scalar(LOCK_GIVEN).bind(orders.iter().map(|order| order.0).collect::<Vec<Uuid>>())
        }
    };
    let ids: Vec<Uuid> = lock.fetch_all(&mut *transaction).await?;
    let users = vec![None; ids.len()];
    let (fenced, expired) = end_reserved(&mut transaction, epoch, position, ids, users, "expired").await?;
    transaction.commit().await?;
    let expired = expired.into_iter().map(OrderId).collect();
    Ok(if fenced { ExpireOutcome::Fenced } else { ExpireOutcome::Expired(expired) })
}

/// The time until the next reserved order of the partition is overdue; zero if an order is overdue, `None` without a reserved order.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn next_deadline(
    connection: &mut PgConnection,
    partition: Partition,
) -> Result<Option<Duration>, PostgresError> {
    let seconds: Option<f64> =
        sqlx::query_scalar(UNTIL_NEXT).bind(partition.number()).fetch_one(connection).await?;
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)))
}
