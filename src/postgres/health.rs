//! The server's settings and the state of the tables, for `doctor`, which judges them. Reads only, on a session that
//! cannot write.

use sqlx::{Connection, FromRow, PgConnection, PgExecutor, Row};

use super::{MIGRATIONS, Postgres, PostgresError};
use crate::domain::Partition;

const SERVER_SETTINGS: &str = include_str!("../../sql/queries/server_settings.sql");

/// The server's settings, as a new session without its own settings has them.
#[derive(Clone, Debug, FromRow)]
pub struct Server {
    /// As in `server_version_num`: 150013 means 15.13.
    pub version_number: i32,
    pub version: String,
    pub in_recovery: bool,
    pub fsync: String,
    pub full_page_writes: String,
    pub synchronous_commit: String,
    pub max_connections: i32,
    pub connections: i64,
    /// Kept for superusers.
    pub reserved_connections: i32,
    /// The processes of this program that compare the stores, those of other schemas included.
    pub processes: i64,
    pub other_connections: i64,
    pub synchronous_standby_names: String,
    /// The standbys that are connected, those that copy the database for the first time included.
    pub standbys: i64,
    /// Whether this role may read which commits a promoted standby has.
    pub may_read_history: bool,
    pub role: String,
    /// The server's clock, ms since 1970.
    pub now_ms: i64,
}

impl Server {
    /// The connections that this program may open.
    #[must_use]
    pub fn room(&self) -> i64 {
        i64::from(self.max_connections - self.reserved_connections) - self.other_connections
    }
}

/// How the schema differs from this program's migrations, by their versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    pub missing: Vec<i64>,
    /// Not completed, or with another text than this program has.
    pub broken: Vec<i64>,
    /// From a newer version of the program.
    pub unknown: Vec<i64>,
}

/// Rows that the program has still to process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Waiting {
    pub rows: i64,
    pub oldest_seconds: i64,
}

/// Opens a session that cannot write, without the settings of the program's other sessions.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn connect(postgres: &Postgres) -> Result<PgConnection, PostgresError> {
    super::connect_with(&postgres.reading).await
}

/// Reads version, settings, connections and clock.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn server(connection: &mut PgConnection) -> Result<Server, PostgresError> {
    Ok(sqlx::query_as(SERVER_SETTINGS).fetch_one(connection).await?)
}

/// The server's clock, ms since 1970.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn now_ms(connection: &mut PgConnection) -> Result<i64, PostgresError> {
    let now = "select (extract(epoch from clock_timestamp()) * 1000)::bigint";
    Ok(sqlx::query_scalar(now).fetch_one(connection).await?)
}

/// `synchronous_commit` of the sessions that record orders.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn own_synchronous_commit(postgres: &Postgres) -> Result<String, PostgresError> {
    let mut connection = postgres.dedicated().await?;
    let setting = sqlx::query_scalar("show synchronous_commit").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(setting)
}

/// Compares the schema's list of applied migrations with this program's; creates nothing.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn migrated(connection: &mut PgConnection, schema: &str) -> Result<Migrated, PostgresError> {
    let ours = || MIGRATIONS.iter().filter(|migration| !migration.migration_type.is_down_migration());
    let exists: bool = sqlx::query_scalar("select to_regclass($1 || '._sqlx_migrations') is not null")
        .bind(schema)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(Migrated { missing: ours().map(|m| m.version).collect(), ..Migrated::default() });
    }
    let mut found = Migrated::default();
    let rows = sqlx::query("select version, success, checksum from _sqlx_migrations order by version");
    let mut applied = Vec::new();
    for row in rows.fetch_all(connection).await? {
        let (version, success): (i64, bool) = (row.try_get("version")?, row.try_get("success")?);
        let checksum: Vec<u8> = row.try_get("checksum")?;
        applied.push(version);
        match ours().find(|migration| migration.version == version) {
            None => found.unknown.push(version),
            Some(migration) if !success || migration.checksum[..] != checksum[..] => {
                found.broken.push(version);
            }
            Some(_) => {}
        }
    }
    found.missing = ours().map(|migration| migration.version).filter(|v| !applied.contains(v)).collect();
    Ok(found)
}

/// Units that wait for their return to stock in Redis.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn outbox(executor: impl PgExecutor<'_>) -> Result<Waiting, PostgresError> {
    let waiting = "select count(*) as rows,
        coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::bigint as oldest_seconds from outbox";
    Ok(sqlx::query_as(waiting).fetch_one(executor).await?)
}

/// The number of reserved orders.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn reserved(executor: impl PgExecutor<'_>) -> Result<i64, PostgresError> {
    Ok(sqlx::query_scalar("select count(*) from orders where status = 'reserved'")
        .fetch_one(executor)
        .await?)
}

/// The overdue orders, which the sweeper has not expired yet.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn overdue(executor: impl PgExecutor<'_>) -> Result<Waiting, PostgresError> {
    let waiting = "select coalesce(sum(o.rows), 0)::bigint as rows,
        coalesce(extract(epoch from clock_timestamp() - min(o.oldest)), 0)::bigint as oldest_seconds
        from fence f cross join lateral (
            select count(*) as rows, min(reserved_until) as oldest from orders
            where status = 'reserved' and partition = f.partition::smallint
                and reserved_until <= statement_timestamp()
        ) o";
    Ok(sqlx::query_as(waiting).fetch_one(executor).await?)
}

/// Coupons whose last edit is not known to be in Redis.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn unpublished(connection: &mut PgConnection) -> Result<Waiting, PostgresError> {
    let waiting = "select count(*) as rows,
        coalesce(extract(epoch from clock_timestamp() - min(changed_at)), 0)::bigint as oldest_seconds
        from coupons where published_version < version";
    Ok(sqlx::query_as(waiting).fetch_one(connection).await?)
}

/// The number of dead letters that no operator has marked as seen; a replay marks its letter too.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn unseen_letters(executor: impl PgExecutor<'_>) -> Result<i64, PostgresError> {
    let count = "select count(*) from dead_letters where seen_at is null";
    Ok(sqlx::query_scalar(count).fetch_one(executor).await?)
}

/// The number of coupons, and the first id whose stock is not its total minus its live orders.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn stock_drift(connection: &mut PgConnection) -> Result<(i64, Option<String>), PostgresError> {
    // One scan of all live orders, not one for each coupon.
    let row = sqlx::query(
        "select count(*) as coupons, min(c.id) filter (where c.stock <> c.total - coalesce(live.orders, 0)) as wrong
         from coupons c left join (select coupon_id, count(*) as orders from orders
            where status in ('reserved', 'confirmed') group by coupon_id) live on live.coupon_id = c.id",
    )
    .fetch_one(connection)
    .await?;
    Ok((row.try_get("coupons")?, row.try_get("wrong")?))
}

/// One page of the ids of the partition's published coupons after `after`: Redis must have them.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn published_ids(
    connection: &mut PgConnection,
    partition: Partition,
    after: &str,
    limit: i64,
) -> Result<Vec<String>, PostgresError> {
    let page = "select id from coupons where published_version > 0 and partition = $1 and id > $2 order by id limit $3";
    let page = sqlx::query_scalar(page).bind(partition.number()).bind(after).bind(limit);
    Ok(page.fetch_all(connection).await?)
}
