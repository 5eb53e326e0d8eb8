//! Confirms, cancels and revokes orders in table `orders`: one transaction with the fence's lock for the orders, the stock
//! in `coupons`, the units in `outbox` and, for a revocation, the row in `audit_log`. The caller decides what a row that
//! was not changed means.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::PostgresError;
use super::audit::{self, AuditEntry};
use super::fence;
use super::orders;
use crate::domain::{AuditAction, Epoch, Order, OrderId, Origin, Partition, UserId};

const CONFIRM: &str = include_str!("../../sql/queries/confirm_orders.sql");
const END: &str = include_str!("../../sql/queries/end_orders.sql");
const REVOKE: &str = include_str!("../../sql/queries/revoke_order.sql");

/// An order that is to be confirmed or cancelled.
#[derive(Clone, Debug)]
pub struct AskedOrder {
    pub order: OrderId,
    /// Only an order of this user is changed; `None` for the admin.
    pub user: Option<UserId>,
}

/// An order that the admin ends.
#[derive(Clone, Debug)]
pub struct Revocation {
    pub order: OrderId,
    pub reason: String,
    /// Whether the unit goes back to stock; else the coupon's total falls by one.
    pub return_unit: bool,
    pub origin: Origin,
}

/// The result of a transaction.
#[derive(Debug)]
pub enum TransitionOutcome {
    /// Committed.
    Done {
        /// The orders that this transaction changed.
        changed: HashSet<OrderId>,
        /// The rows of the asked orders, changed or not. An order without a row is missing.
        rows: HashMap<OrderId, Order>,
    },
    /// The fence row has another epoch or another Postgres, or this Postgres is an older copy: nothing was written.
    Fenced,
    /// The coupon has one unit in all, which cannot be withdrawn; nothing was written.
    LastUnit,
}

/// Confirms those of the orders that are reserved and in time. `position` is the WAL position that the caller has read
/// from Redis before. If Postgres is behind it, nothing is written.
///
/// # Errors
/// If Postgres cannot serve, or refuses a row or a statement; then nothing is written.
pub async fn confirm(
    connection: &mut PgConnection,
    epoch: &Epoch,
    position: &str,
    asked: &[AskedOrder],
) -> Result<TransitionOutcome, PostgresError> {
    let mut transaction = connection.begin().await?;
    let locked = lock(&mut transaction, epoch.partition, asked.iter().map(|asked| asked.order)).await?;
    let (orders, users) = with_rows(asked, &locked);
    let query = sqlx::query_as(CONFIRM).bind(epoch.partition.number()).bind(epoch.as_str()).bind(position);
    let changed = query.bind(orders).bind(users).fetch_one(&mut *transaction).await?;
    let outcome = read(&mut transaction, &locked, changed).await?;
    end(transaction, outcome).await
}

/// Cancels those of the orders that are reserved and in time; their units return.
///
/// # Errors
/// As [`confirm`].
pub async fn cancel(
    connection: &mut PgConnection,
    epoch: &Epoch,
    position: &str,
    asked: &[AskedOrder],
) -> Result<TransitionOutcome, PostgresError> {
    let mut transaction = connection.begin().await?;
    let locked = lock(&mut transaction, epoch.partition, asked.iter().map(|asked| asked.order)).await?;
    let (orders, users) = with_rows(asked, &locked);
    let changed = end_reserved(&mut transaction, epoch, position, orders, users, "cancelled").await?;
    let outcome = read(&mut transaction, &locked, changed).await?;
    end(transaction, outcome).await
}

/// Whether the transaction is fenced, and the orders that it changed.
pub(super) type Changed = (bool, Vec<Uuid>);

/// Ends the orders as `status`, `cancelled` if they are in time or `expired` if they are overdue. The transaction has
/// locked their rows.
pub(super) async fn end_reserved(
    transaction: &mut PgConnection,
    epoch: &Epoch,
    position: &str,
    orders: Vec<Uuid>,
    users: Vec<Option<&str>>,
    status: &str,
) -> Result<Changed, sqlx::Error> {
    let query = sqlx::query_as(END).bind(epoch.partition.number()).bind(epoch.as_str()).bind(position);
    query.bind(orders).bind(users).bind(status).fetch_one(transaction).await
}

/// The asked orders that have a row, and who asks for each.
fn with_rows<'a>(asked: &'a [AskedOrder], locked: &HashSet<OrderId>) -> (Vec<Uuid>, Vec<Option<&'a str>>) {
    let asked = asked.iter().filter(|asked| locked.contains(&asked.order));
    asked.map(|asked| (asked.order.0, asked.user.as_ref().map(UserId::as_str))).unzip()
}

/// Ends one order if it is confirmed.
///
/// # Errors
/// As [`confirm`].
pub async fn revoke(
    connection: &mut PgConnection,
    epoch: &Epoch,
    position: &str,
    revocation: &Revocation,
) -> Result<TransitionOutcome, PostgresError> {
    let Revocation { order, reason, return_unit, origin } = revocation;
    let mut transaction = connection.begin().await?;
    let locked = lock(&mut transaction, epoch.partition, [*order]).await?;
    let withdrawn_units = i32::from(!return_unit);
    let row = locked.iter().next().map(|order| order.0);
    let query = sqlx::query_as(REVOKE)
        .bind(epoch.partition.number())
        .bind(epoch.as_str())
        .bind(position)
        .bind(row)
        .bind(reason);
    let changed: Changed = match query.bind(withdrawn_units).fetch_one(&mut *transaction).await {
        Err(sqlx::Error::Database(error)) if error.constraint() == Some("coupons_total_range") => {
            transaction.rollback().await?;
            return Ok(TransitionOutcome::LastUnit);
        }
        changed => changed?,
    };
    let outcome = read(&mut transaction, &locked, changed).await?;
    if let TransitionOutcome::Done { changed, rows } = &outcome
        && let Some(row) = rows.get(order).filter(|_| changed.contains(order))
    {
        let entry = AuditEntry {
            origin,
            action: AuditAction::Revoke,
            coupon: Some(&row.coupon),
            order: Some(*order),
            old: Some(json!({"status": "confirmed"})),
            new: Some(json!({"status": "cancelled", "reason": reason, "return_unit": return_unit})),
        };
        audit::record(&mut transaction, &entry).await?;
    }
    end(transaction, outcome).await
}

/// Takes the fence's lock and then the rows' locks, in the order of ids: transactions cannot deadlock. Returns the orders
/// of the partition that have a row. One that is recorded later in the transaction is not looked at: it is reserved, and not too late.
async fn lock(
    transaction: &mut PgConnection,
    partition: Partition,
    ids: impl IntoIterator<Item = OrderId>,
) -> Result<HashSet<OrderId>, PostgresError> {
    fence::lock_shared(transaction, partition).await?;
    let locked: Vec<Uuid> = sqlx::query_scalar(
        "select id::uuid from orders where id = any($1) and partition = $2 order by id for update",
    )
    .bind(ids.into_iter().map(|id| id.0).collect::<Vec<Uuid>>())
    .bind(partition.number())
    .fetch_all(transaction)
    .await?;
    Ok(locked.into_iter().map(OrderId).collect())
}

async fn read(
    transaction: &mut PgConnection,
    locked: &HashSet<OrderId>,
    (fenced, changed): Changed,
) -> Result<TransitionOutcome, PostgresError> {
    if fenced {
        return Ok(TransitionOutcome::Fenced);
    }
    let locked: Vec<OrderId> = locked.iter().copied().collect();
    let rows = orders::get_many(transaction, &locked).await?;
    Ok(TransitionOutcome::Done {
        changed: changed.into_iter().map(OrderId).collect(),
        rows: rows.into_iter().map(|row| (row.id, row)).collect(),
    })
}

async fn end(
    transaction: sqlx::Transaction<'_, sqlx::Postgres>,
    outcome: TransitionOutcome,
) -> Result<TransitionOutcome, PostgresError> {
    match outcome {
        TransitionOutcome::Done { .. } => transaction.commit().await?,
        // Not left to the drop, which sends the rollback with the next statement.
        TransitionOutcome::Fenced | TransitionOutcome::LastUnit => transaction.rollback().await?,
    }
    Ok(outcome)
}
