//! Table `waitlist`: the users in the waiting lists, from which a rebuild restores the lines in Redis. A row exists before
//! its place in Redis does. A row whose order has a row in `orders` was served.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, PgExecutor, Row};
use uuid::Uuid;

use super::{Pool, PostgresError, orders};
use crate::config;
use crate::domain::{CouponId, Epoch, IdempotencyKey, OrderId, UserId, WaitingUser};

const ADD: &str = include_str!("../../sql/queries/join_waitlist.sql");
const LEAVE: &str = include_str!("../../sql/queries/leave_waitlist.sql");
const REMOVE_SERVED: &str = include_str!("../../sql/queries/remove_served.sql");

impl FromRow<'_, PgRow> for WaitingUser {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let user: String = row.try_get("user_id")?;
        let invalid = |error| sqlx::Error::Decode(format!("waitlist.user_id {user:?}: {error}").into());
        Ok(Self {
            order: OrderId(row.try_get("order_id")?),
            key: orders::read_key(row)?,
            user: user.parse().map_err(invalid)?,
        })
    }
}

/// Adds users who are not in line. Also removes their rows without a place: those that are older than
/// `WAITLIST_JOIN_MAX_AGE` and were not served. `false` if the fence's epoch is another one; then nothing was written.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn add(
    pool: &Pool,
    epoch: &Epoch,
    users: &[(CouponId, WaitingUser)],
) -> Result<bool, PostgresError> {
    let orders: Vec<Uuid> = users.iter().map(|(_, waiting)| waiting.order.0).collect();
    let coupons: Vec<&str> = users.iter().map(|(coupon, _)| coupon.as_str()).collect();
    let names: Vec<&str> = users.iter().map(|(_, waiting)| waiting.user.as_str()).collect();
    let keys: Vec<Option<&str>> =
        users.iter().map(|(_, waiting)| waiting.key.as_ref().map(IdempotencyKey::as_str)).collect();
    let added = sqlx::query_scalar(ADD)
        .bind(epoch.partition.number())
        .bind(epoch.as_str())
        .bind(orders)
        .bind(coupons)
        .bind(names)
        .bind(keys)
        .bind(config::WAITLIST_JOIN_MAX_AGE.as_secs_f64());
    Ok(added.fetch_one(pool).await?)
}

/// Whether a user in line gets this order with a unit.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn has_order(pool: &Pool, order: OrderId) -> Result<bool, PostgresError> {
    let found = sqlx::query_scalar("select exists (select from waitlist where order_id = $1)").bind(order.0);
    Ok(found.fetch_one(pool).await?)
}

/// Removes rows whose place was not taken or was given up.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn remove(pool: &Pool, orders: &[OrderId]) -> Result<(), PostgresError> {
    let ids: Vec<Uuid> = orders.iter().map(|order| order.0).collect();
    sqlx::query("delete from waitlist where order_id = any($1)").bind(ids).execute(pool).await?;
    Ok(())
}

/// Removes the rows of a user who leaves: those that were not served and whose order is not among `held`. Removes nothing
/// if the fence's epoch is another one.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn leave(
    pool: &Pool,
    epoch: &Epoch,
    coupon: &CouponId,
    user: &UserId,
    held: &[OrderId],
) -> Result<(), PostgresError> {
    sqlx::query(LEAVE)
        .bind(epoch.partition.number())
        .bind(epoch.as_str())
        .bind(coupon.as_str())
        .bind(user.as_str())
        .bind(held.iter().map(|order| order.0).collect::<Vec<Uuid>>())
        .execute(pool)
        .await?;
    Ok(())
}

/// The orders of the user's rows, the newest first: requests that died may have left rows beside that of the place.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn newest_orders(
    pool: &Pool,
    coupon: &CouponId,
    user: &UserId,
) -> Result<Vec<OrderId>, PostgresError> {
    let newest: Vec<Uuid> = sqlx::query_scalar(
        "select order_id::uuid from waitlist where coupon_id = $1 and user_id = $2 order by number desc limit $3",
    )
    .bind(coupon.as_str())
    .bind(user.as_str())
    .bind(config::WAITLIST_SHOWN_ROWS)
    .fetch_all(pool)
    .await?;
    Ok(newest.into_iter().map(OrderId).collect())
}

/// A row of a user who was not served.
pub struct UnservedRow {
    pub waiting: WaitingUser,
    /// The order of joining.
    pub number: i64,
    /// False if the user has asked again since: the request of this row died, unless Redis has its place.
    pub is_newest: bool,
}

/// The orders among `orders` that have a row here.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn existing(pool: &Pool, orders: &[OrderId]) -> Result<HashSet<OrderId>, PostgresError> {
    let ids: Vec<Uuid> = orders.iter().map(|order| order.0).collect();
    let found: Vec<Uuid> = sqlx::query_scalar("select order_id::uuid from waitlist where order_id = any($1)")
        .bind(ids)
        .fetch_all(pool)
        .await?;
    Ok(found.into_iter().map(OrderId).collect())
}

/// The rows of a coupon that were not served and are older than `WAITLIST_JOIN_MAX_AGE`, in the order of joining.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn old_unserved(pool: &Pool, coupon: &CouponId) -> Result<Vec<UnservedRow>, PostgresError> {
    unserved_before(pool, coupon, Some(config::WAITLIST_JOIN_MAX_AGE)).await
}

/// The rows of a coupon that were not served, in the order of joining.
pub(super) async fn unserved(
    connection: &mut PgConnection,
    coupon: &CouponId,
) -> Result<Vec<UnservedRow>, PostgresError> {
    // Without an age: Postgres's clock may have stepped back.
    unserved_before(connection, coupon, None).await
}

async fn unserved_before(
    executor: impl PgExecutor<'_>,
    coupon: &CouponId,
    age: Option<Duration>,
) -> Result<Vec<UnservedRow>, PostgresError> {
    let rows = sqlx::query(
        "select w.order_id::uuid, w.number::bigint, w.user_id::text, w.idempotency_key::text,
            not exists (
                select 1 from waitlist n
                where n.coupon_id = w.coupon_id and n.user_id = w.user_id and n.number > w.number
            ) as is_newest
         from waitlist w
         where w.coupon_id = $1 and ($2 is null or w.joined_at < clock_timestamp() - make_interval(secs => $2))
            and not exists (select 1 from orders o where o.id = w.order_id)
         order by w.number",
    )
    .bind(coupon.as_str())
    .bind(age.map(|age| age.as_secs_f64()));
    let rows = rows.fetch_all(executor).await?;
    let read = |row: &PgRow| {
        let (number, is_newest) = (row.try_get("number")?, row.try_get("is_newest")?);
        Ok(UnservedRow { waiting: WaitingUser::from_row(row)?, number, is_newest })
    };
    rows.iter().map(read).collect()
}

/// Sets the rows of a coupon that were not served to these users, after lost commits or where a user has several rows.
pub(super) async fn replace_unserved(
    connection: &mut PgConnection,
    coupon: &CouponId,
    users: &[WaitingUser],
) -> Result<(), PostgresError> {
    let orders: Vec<Uuid> = users.iter().map(|waiting| waiting.order.0).collect();
    sqlx::query(
        "delete from waitlist w where w.coupon_id = $1 and w.order_id <> all($2)
            and not exists (select 1 from orders o where o.id = w.order_id)",
    )
    .bind(coupon.as_str())
    .bind(&orders)
    .execute(&mut *connection)
    .await?;
    let names: Vec<&str> = users.iter().map(|waiting| waiting.user.as_str()).collect();
    let keys: Vec<Option<&str>> =
        users.iter().map(|waiting| waiting.key.as_ref().map(IdempotencyKey::as_str)).collect();
    sqlx::query(
        "insert into waitlist (order_id, coupon_id, user_id, idempotency_key)
         select order_id, $1, user_id, key
         from unnest($2::uuid[], $3::text[], $4::text[]) with ordinality as w (order_id, user_id, key, n)
         order by n
         on conflict (order_id) do nothing",
    )
    .bind(coupon.as_str())
    .bind(orders)
    .bind(names)
    .bind(keys)
    .execute(connection)
    .await?;
    Ok(())
}

/// Reads at most `WAITLIST_PAGE_ROWS` old rows after the order `after`, and removes those of users who were served more
/// than `WAITLIST_SERVED_KEEP` ago. Returns the last order that was read; `None` after the last old row.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn remove_served(pool: &Pool, after: Option<OrderId>) -> Result<Option<OrderId>, PostgresError> {
    let oldest = SystemTime::now() - config::WAITLIST_SERVED_KEEP;
    let last: Option<Uuid> = sqlx::query_scalar(REMOVE_SERVED)
        .bind(after.map_or(Uuid::nil(), |order| order.0))
        .bind(OrderId::first_at(oldest).0)
        .bind(config::WAITLIST_PAGE_ROWS)
        .bind(config::WAITLIST_SERVED_KEEP.as_secs_f64())
        .fetch_optional(pool)
        .await?;
    Ok(last.map(OrderId))
}
