//! Table `orders`: records order events in batches, and reads orders.

use sqlx::postgres::PgRow;
use sqlx::{Connection, FromRow, PgConnection, PgExecutor, Row};
use std::collections::{BTreeMap, HashMap, HashSet};
use time::OffsetDateTime;
use uuid::Uuid;

use super::fence;
use super::{Pool, PostgresError};
use crate::domain::{
    CouponId, Epoch, IdempotencyKey, Order, OrderEvent, OrderId, OrderStatus, Partition, UserId,
};

const RECORD: &str = include_str!("../../sql/queries/record_orders.sql");
/// Has no `on conflict`: this costs Postgres a quarter less, but fails if an event has a row or conflicts with another
/// order.
const RECORD_NEW: &str = include_str!("../../sql/queries/record_new_orders.sql");
const TAKE_STOCK: &str = include_str!("../../sql/queries/take_stock.sql");
const EXPLAIN_MISSING: &str = include_str!("../../sql/queries/explain_missing.sql");

/// Reads orders. Names each column and casts it to the decoded type, so that a later schema may change the column's
/// type. If an operator has set `reserved_until` to `infinity`, the query returns a time in the program's range.
macro_rules! select_orders {
    ($rest:literal) => {
        concat!(
            "select id::uuid, coupon_id::text, user_id::text, slot::smallint, status::text, claimed_at::timestamptz,
                recorded_at::timestamptz,
                case when reserved_until is not null
                    then least(reserved_until::timestamptz, '9999-12-31 23:59:59+00')
                end as reserved_until,
                confirmed_at::timestamptz, ended_at::timestamptz, reason::text,
                (status = 'reserved' and reserved_until <= clock_timestamp())::boolean as is_overdue
             from orders ",
            $rest
        )
    };
}

/// The result of recording a batch; only `Done` wrote anything.
#[derive(Debug)]
pub enum RecordOutcome {
    Done {
        /// Orders inserted by this transaction.
        inserted: Vec<OrderId>,
        /// Events that are not recorded because another live order of the user has the slot or the key, or because the
        /// slot is above the coupon's limit. The caller processes them one by one.
        conflicting: Vec<OrderId>,
    },
    /// The fence row has another epoch or another Postgres: read the marker again.
    Fenced,
    /// Postgres does not know this coupon.
    UnknownCoupon(CouponId),
    /// This coupon has less stock in Postgres than the batch would take: split the batch.
    StockShort(CouponId),
}

/// Records a batch in one transaction: takes the fence's lock, inserts the orders, takes their stock, commits.
///
/// # Errors
/// If Postgres cannot serve, or refuses a row or a statement; then nothing is written.
pub async fn record(
    connection: &mut PgConnection,
    epoch: &Epoch,
    events: &[&OrderEvent],
) -> Result<RecordOutcome, PostgresError> {
    record_by(RECORD, connection, epoch, events).await
}

/// As [`record`], at less cost, for events that probably have no row and no conflict. If an event has one, calls
/// [`record`].
///
/// # Errors
/// As [`record`].
pub async fn record_new(
    connection: &mut PgConnection,
    epoch: &Epoch,
    events: &[&OrderEvent],
) -> Result<RecordOutcome, PostgresError> {
    match record_by(RECORD_NEW, connection, epoch, events).await {
        // If the cause is not a conflict, `record` returns the error again.
        Err(PostgresError::Row(_)) => record(connection, epoch, events).await,
        outcome => outcome,
    }
}

async fn record_by(
    statement: &'static str,
    connection: &mut PgConnection,
    epoch: &Epoch,
    events: &[&OrderEvent],
) -> Result<RecordOutcome, PostgresError> {
    let mut transaction = connection.begin().await?;
    let outcome = record_in(&mut transaction, statement, epoch, events).await?;
    match outcome {
        RecordOutcome::Done { .. } => transaction.commit().await?,
        // An explicit rollback: a drop would send it only with the next statement, and the transaction would keep the
        // fence's lock and the row locks until then.
        _ => transaction.rollback().await?,
    }
    Ok(outcome)
}

async fn record_in(
    transaction: &mut PgConnection,
    statement: &'static str,
    epoch: &Epoch,
    events: &[&OrderEvent],
) -> Result<RecordOutcome, PostgresError> {
    fence::lock_shared(transaction, epoch.partition).await?;
    let (fenced, only): (bool, Option<Vec<Uuid>>) = sqlx::query_as(statement)
        .bind(epoch.partition.number())
        .bind(epoch.as_str())
        .bind(events.iter().map(|e| e.order.0).collect::<Vec<Uuid>>())
        .bind(events.iter().map(|e| e.coupon.as_str()).collect::<Vec<&str>>())
        .bind(events.iter().map(|e| e.user.as_str()).collect::<Vec<&str>>())
        .bind(events.iter().map(|e| e.claimed_at()).collect::<Vec<OffsetDateTime>>())
        .bind(events.iter().map(|e| e.slot).collect::<Vec<i16>>())
        .bind(
            events.iter().map(|e| e.key.as_ref().map(IdempotencyKey::as_str)).collect::<Vec<Option<&str>>>(),
        )
        .fetch_one(&mut *transaction)
        .await?;
    if fenced {
        return Ok(RecordOutcome::Fenced);
    }
    let mut only: Option<HashSet<Uuid>> = only.map(|ids| ids.into_iter().collect());
    // An event may be in the batch twice; the statement then inserts it once.
    let (inserted, missing): (Vec<&OrderEvent>, Vec<&OrderEvent>) =
        events.iter().partition(|event| only.as_mut().is_none_or(|only| only.remove(&event.order.0)));
    let conflicting = match explain_missing(transaction, &missing).await? {
        Missing::UnknownCoupon(coupon) => return Ok(RecordOutcome::UnknownCoupon(coupon)),
        Missing::Conflicting(orders) => orders,
    };
    if let Some(coupon) = take_stock(transaction, epoch.partition, &inserted).await? {
        return Ok(RecordOutcome::StockShort(coupon));
    }
    Ok(RecordOutcome::Done { inserted: inserted.iter().map(|event| event.order).collect(), conflicting })
}

enum Missing {
    UnknownCoupon(CouponId),
    Conflicting(Vec<OrderId>),
}

/// Why events were not inserted: the order has a row already (correct), the coupon is unknown, or the event conflicts
/// (see [`RecordOutcome::Done`]).
async fn explain_missing(
    connection: &mut PgConnection,
    missing: &[&OrderEvent],
) -> Result<Missing, PostgresError> {
    let missing: HashMap<OrderId, &CouponId> =
        missing.iter().map(|event| (event.order, &event.coupon)).collect();
    if missing.is_empty() {
        return Ok(Missing::Conflicting(Vec::new()));
    }
    let rows = sqlx::query(EXPLAIN_MISSING)
        .bind(missing.keys().map(|order| order.0).collect::<Vec<Uuid>>())
        .bind(missing.values().map(|coupon| coupon.as_str()).collect::<Vec<&str>>())
        .fetch_all(connection)
        .await?;
    let mut conflicting = Vec::new();
    for row in rows {
        let order = OrderId(row.try_get("id")?);
        let recorded: bool = row.try_get("recorded")?;
        let coupon_known: bool = row.try_get("coupon_known")?;
        match (recorded, coupon_known) {
            (true, _) => {}
            (false, false) => return Ok(Missing::UnknownCoupon(missing[&order].clone())),
            (false, true) => conflicting.push(order),
        }
    }
    Ok(Missing::Conflicting(conflicting))
}

/// Takes the units of the inserted orders from stock; returns a coupon that has too few units.
async fn take_stock(
    connection: &mut PgConnection,
    partition: Partition,
    inserted: &[&OrderEvent],
) -> Result<Option<CouponId>, PostgresError> {
    if inserted.is_empty() {
        return Ok(None);
    }
    let mut units: BTreeMap<&CouponId, i64> = BTreeMap::new();
    for event in inserted {
        *units.entry(&event.coupon).or_default() += 1;
    }
    let taken: Vec<String> = sqlx::query_scalar(TAKE_STOCK)
        .bind(partition.number())
        .bind(units.keys().map(|coupon| coupon.as_str()).collect::<Vec<&str>>())
        .bind(units.values().copied().collect::<Vec<i64>>())
        .fetch_all(connection)
        .await?;
    let taken: HashSet<&str> = taken.iter().map(String::as_str).collect();
    Ok(units.keys().find(|coupon| !taken.contains(coupon.as_str())).map(|&coupon| coupon.clone()))
}

/// The partition of an order, if it has a row.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn partition(
    executor: impl PgExecutor<'_>,
    id: OrderId,
) -> Result<Option<Partition>, PostgresError> {
    let query = sqlx::query_scalar("select partition::smallint from orders where id = $1").bind(id.0);
    Ok(query.fetch_optional(executor).await?.map(Partition::new))
}

/// The order of this id, if it has a row.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn get(executor: impl PgExecutor<'_>, id: OrderId) -> Result<Option<Order>, PostgresError> {
    let row = sqlx::query_as::<_, OrderRow>(select_orders!("where id = $1")).bind(id.0);
    Ok(row.fetch_optional(executor).await?.map(|row| row.0))
}

/// The rows of the given orders; orders without a row are left out.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn get_many(executor: impl PgExecutor<'_>, ids: &[OrderId]) -> Result<Vec<Order>, PostgresError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as::<_, OrderRow>(select_orders!("where id = any($1)")).bind(ids);
    Ok(rows.fetch_all(executor).await?.into_iter().map(|row| row.0).collect())
}

/// The status of each of the given orders; orders without a row are left out.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn statuses(pool: &Pool, ids: &[OrderId]) -> Result<HashMap<OrderId, OrderStatus>, PostgresError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query("select id::uuid, status::text from orders where id = any($1)")
        .bind(ids)
        .fetch_all(pool)
        .await?;
    rows.iter().map(|row| Ok((OrderId(row.try_get("id")?), read_status(row)?))).collect()
}

/// The unit that a live order holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveUnit {
    pub order: OrderId,
    pub user: UserId,
    /// From 1 to the coupon's limit for each user.
    pub slot: i16,
    pub key: Option<IdempotencyKey>,
}

/// The units of one page of the coupon's live orders in the partition after `after`, oldest first.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn live_page(
    pool: &Pool,
    partition: Partition,
    coupon: &CouponId,
    after: Option<OrderId>,
    limit: i64,
) -> Result<Vec<LiveUnit>, PostgresError> {
    let rows = sqlx::query(
        "select id::uuid, user_id::text, slot::smallint, idempotency_key::text from orders
         where coupon_id = $1 and partition = $4 and id > $2 and status in ('reserved', 'confirmed')
         order by id limit $3",
    )
    .bind(coupon.as_str())
    .bind(after.map_or(Uuid::nil(), |order| order.0))
    .bind(limit)
    .bind(partition.number())
    .fetch_all(pool)
    .await?;
    let unit = |row: &PgRow| {
        let user: &str = row.try_get("user_id")?;
        let user = user.parse().map_err(|e| decode_error(format!("orders.user_id {user:?}: {e}")))?;
        let (order, slot) = (OrderId(row.try_get("id")?), row.try_get("slot")?);
        Ok(LiveUnit { order, user, slot, key: read_key(row)? })
    };
    rows.iter().map(unit).collect()
}

/// Which orders a list shows; `None` means all.
#[derive(Clone, Debug, Default)]
pub struct OrderFilter {
    pub coupon: Option<CouponId>,
    pub user: Option<UserId>,
    pub status: Option<OrderStatus>,
}

/// One page of orders older than `after`, newest first.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn list(
    pool: &Pool,
    filter: &OrderFilter,
    after: Option<OrderId>,
    limit: i64,
) -> Result<Vec<Order>, PostgresError> {
    // A user's orders are in two partial indexes: one of live orders, one of ended orders.
    let parts: &[&str] = match &filter.user {
        Some(_) => &["status in ('reserved', 'confirmed')", "status not in ('reserved', 'confirmed')"],
        None => &["true"],
    };
    let mut query = sqlx::QueryBuilder::new("select * from (");
    for (number, part) in parts.iter().enumerate() {
        query.push(if number == 0 { "" } else { " union all " }).push(select_orders!("where ")).push(part);
        if let Some(coupon) = &filter.coupon {
            query.push(" and coupon_id = ").push_bind(coupon.as_str());
        }
        if let Some(user) = &filter.user {
            query.push(" and user_id = ").push_bind(user.as_str());
        }
        if let Some(status) = filter.status {
            query.push(" and status = ").push_bind(status_word(status));
        }
        if let Some(after) = after {
            query.push(" and id < ").push_bind(after.0);
        }
    }
    query.push(") listed order by id desc limit ").push_bind(limit);
    let rows = query.build_query_as::<OrderRow>().fetch_all(pool).await?;
    Ok(rows.into_iter().map(|row| row.0).collect())
}

pub(super) struct OrderRow(pub(super) Order);

impl FromRow<'_, PgRow> for OrderRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let coupon: String = row.try_get("coupon_id")?;
        let user: String = row.try_get("user_id")?;
        Ok(Self(Order {
            id: OrderId(row.try_get("id")?),
            coupon: coupon.parse().map_err(|e| decode_error(format!("orders.coupon_id {coupon:?}: {e}")))?,
            user: user.parse().map_err(|e| decode_error(format!("orders.user_id {user:?}: {e}")))?,
            slot: row.try_get("slot")?,
            status: read_status(row)?,
            claimed_at: row.try_get("claimed_at")?,
            recorded_at: Some(row.try_get("recorded_at")?),
            reserved_until: row.try_get("reserved_until")?,
            is_overdue: row.try_get("is_overdue")?,
            confirmed_at: row.try_get("confirmed_at")?,
            ended_at: row.try_get("ended_at")?,
            reason: row.try_get("reason")?,
        }))
    }
}

fn decode_error(error: String) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

/// A key that is not valid counts as no key: no client can send it again.
pub(super) fn read_key(row: &PgRow) -> Result<Option<IdempotencyKey>, sqlx::Error> {
    let key: Option<&str> = row.try_get("idempotency_key")?;
    Ok(key.and_then(|key| key.parse().ok()))
}

fn read_status(row: &PgRow) -> Result<OrderStatus, sqlx::Error> {
    let word: &str = row.try_get("status")?;
    parse_status(word).ok_or_else(|| decode_error(format!("orders.status {word:?}")))
}

fn parse_status(word: &str) -> Option<OrderStatus> {
    use OrderStatus::{Cancelled, Confirmed, Expired, Rejected, Reserved};
    [Reserved, Confirmed, Cancelled, Expired, Rejected]
        .into_iter()
        .find(|&status| status_word(status) == word)
}

const fn status_word(status: OrderStatus) -> &'static str {
    match status {
        OrderStatus::Accepted => "accepted",
        OrderStatus::Reserved => "reserved",
        OrderStatus::Confirmed => "confirmed",
        OrderStatus::Cancelled => "cancelled",
        OrderStatus::Expired => "expired",
        OrderStatus::Rejected => "rejected",
    }
}
