//! Coupon definitions: Postgres owns them, Redis has copies.

use std::collections::HashMap;

use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, PgExecutor, Row};
use time::OffsetDateTime;

use super::fence::PARTITION;
use super::{Pool, PostgresError};
use crate::domain::{CouponId, Definition};

/// Reads coupons: each column by its name and as the type that is decoded, whatever type a later schema gives it.
/// A time beyond what this program can name (`infinity` is one) is the nearest that it can.
macro_rules! select_coupons {
    ($rest:literal) => {
        concat!(
            "select id::text, title::text, total::bigint,
                case when starts_at is not null then least(greatest(starts_at::timestamptz,
                    '1970-01-01 00:00:01+00'), '9999-12-31 23:59:59+00') end as starts_at,
                case when ends_at is not null then least(greatest(ends_at::timestamptz,
                    '1970-01-01 00:00:01+00'), '9999-12-31 23:59:59+00') end as ends_at,
                paused::boolean, per_user_limit::smallint, reserve_seconds::integer, unlisted::boolean,
                version::bigint, published_version::bigint, stock::bigint, changed_at::timestamptz
             from coupons ",
            $rest
        )
    };
}

/// A definition, and what Postgres knows besides.
#[derive(Clone, Debug)]
pub struct CouponRow {
    pub definition: Definition,
    /// The version that Redis is known to have; 0 before the first.
    pub published_version: i64,
    /// Units not yet taken by a recorded order.
    pub stock: i64,
    pub changed_at: OffsetDateTime,
}

impl FromRow<'_, PgRow> for CouponRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            definition: definition(row)?,
            published_version: row.try_get("published_version")?,
            stock: row.try_get("stock")?,
            changed_at: row.try_get("changed_at")?,
        })
    }
}

pub(super) fn definition(row: &PgRow) -> Result<Definition, sqlx::Error> {
    let id: String = row.try_get("id")?;
    Ok(Definition {
        id: id.parse().map_err(|error| {
            sqlx::Error::Decode(Box::<dyn std::error::Error + Send + Sync>::from(format!(
                "coupon {id:?}: {error}"
            )))
        })?,
        title: row.try_get("title")?,
        total: row.try_get("total")?,
        starts_at: row.try_get("starts_at")?,
        ends_at: row.try_get("ends_at")?,
        paused: row.try_get("paused")?,
        per_user_limit: row.try_get("per_user_limit")?,
        reserve_seconds: row.try_get("reserve_seconds")?,
        unlisted: row.try_get("unlisted")?,
        version: row.try_get("version")?,
    })
}

/// Inserts a new coupon; `false` where the id is taken.
pub async fn insert(pool: &Pool, new: &Definition) -> Result<bool, PostgresError> {
    let done = sqlx::query(
        "insert into coupons (id, title, total, stock, starts_at, ends_at, paused, per_user_limit, reserve_seconds, unlisted)
         values ($1, $2, $3, $3, $4, $5, $6, $7, $8, $9) on conflict (id) do nothing",
    )
    .bind(new.id.as_str())
    .bind(&new.title)
    .bind(new.total)
    .bind(new.starts_at)
    .bind(new.ends_at)
    .bind(new.paused)
    .bind(new.per_user_limit)
    .bind(new.reserve_seconds)
    .bind(new.unlisted)
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Inserts a coupon as Redis has it, at its version; answers its total, which is higher where rows of a coupon that was
/// deleted by hand are live.
pub(super) async fn adopt(connection: &mut PgConnection, known: &Definition) -> Result<i64, PostgresError> {
    Ok(sqlx::query_scalar(
        "insert into coupons (id, title, total, stock, starts_at, ends_at, paused, per_user_limit, reserve_seconds, unlisted, version)
         select $1, $2, greatest($3, live), greatest($3, live) - live, $4, $5, $6, $7, $8, $9, $10
         from (select count(*) as live from orders
             where coupon_id = $1 and status in ('reserved', 'confirmed')) as rows returning total",
    )
    .bind(known.id.as_str())
    .bind(&known.title)
    .bind(known.total)
    .bind(known.starts_at)
    .bind(known.ends_at)
    .bind(known.paused)
    .bind(known.per_user_limit)
    .bind(known.reserve_seconds)
    .bind(known.unlisted)
    .bind(known.version)
    .fetch_one(connection)
    .await?)
}

/// What a rebuild over lost commits asks of a coupon.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct Standing {
    /// Units of live orders.
    pub live: i64,
    pub published_version: i64,
}

pub(super) async fn standing(
    connection: &mut PgConnection,
    id: &CouponId,
) -> Result<Standing, PostgresError> {
    let query = "select (total - stock)::bigint as live, published_version::bigint from coupons where id = $1
        for update";
    Ok(sqlx::query_as(query).bind(id.as_str()).fetch_one(connection).await?)
}

/// Replaces the definition of this version, whatever the next one is; stock moves with the total.
pub(super) async fn redefine(
    connection: &mut PgConnection,
    version: i64,
    to: &Definition,
) -> Result<bool, PostgresError> {
    let done = sqlx::query(
        "update coupons set title = $3, stock = stock + ($4 - total), total = $4, starts_at = $5, ends_at = $6,
            paused = $7, per_user_limit = $8, reserve_seconds = $9, unlisted = $10, version = $11,
            changed_at = clock_timestamp()
         where id = $1 and version = $2",
    )
    .bind(to.id.as_str())
    .bind(version)
    .bind(&to.title)
    .bind(to.total)
    .bind(to.starts_at)
    .bind(to.ends_at)
    .bind(to.paused)
    .bind(to.per_user_limit)
    .bind(to.reserve_seconds)
    .bind(to.unlisted)
    .bind(to.version)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The version of every coupon. An id that no coupon can have is left out.
pub async fn versions(executor: impl PgExecutor<'_>) -> Result<HashMap<CouponId, i64>, PostgresError> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("select id::text, version::bigint from coupons").fetch_all(executor).await?;
    Ok(rows.into_iter().filter_map(|(id, version)| Some((id.parse().ok()?, version))).collect())
}

pub async fn get(executor: impl PgExecutor<'_>, id: &CouponId) -> Result<Option<CouponRow>, PostgresError> {
    let query = sqlx::query_as(select_coupons!("where id = $1")).bind(id.as_str());
    Ok(query.fetch_optional(executor).await?)
}

/// One page of coupons after `after`, in the order of their ids.
pub async fn page(
    executor: impl PgExecutor<'_>,
    after: Option<&CouponId>,
    limit: i64,
) -> Result<Vec<CouponRow>, PostgresError> {
    let query = sqlx::query_as(select_coupons!("where id > $1 order by id limit $2"));
    Ok(query.bind(after.map_or("", CouponId::as_str)).bind(limit).fetch_all(executor).await?)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edited {
    Done,
    /// Another edit came between: read again.
    Stale,
    /// More units are held than the new total.
    TotalTooLow,
}

/// Replaces the definition of version `edited.version` by the next one; stock moves with the total.
pub async fn edit(pool: &Pool, edited: &Definition) -> Result<Edited, PostgresError> {
    let result = sqlx::query(
        "update coupons set title = $3, stock = stock + ($4 - total), total = $4, starts_at = $5, ends_at = $6,
            paused = $7, version = version + 1, changed_at = clock_timestamp()
         where id = $1 and version = $2",
    )
    .bind(edited.id.as_str())
    .bind(edited.version)
    .bind(&edited.title)
    .bind(edited.total)
    .bind(edited.starts_at)
    .bind(edited.ends_at)
    .bind(edited.paused)
    .execute(pool)
    .await;
    match result {
        Ok(done) if done.rows_affected() == 1 => Ok(Edited::Done),
        Ok(_) => Ok(Edited::Stale),
        Err(sqlx::Error::Database(error)) if error.constraint() == Some("coupons_stock_range") => {
            Ok(Edited::TotalTooLow)
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives the definition of this version the next one, with its content as it is; `None` where another edit came
/// between. A total that was edited without its stock is made good with `recount`.
pub async fn renew(
    pool: &Pool,
    id: &CouponId,
    version: i64,
    recount: bool,
) -> Result<Option<CouponRow>, PostgresError> {
    let mut transaction = pool.begin().await?;
    // Noted as published by hand, the new version would count as published before it is.
    let renewed = sqlx::query(
        "update coupons set version = version + 1, published_version = least(published_version, version),
            changed_at = clock_timestamp()
         where id = $1 and version = $2",
    );
    let renewed = renewed.bind(id.as_str()).bind(version).execute(&mut *transaction).await?;
    if renewed.rows_affected() == 0 {
        transaction.rollback().await?;
        return Ok(None);
    }
    if recount {
        recount_in(&mut transaction, id).await?;
    }
    transaction.commit().await?;
    get(pool, id).await
}

/// Notes that Redis has these versions. Only in the epoch in which it took them, and only versions that this
/// Postgres has: a note that comes late must not hide an edit of a Postgres that was put in the place of another.
pub async fn mark_published(
    executor: impl PgExecutor<'_>,
    epoch: &str,
    ids: Vec<&str>,
    versions: Vec<i64>,
) -> Result<(), PostgresError> {
    sqlx::query(
        "update coupons c set published_version = p.version, changed_at = clock_timestamp()
         from unnest($1::text[], $2::bigint[]) as p (id, version), fence f
         where c.id = p.id and c.published_version < p.version and p.version <= c.version
            and f.partition = $3 and f.epoch = $4",
    )
    .bind(ids)
    .bind(versions)
    .bind(PARTITION)
    .bind(epoch)
    .execute(executor)
    .await?;
    Ok(())
}

/// Coupons of which Redis may not have the last version, a first publication left to its own request
/// for `grace_seconds`.
pub async fn unpublished(pool: &Pool, grace_seconds: f64) -> Result<Vec<CouponRow>, PostgresError> {
    Ok(sqlx::query_as(select_coupons!(
        "where published_version < version
            and (published_version > 0 or changed_at < clock_timestamp() - make_interval(secs => $1))
         order by id limit 1000"
    ))
    .bind(grace_seconds)
    .fetch_all(pool)
    .await?)
}

/// Whether a coupon's stock is not its total less its live orders, all at one moment.
pub async fn stock_drifts(pool: &Pool, id: &CouponId) -> Result<bool, PostgresError> {
    Ok(sqlx::query_scalar(
        "select stock <> total - (select count(*) from orders
            where coupon_id = $1 and status in ('reserved', 'confirmed')) from coupons where id = $1",
    )
    .bind(id.as_str())
    .fetch_one(pool)
    .await?)
}

/// Sets a coupon's stock to its total less its live orders; `false` where that is so, or more orders live than its
/// total.
pub async fn recount_stock(pool: &Pool, id: &CouponId) -> Result<bool, PostgresError> {
    let mut transaction = pool.begin().await?;
    sqlx::query("select from coupons where id = $1 for no key update")
        .bind(id.as_str())
        .execute(&mut *transaction)
        .await?;
    let recounted = recount_in(&mut transaction, id).await?;
    transaction.commit().await?;
    Ok(recounted)
}

/// Under the row's lock, and in a later statement than the one that took it: whatever moves orders moves this row in
/// the same transaction, so that what is not seen yet takes or returns its unit afterwards.
async fn recount_in(connection: &mut PgConnection, id: &CouponId) -> Result<bool, PostgresError> {
    let recounted = sqlx::query(
        "update coupons c set stock = c.total - live.orders
         from (select count(*) as orders from orders
            where coupon_id = $1 and status in ('reserved', 'confirmed')) live
         where c.id = $1 and c.stock <> c.total - live.orders and live.orders <= c.total",
    )
    .bind(id.as_str())
    .execute(connection)
    .await?;
    Ok(recounted.rows_affected() == 1)
}

/// Coupons changed at or after `since`; all of them for `None`.
pub async fn changed_since(
    pool: &Pool,
    since: Option<OffsetDateTime>,
) -> Result<Vec<CouponRow>, PostgresError> {
    let query = match since {
        Some(since) => {
            sqlx::query_as(select_coupons!("where changed_at >= $1 order by changed_at")).bind(since)
        }
        None => sqlx::query_as(select_coupons!("order by changed_at")),
    };
    Ok(query.fetch_all(pool).await?)
}

/// All definitions, in the order of their ids.
pub(super) async fn all_definitions(connection: &mut PgConnection) -> Result<Vec<Definition>, PostgresError> {
    let rows = sqlx::query(select_coupons!("order by id")).fetch_all(connection).await?;
    Ok(rows.iter().map(definition).collect::<Result<_, _>>()?)
}
