//! Table `coupons`: the definitions. Postgres owns them and Redis has copies. `coupons/insert.rs` adds
//! coupons, `coupons/stock.rs` checks and recounts the stock.

mod insert;
mod stock;

use std::collections::HashMap;

use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, PgExecutor, Row};
use time::OffsetDateTime;

use super::audit::{self, AuditEntry};
use super::{Pool, PostgresError};
use crate::domain::{CouponId, Definition, Epoch, Origin, Partition, Spread};

pub(super) use insert::adopt;
pub use insert::{insert, insert_shares};
pub use stock::{recount_stock, stock_drifts};

/// `select_coupons.sql` with a clause appended.
macro_rules! select_coupons {
    ($rest:literal) => {
        concat!(include_str!("../../sql/queries/select_coupons.sql"), $rest)
    };
}

/// A row: the definition, its published version and the stock.
#[derive(Clone, Debug)]
pub struct CouponRow {
    pub definition: Definition,
    /// The partition that the coupon belongs to for ever.
    pub partition: Partition,
    /// The last version that is known to be in Redis; 0 before the first.
    pub published_version: i64,
    /// The total minus the units of live orders in Postgres.
    pub stock: i64,
    pub changed_at: OffsetDateTime,
    /// Whether an order was ever revoked, or cancelled after lost commits.
    pub has_ended_orders: bool,
    /// Units that came back to stock, of cancelled, expired and revoked orders.
    pub returned: i64,
}

impl FromRow<'_, PgRow> for CouponRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            definition: definition(row)?,
            partition: Partition::new(row.try_get("partition")?),
            published_version: row.try_get("published_version")?,
            stock: row.try_get("stock")?,
            changed_at: row.try_get("changed_at")?,
            has_ended_orders: row.try_get("has_ended_orders")?,
            returned: row.try_get("returned")?,
        })
    }
}

pub(super) fn definition(row: &PgRow) -> Result<Definition, sqlx::Error> {
    let id: String = row.try_get("id")?;
    let unreadable =
        |error: &dyn std::fmt::Display| sqlx::Error::Decode(format!("coupon {id:?}: {error}").into());
    let durability: &str = row.try_get("durability")?;
    let (shares, spread): (i16, Option<i64>) = (row.try_get("spread")?, row.try_get("whole")?);
    Ok(Definition {
        id: id.parse().map_err(|error| unreadable(&error))?,
        title: row.try_get("title")?,
        total: row.try_get("total")?,
        starts_at: row.try_get("starts_at")?,
        ends_at: row.try_get("ends_at")?,
        paused: row.try_get("paused")?,
        per_user_limit: row.try_get("per_user_limit")?,
        reserve_seconds: row.try_get("reserve_seconds")?,
        durability: durability.parse().map_err(|error| unreadable(&error))?,
        waitlist: row.try_get("waitlist")?,
        unlisted: row.try_get("unlisted")?,
        version: row.try_get("version")?,
        spread: spread.map(|whole| Spread { shares, whole }),
    })
}

/// A coupon whose row the transaction has locked.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct LockedCoupon {
    /// Units of live orders.
    pub live: i64,
    /// The last version that is known to be in Redis; 0 before the first.
    pub published_version: i64,
}

pub(super) async fn lock(
    connection: &mut PgConnection,
    partition: Partition,
    id: &CouponId,
) -> Result<LockedCoupon, PostgresError> {
    let query = "select (total - stock)::bigint as live, published_version::bigint from coupons
        where id = $1 and partition = $2 for update";
    Ok(sqlx::query_as(query).bind(id.as_str()).bind(partition.number()).fetch_one(connection).await?)
}

/// Replaces the definition of this version by one of any version, and changes the stock by the difference of the
/// totals. `false` if the row has another version.
pub(super) async fn redefine(
    connection: &mut PgConnection,
    partition: Partition,
    version: i64,
    to: &Definition,
) -> Result<bool, PostgresError> {
    let done = sqlx::query(
        "update coupons set title = $3, stock = stock + ($4 - total), total = $4, starts_at = $5, ends_at = $6,
            paused = $7, per_user_limit = $8, reserve_seconds = $9, durability = $10, waitlist = $11,
            unlisted = $12, version = $13, whole = $14, changed_at = clock_timestamp()
         where id = $1 and version = $2 and partition = $15",
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
    .bind(to.durability.as_str())
    .bind(to.waitlist)
    .bind(to.unlisted)
    .bind(to.version)
    .bind(to.spread.map(|spread| spread.whole))
    .bind(partition.number())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The version of every coupon of the partition. Leaves out rows whose id is not valid.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn versions(
    executor: impl PgExecutor<'_>,
    partition: Partition,
) -> Result<HashMap<CouponId, i64>, PostgresError> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("select id::text, version::bigint from coupons where partition = $1")
            .bind(partition.number())
            .fetch_all(executor)
            .await?;
    Ok(rows.into_iter().filter_map(|(id, version)| Some((id.parse().ok()?, version))).collect())
}

/// The coupon's row of the partition, if it has one.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn get(
    executor: impl PgExecutor<'_>,
    partition: Partition,
    id: &CouponId,
) -> Result<Option<CouponRow>, PostgresError> {
    let query = sqlx::query_as(select_coupons!("where id = $1 and partition = $2"));
    Ok(query.bind(id.as_str()).bind(partition.number()).fetch_optional(executor).await?)
}

/// The coupon's row of each partition that has a share of it, by partition; none for an unknown coupon.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn shares(executor: impl PgExecutor<'_>, id: &CouponId) -> Result<Vec<CouponRow>, PostgresError> {
    let query = sqlx::query_as(select_coupons!("where id = $1 order by partition"));
    Ok(query.bind(id.as_str()).fetch_all(executor).await?)
}

/// One page of the partition's coupons after `after`, ordered by id.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn page(
    executor: impl PgExecutor<'_>,
    partition: Partition,
    after: Option<&CouponId>,
    limit: i64,
) -> Result<Vec<CouponRow>, PostgresError> {
    let query = sqlx::query_as(select_coupons!("where id > $1 and partition = $3 order by id limit $2"));
    let query = query.bind(after.map_or("", CouponId::as_str)).bind(limit).bind(partition.number());
    Ok(query.fetch_all(executor).await?)
}

/// The rows of one page of coupons after `after`, ordered by id and partition: `limit` coupons, each with all of its shares.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn page_of_wholes(
    executor: impl PgExecutor<'_>,
    after: Option<&CouponId>,
    limit: i64,
) -> Result<Vec<CouponRow>, PostgresError> {
    let query = sqlx::query_as(select_coupons!(
        "where id in (select id from coupons where id > $1 group by id order by id limit $2) order by id, partition"
    ));
    Ok(query.bind(after.map_or("", CouponId::as_str)).bind(limit).fetch_all(executor).await?)
}

/// The result of an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edited {
    Done,
    /// The row has another version, or does not exist: read it again.
    Stale,
    /// The new total is below the number of live orders.
    TotalTooLow,
}

/// Replaces the definition `old` by the next version, moves the stock with the total, and records the edit in the audit
/// log.
///
/// # Errors
/// If Postgres cannot serve, or refuses the row for another reason than its stock.
pub async fn edit(
    pool: &Pool,
    old: &Definition,
    edited: &Definition,
    origin: &Origin,
) -> Result<Edited, PostgresError> {
    let mut transaction = pool.current().begin().await?;
    let result = sqlx::query(
        "update coupons set title = $3, stock = stock + ($4 - total), total = $4, starts_at = $5, ends_at = $6,
            paused = $7, version = version + 1, changed_at = clock_timestamp()
         where id = $1 and version = $2",
    )
    .bind(edited.id.as_str())
    .bind(old.version)
    .bind(&edited.title)
    .bind(edited.total)
    .bind(edited.starts_at)
    .bind(edited.ends_at)
    .bind(edited.paused)
    .persistent(false)
    .execute(&mut *transaction)
    .await;
    match result {
        Ok(done) if done.rows_affected() == 1 => {
            if let Some(entry) = AuditEntry::of_edit(origin, old, edited) {
                audit::record(&mut transaction, &entry).await?;
            }
            transaction.commit().await?;
            Ok(Edited::Done)
        }
        Ok(_) => Ok(Edited::Stale),
        Err(sqlx::Error::Database(error)) if error.constraint() == Some("coupons_stock_range") => {
            Ok(Edited::TotalTooLow)
        }
        Err(error) => Err(error.into()),
    }
}

/// Raises the version of an unchanged definition; returns the new row, or `None` if the row has another version. With
/// `recount` it also recounts the stock, for a total that was edited by hand.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn renew(
    pool: &Pool,
    partition: Partition,
    id: &CouponId,
    version: i64,
    recount: bool,
) -> Result<Option<CouponRow>, PostgresError> {
    let mut transaction = pool.current().begin().await?;
    // An operator may have raised `published_version`: then the new version would count as published too early.
    let renewed = sqlx::query(
        "update coupons set version = version + 1, published_version = least(published_version, version),
            changed_at = clock_timestamp()
         where id = $1 and version = $2 and partition = $3",
    );
    let renewed =
        renewed.bind(id.as_str()).bind(version).bind(partition.number()).execute(&mut *transaction).await?;
    if renewed.rows_affected() == 0 {
        transaction.rollback().await?;
        return Ok(None);
    }
    if recount {
        stock::recount_in(&mut transaction, partition, id).await?;
    }
    transaction.commit().await?;
    get(pool, partition, id).await
}

/// Records that Redis has these versions, if the epoch is still the one in which Redis got them. Records no version
/// above the row's: Postgres may have been replaced by an older copy, and a late call must not hide an edit made there.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn mark_published(
    executor: impl PgExecutor<'_>,
    epoch: &Epoch,
    ids: Vec<&str>,
    versions: Vec<i64>,
) -> Result<(), PostgresError> {
    sqlx::query(
        "update coupons c set published_version = p.version, changed_at = clock_timestamp()
         from unnest($1::text[], $2::bigint[]) as p (id, version), fence f
         where c.id = p.id and c.published_version < p.version and p.version <= c.version
            and c.partition = $3 and f.partition = $3 and f.epoch = $4",
    )
    .bind(ids)
    .bind(versions)
    .bind(epoch.partition.number())
    .bind(epoch.as_str())
    .execute(executor)
    .await?;
    Ok(())
}

/// At most 1,000 coupons of the partition whose last version Redis may not have. Leaves out a new coupon for `grace_seconds`, while the
/// request that created it publishes it.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn unpublished(
    pool: &Pool,
    partition: Partition,
    grace_seconds: f64,
) -> Result<Vec<CouponRow>, PostgresError> {
    Ok(sqlx::query_as(select_coupons!(
        "where partition = $2 and published_version < version
            and (published_version > 0 or changed_at < clock_timestamp() - make_interval(secs => $1))
         order by id limit 1000"
    ))
    .bind(grace_seconds)
    .bind(partition.number())
    .fetch_all(pool)
    .await?)
}

/// Coupons changed at or after `since`, by Postgres's clock; all coupons for `None`. Ordered by that time.
///
/// # Errors
/// If Postgres cannot serve.
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

/// All definitions of the partition, ordered by id.
pub(super) async fn all_definitions(
    connection: &mut PgConnection,
    partition: Partition,
) -> Result<Vec<Definition>, PostgresError> {
    let rows = sqlx::query(select_coupons!("where partition = $1 order by id"))
        .bind(partition.number())
        .fetch_all(connection)
        .await?;
    Ok(rows.iter().map(definition).collect::<Result<_, _>>()?)
}
