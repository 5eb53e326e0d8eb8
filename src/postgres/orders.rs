//! Orders: recording events in batches, and reading them back.

use sqlx::postgres::PgRow;
use sqlx::{Connection, FromRow, PgConnection, PgExecutor, Row};
use std::collections::{BTreeMap, HashMap, HashSet};
use time::OffsetDateTime;
use uuid::Uuid;

use super::fence::{self, PARTITION};
use super::{Pool, PostgresError};
use crate::domain::{CouponId, Order, OrderEvent, OrderId, OrderStatus, UserId};

const RECORD: &str = include_str!("../../sql/queries/record_orders.sql");
/// Without `on conflict`: costs Postgres a quarter less, but fails if an event has a row or conflicts with another order.
const RECORD_NEW: &str = include_str!("../../sql/queries/record_new_orders.sql");
const TAKE_STOCK: &str = include_str!("../../sql/queries/take_stock.sql");
const EXPLAIN_MISSING: &str = include_str!("../../sql/queries/explain_missing.sql");

/// Reads orders: each column by its name and as the type that is decoded, whatever type a later schema gives it.
macro_rules! select_orders {
    ($rest:literal) => {
        concat!(
            "select id::uuid, coupon_id::text, user_id::text, status::text, claimed_at::timestamptz,
                recorded_at::timestamptz from orders ",
            $rest
        )
    };
}

/// What became of a batch; only `Done` wrote anything.
#[derive(Debug)]
pub enum Recorded {
    Done {
        /// Orders inserted by this transaction.
        inserted: Vec<OrderId>,
        /// Events that another live order of the same user keeps out: to be ended one by one.
        conflicting: Vec<OrderId>,
    },
    /// The epoch is another one, or this is not its Postgres: read the marker anew.
    Fenced,
    /// Postgres does not know this coupon.
    UnknownCoupon(CouponId),
    /// This coupon has less stock left than the batch would take: split it.
    StockShort(CouponId),
}

/// Records a batch in one transaction: lock, insert, take stock, commit.
pub async fn record(
    connection: &mut PgConnection,
    epoch: &str,
    events: &[&OrderEvent],
) -> Result<Recorded, PostgresError> {
    record_by(RECORD, connection, epoch, events).await
}

/// The same, at less cost where none of the events was recorded before and none has a rival.
pub async fn record_new(
    connection: &mut PgConnection,
    epoch: &str,
    events: &[&OrderEvent],
) -> Result<Recorded, PostgresError> {
    match record_by(RECORD_NEW, connection, epoch, events).await {
        // Whether it is more than a conflict, the careful statement tells.
        Err(PostgresError::Row(_)) => record(connection, epoch, events).await,
        recorded => recorded,
    }
}

async fn record_by(
    statement: &'static str,
    connection: &mut PgConnection,
    epoch: &str,
    events: &[&OrderEvent],
) -> Result<Recorded, PostgresError> {
    let mut transaction = connection.begin().await?;
    let recorded = record_in(&mut transaction, statement, epoch, events).await?;
    match recorded {
        Recorded::Done { .. } => transaction.commit().await?,
        // Not left to the transaction's drop, which tells Postgres only with the next statement: until then
        // the fence's lock and the rows' would be held.
        _ => transaction.rollback().await?,
    }
    Ok(recorded)
}

async fn record_in(
    transaction: &mut PgConnection,
    statement: &'static str,
    epoch: &str,
    events: &[&OrderEvent],
) -> Result<Recorded, PostgresError> {
    fence::lock_shared(transaction).await?;
    let (fenced, only): (bool, Option<Vec<Uuid>>) = sqlx::query_as(statement)
        .bind(PARTITION)
        .bind(epoch)
        .bind(events.iter().map(|e| e.order.0).collect::<Vec<Uuid>>())
        .bind(events.iter().map(|e| e.coupon.as_str()).collect::<Vec<&str>>())
        .bind(events.iter().map(|e| e.user.as_str()).collect::<Vec<&str>>())
        .bind(events.iter().map(|e| e.claimed_at()).collect::<Vec<OffsetDateTime>>())
        .fetch_one(&mut *transaction)
        .await?;
    if fenced {
        return Ok(Recorded::Fenced);
    }
    let mut only: Option<HashSet<Uuid>> = only.map(|ids| ids.into_iter().collect());
    // An event may stand in the batch twice, and was inserted once.
    let (inserted, missing): (Vec<&OrderEvent>, Vec<&OrderEvent>) =
        events.iter().partition(|event| only.as_mut().is_none_or(|only| only.remove(&event.order.0)));
    let conflicting = match explain_missing(transaction, &missing).await? {
        Missing::UnknownCoupon(coupon) => return Ok(Recorded::UnknownCoupon(coupon)),
        Missing::Conflicting(orders) => orders,
    };
    if let Some(coupon) = take_stock(transaction, &inserted).await? {
        return Ok(Recorded::StockShort(coupon));
    }
    Ok(Recorded::Done { inserted: inserted.iter().map(|event| event.order).collect(), conflicting })
}

enum Missing {
    UnknownCoupon(CouponId),
    Conflicting(Vec<OrderId>),
}

/// `on conflict do nothing` hides two cases: the same order again (fine), and another live order.
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

/// Takes the inserted orders' units; answers a coupon that has too few.
async fn take_stock(
    connection: &mut PgConnection,
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
        .bind(units.keys().map(|coupon| coupon.as_str()).collect::<Vec<&str>>())
        .bind(units.values().copied().collect::<Vec<i64>>())
        .fetch_all(connection)
        .await?;
    let taken: HashSet<&str> = taken.iter().map(String::as_str).collect();
    Ok(units.keys().find(|coupon| !taken.contains(coupon.as_str())).map(|&coupon| coupon.clone()))
}

pub async fn get(executor: impl PgExecutor<'_>, id: OrderId) -> Result<Option<Order>, PostgresError> {
    let row = sqlx::query_as::<_, OrderRow>(select_orders!("where id = $1")).bind(id.0);
    Ok(row.fetch_optional(executor).await?.map(|row| row.0))
}

/// Those of the given orders that are recorded.
pub async fn get_many(executor: impl PgExecutor<'_>, ids: &[OrderId]) -> Result<Vec<Order>, PostgresError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as::<_, OrderRow>(select_orders!("where id = any($1)")).bind(ids);
    Ok(rows.fetch_all(executor).await?.into_iter().map(|row| row.0).collect())
}

/// The state of those of the given orders that are recorded.
pub async fn statuses(pool: &Pool, ids: &[OrderId]) -> Result<HashMap<OrderId, OrderStatus>, PostgresError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query("select id::uuid, status::text from orders where id = any($1)")
        .bind(ids)
        .fetch_all(pool)
        .await?;
    rows.iter().map(|row| Ok((OrderId(row.try_get("id")?), read_status(row)?))).collect()
}

/// One page of a coupon's live orders after `after`, oldest first.
pub async fn live_page(
    pool: &Pool,
    coupon: &CouponId,
    after: Option<OrderId>,
    limit: i64,
) -> Result<Vec<Order>, PostgresError> {
    let rows = sqlx::query_as::<_, OrderRow>(select_orders!(
        "where coupon_id = $1 and id > $2 and status in ('reserved', 'confirmed') order by id limit $3"
    ))
    .bind(coupon.as_str())
    .bind(after.map_or(Uuid::nil(), |order| order.0))
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| row.0).collect())
}

/// Which orders a list shows; `None` for all.
#[derive(Clone, Debug, Default)]
pub struct OrderFilter {
    pub coupon: Option<CouponId>,
    pub user: Option<UserId>,
    pub status: Option<OrderStatus>,
}

/// One page of recorded orders, newest first, older than `after`.
pub async fn list(
    pool: &Pool,
    filter: &OrderFilter,
    after: Option<OrderId>,
    limit: i64,
) -> Result<Vec<Order>, PostgresError> {
    // A user's orders are in two indexes, of the live and of the ended ones.
    let parts: &[&str] = match &filter.user {
        Some(_) => &["status in ('reserved', 'confirmed')", "status not in ('reserved', 'confirmed')"],
        None => &["true"],
    };
    let mut query =
        sqlx::QueryBuilder::new("select id, coupon_id, user_id, status, claimed_at, recorded_at from (");
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
        let decode = |error: String| sqlx::Error::Decode(error.into());
        let coupon: String = row.try_get("coupon_id")?;
        let user: String = row.try_get("user_id")?;
        Ok(Self(Order {
            id: OrderId(row.try_get("id")?),
            coupon: coupon.parse().map_err(|e| decode(format!("orders.coupon_id {coupon:?}: {e}")))?,
            user: user.parse().map_err(|e| decode(format!("orders.user_id {user:?}: {e}")))?,
            status: read_status(row)?,
            claimed_at: row.try_get("claimed_at")?,
            recorded_at: Some(row.try_get("recorded_at")?),
        }))
    }
}

fn read_status(row: &PgRow) -> Result<OrderStatus, sqlx::Error> {
    let word: &str = row.try_get("status")?;
    parse_status(word).ok_or_else(|| sqlx::Error::Decode(format!("orders.status {word:?}").into()))
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
