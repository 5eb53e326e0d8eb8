//! Order events that can never be recorded: kept as dead letters, their orders as `rejected`, their
//! units in the outbox, all in one transaction.

use sqlx::{Connection, PgConnection, Row};

use super::PostgresError;
use super::fence::{self, PARTITION};
use crate::model::{OrderEvent, OrderId};

const REJECT: &str = include_str!("../../sql/queries/reject_order.sql");
const ALONE: &str = include_str!("../../sql/queries/dead_letter_alone.sql");

/// What is kept of an event that died.
#[derive(Clone, Debug)]
pub struct Letter<'a> {
    /// `None` where a rebuild found a claim without an entry.
    pub entry_id: Option<&'a str>,
    /// The entry's fields, as [`encode_fields`] writes them.
    pub fields: Vec<u8>,
    pub error: &'a str,
    pub deliveries: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Written, by this transaction or an earlier one.
    Done,
    /// The epoch is another one, or this is not its Postgres; nothing was written.
    Fenced,
}

/// Ends an event as a rejected order with its dead letter, its unit in the outbox.
pub async fn reject(
    connection: &mut PgConnection,
    epoch: &str,
    event: &OrderEvent,
    letter: &Letter<'_>,
) -> Result<Ended, PostgresError> {
    let mut transaction = connection.begin().await?;
    fence::lock_shared(&mut transaction).await?;
    let ended = reject_in(&mut transaction, epoch, event, letter).await?;
    transaction.commit().await?;
    Ok(ended)
}

/// The same inside a transaction that holds the fence's lock already.
pub(super) async fn reject_in(
    connection: &mut PgConnection,
    epoch: &str,
    event: &OrderEvent,
    letter: &Letter<'_>,
) -> Result<Ended, PostgresError> {
    let row = sqlx::query(REJECT)
        .bind(PARTITION)
        .bind(epoch)
        .bind(event.order.0)
        .bind(event.coupon.as_str())
        .bind(event.user.as_str())
        .bind(event.claimed_at())
        .bind(letter.entry_id)
        .bind(&letter.fields)
        .bind(letter.error)
        .bind(letter.deliveries)
        .fetch_one(connection)
        .await?;
    Ok(if row.try_get("fenced")? { Ended::Fenced } else { Ended::Done })
}

/// Keeps an event that cannot be read as a dead letter alone, keyed by its entry.
pub async fn keep_unreadable(
    connection: &mut PgConnection,
    epoch: &str,
    order: Option<OrderId>,
    letter: &Letter<'_>,
) -> Result<Ended, PostgresError> {
    let mut transaction = connection.begin().await?;
    fence::lock_shared(&mut transaction).await?;
    let row = sqlx::query(ALONE)
        .bind(PARTITION)
        .bind(epoch)
        .bind(letter.entry_id)
        .bind(&letter.fields)
        .bind(letter.error)
        .bind(letter.deliveries)
        .bind(order.map(|order| order.0))
        .fetch_one(&mut *transaction)
        .await?;
    let fenced: bool = row.try_get("fenced")?;
    transaction.commit().await?;
    Ok(if fenced { Ended::Fenced } else { Ended::Done })
}

/// Fields and values as a RESP array: any bytes, and readable with `encode(fields, 'escape')`.
#[must_use]
pub fn encode_fields<B: AsRef<[u8]>>(fields: &[B]) -> Vec<u8> {
    let mut encoded = format!("*{}\r\n", fields.len()).into_bytes();
    for field in fields {
        let field = field.as_ref();
        encoded.extend_from_slice(format!("${}\r\n", field.len()).as_bytes());
        encoded.extend_from_slice(field);
        encoded.extend_from_slice(b"\r\n");
    }
    encoded
}
