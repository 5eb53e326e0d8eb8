//! Table `dead_letters`: order events that can never be recorded. One transaction inserts the dead letter, the order as
//! `rejected`, and its unit into the outbox.

use serde_json::json;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::QueryScalar;
use sqlx::{Connection, FromRow, PgConnection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::audit::{self, AuditEntry};
use super::fence;
use super::{Pool, PostgresError};
use crate::domain::{AuditAction, CouponId, Epoch, IdempotencyKey, OrderEvent, OrderId, Origin};

const REJECT: &str = include_str!("../../sql/queries/reject_order.sql");
const ALONE: &str = include_str!("../../sql/queries/dead_letter_alone.sql");

/// Reads letters. Casts each column to the type that the code decodes, so that a later schema may change the column's
/// type.
macro_rules! select_letters {
    ($rest:literal) => {
        concat!(
            "select id::bigint, partition::smallint, entry_id::text, order_id::uuid, fields::bytea, error::text, deliveries::bigint,
                died_at::timestamptz, seen_at::timestamptz, replaced_by::uuid from dead_letters ",
            $rest
        )
    };
}

/// A dead letter to insert.
#[derive(Clone, Debug)]
pub struct Letter<'a> {
    /// `None` if a rebuild found a claim without an entry.
    pub entry_id: Option<&'a str>,
    /// The entry's fields, as [`encode_fields`] writes them.
    pub fields: Vec<u8>,
    /// Why the event cannot be recorded, for the operator.
    pub error: &'a str,
    /// How often Redis delivered the entry.
    pub deliveries: Option<i64>,
}

/// The result of ending an event with a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterOutcome {
    /// Written by this transaction.
    Written,
    /// The event has an order row or a dead letter already; nothing was written.
    AlreadyEnded,
    /// The fence row has another epoch or another Postgres; nothing was written.
    Fenced,
}

impl LetterOutcome {
    fn read(row: &PgRow, written: &str) -> Result<Self, PostgresError> {
        Ok(match (row.try_get("fenced")?, row.try_get(written)?) {
            (true, _) => Self::Fenced,
            (false, true) => Self::Written,
            (false, false) => Self::AlreadyEnded,
        })
    }
}

/// Ends an event as a rejected order with its dead letter, and puts its unit into the outbox.
///
/// # Errors
/// If Postgres cannot serve, or refuses a row or a statement; then nothing is written.
pub async fn reject(
    connection: &mut PgConnection,
    epoch: &Epoch,
    event: &OrderEvent,
    letter: &Letter<'_>,
) -> Result<LetterOutcome, PostgresError> {
    let mut transaction = connection.begin().await?;
    fence::lock_shared(&mut transaction, epoch.partition).await?;
    let outcome = reject_in(&mut transaction, epoch, event, letter, false).await?;
    transaction.commit().await?;
    Ok(outcome)
}

/// As [`reject`], in a transaction that already has the fence's lock. A rebuild may call this on a Postgres that has
/// lost commits.
pub(super) async fn reject_in(
    connection: &mut PgConnection,
    epoch: &Epoch,
    event: &OrderEvent,
    letter: &Letter<'_>,
    is_rebuild: bool,
) -> Result<LetterOutcome, PostgresError> {
    let row = sqlx::query(REJECT)
        .bind(epoch.partition.number())
        .bind(epoch.as_str())
        .bind(event.order.0)
        .bind(event.coupon.as_str())
        .bind(event.user.as_str())
        .bind(event.claimed_at())
        .bind(letter.entry_id)
        .bind(&letter.fields)
        .bind(letter.error)
        .bind(letter.deliveries)
        .bind(is_rebuild)
        .bind(event.slot)
        .bind(event.key.as_ref().map(IdempotencyKey::as_str))
        .fetch_one(connection)
        .await?;
    LetterOutcome::read(&row, "rejected")
}

/// Writes only a dead letter, for an entry that cannot become an order row; the entry's id is the key.
///
/// # Errors
/// As [`reject`].
pub async fn keep_unreadable(
    connection: &mut PgConnection,
    epoch: &Epoch,
    order: Option<OrderId>,
    letter: &Letter<'_>,
) -> Result<LetterOutcome, PostgresError> {
    let mut transaction = connection.begin().await?;
    fence::lock_shared(&mut transaction, epoch.partition).await?;
    let row = sqlx::query(ALONE)
        .bind(epoch.partition.number())
        .bind(epoch.as_str())
        .bind(letter.entry_id)
        .bind(&letter.fields)
        .bind(letter.error)
        .bind(letter.deliveries)
        .bind(order.map(|order| order.0))
        .fetch_one(&mut *transaction)
        .await?;
    let outcome = LetterOutcome::read(&row, "inserted")?;
    transaction.commit().await?;
    Ok(outcome)
}

/// A row of the table.
#[derive(Clone, Debug, FromRow)]
pub struct DeadLetter {
    pub id: i64,
    pub partition: i16,
    pub entry_id: Option<String>,
    pub order_id: Option<Uuid>,
    pub fields: Vec<u8>,
    pub error: String,
    pub deliveries: Option<i64>,
    pub died_at: OffsetDateTime,
    pub seen_at: Option<OffsetDateTime>,
    pub replaced_by: Option<Uuid>,
}

/// One page of letters with ids below `before`, newest first.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn list(pool: &Pool, before: Option<i64>, limit: i64) -> Result<Vec<DeadLetter>, PostgresError> {
    let query = sqlx::query_as(select_letters!("where id < $1 order by id desc limit $2"));
    Ok(query.bind(before.unwrap_or(i64::MAX)).bind(limit).fetch_all(pool).await?)
}

/// The letter of this id, if any.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn get(pool: &Pool, id: i64) -> Result<Option<DeadLetter>, PostgresError> {
    Ok(sqlx::query_as(select_letters!("where id = $1")).bind(id).fetch_optional(pool).await?)
}

/// Marks a letter as seen by an operator, and records the change in the audit log. A second call changes nothing.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn mark_seen(
    pool: &Pool,
    letter: i64,
    coupon: Option<&CouponId>,
    origin: &Origin,
) -> Result<(), PostgresError> {
    let query = "update dead_letters set seen_at = clock_timestamp() where id = $1 and seen_at is null
        returning order_id::uuid";
    let query = sqlx::query_scalar(query).bind(letter);
    let new = json!({ "letter": letter });
    let entry =
        AuditEntry { origin, action: AuditAction::Discard, coupon, order: None, old: None, new: Some(new) };
    mark(pool, query, entry).await
}

/// Marks a letter as seen and as replaced by the order of a replay, and records the change in the audit log. A second
/// call changes nothing.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn mark_replaced(
    pool: &Pool,
    letter: i64,
    coupon: &CouponId,
    order: OrderId,
    origin: &Origin,
) -> Result<(), PostgresError> {
    let query = "update dead_letters set replaced_by = $2, seen_at = coalesce(seen_at, clock_timestamp())
        where id = $1 and replaced_by is null
        returning order_id::uuid";
    let query = sqlx::query_scalar(query).bind(letter).bind(order.0);
    let new = Some(json!({ "letter": letter, "replaced_by": order }));
    let (action, coupon) = (AuditAction::Replay, Some(coupon));
    mark(pool, query, AuditEntry { origin, action, coupon, order: None, old: None, new }).await
}

/// Runs an update that returns the order of each letter that it changed, and records the change.
async fn mark(
    pool: &Pool,
    update: QueryScalar<'_, sqlx::Postgres, Option<Uuid>, PgArguments>,
    entry: AuditEntry<'_>,
) -> Result<(), PostgresError> {
    let mut transaction = pool.current().begin().await?;
    if let Some(order) = update.persistent(false).fetch_optional(&mut *transaction).await? {
        audit::record(&mut transaction, &AuditEntry { order: order.map(OrderId), ..entry }).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// The order that a replay made in place of this rejected order, if any.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn replacement(pool: &Pool, order: OrderId) -> Result<Option<OrderId>, PostgresError> {
    let replaced_by: Option<Option<Uuid>> = sqlx::query_scalar(
        "select replaced_by::uuid from dead_letters where order_id = $1 and replaced_by is not null limit 1",
    )
    .bind(order.0)
    .fetch_optional(pool)
    .await?;
    Ok(replaced_by.flatten().map(OrderId))
}

/// Encodes an entry's fields and values as a RESP array
/// (<https://redis.io/docs/latest/develop/reference/protocol-spec/>): the array can hold any bytes, and `encode(fields,
/// 'escape')` shows it in psql.
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

/// Decodes what [`encode_fields`] wrote; `None` for any other bytes.
#[must_use]
pub fn decode_fields(encoded: &[u8]) -> Option<Vec<&[u8]>> {
    let (count, mut rest) = read_length(encoded, b'*')?;
    let mut fields = Vec::new();
    for _ in 0..count {
        let (length, after) = read_length(rest, b'$')?;
        fields.push(after.get(..length)?);
        rest = after.get(length..)?.strip_prefix(b"\r\n")?;
    }
    rest.is_empty().then_some(fields)
}

fn read_length(bytes: &[u8], kind: u8) -> Option<(usize, &[u8])> {
    let bytes = bytes.strip_prefix(&[kind])?;
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let length = std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()?;
    Some((length, &bytes[end + 2..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn fields_of_any_bytes_come_back_as_they_were(fields: Vec<Vec<u8>>) {
            let encoded = encode_fields(&fields);
            proptest::prop_assert_eq!(decode_fields(&encoded).unwrap(), fields);
        }

        #[test]
        fn decoding_any_bytes_never_panics(bytes: Vec<u8>) {
            drop(decode_fields(&bytes));
        }
    }
}
