//! How the server is set up and how our tables fare: what an operator may have got wrong. Reads only, on a
//! session that may not write; what to think of it is the readers' affair.

use sqlx::{Connection, FromRow, PgConnection, Row};

use super::{MIGRATIONS, Postgres, PostgresError};

/// Settings as the server has them for a session that asks for nothing.
#[derive(Clone, Debug, FromRow)]
pub struct Server {
    /// `150013` for 15.13.
    pub version_number: i32,
    pub version: String,
    pub in_recovery: bool,
    pub fsync: String,
    pub full_page_writes: String,
    pub synchronous_commit: String,
    pub max_connections: i32,
    pub connections: i64,
    /// Its clock, ms since 1970.
    pub now_ms: i64,
}

/// What of this program's migrations the schema has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    pub missing: Vec<i64>,
    /// Begun and not finished, or another text than this program's.
    pub broken: Vec<i64>,
    /// Of a newer program.
    pub unknown: Vec<i64>,
}

/// Rows that wait for something to be done with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Waiting {
    pub rows: i64,
    pub oldest_seconds: i64,
}

/// A session that reads and may not write, without the settings that this program's own sessions insist on.
pub async fn connect(postgres: &Postgres) -> Result<PgConnection, PostgresError> {
    super::connect_with(&postgres.reading).await
}

pub async fn server(connection: &mut PgConnection) -> Result<Server, PostgresError> {
    Ok(sqlx::query_as(
        "select current_setting('server_version_num')::int as version_number,
            split_part(current_setting('server_version'), ' ', 1) as version,
            pg_is_in_recovery() as in_recovery,
            current_setting('fsync') as fsync,
            current_setting('full_page_writes') as full_page_writes,
            current_setting('synchronous_commit') as synchronous_commit,
            current_setting('max_connections')::int as max_connections,
            (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections,
            (extract(epoch from clock_timestamp()) * 1000)::bigint as now_ms",
    )
    .fetch_one(connection)
    .await?)
}

/// Its clock, ms since 1970.
pub async fn now_ms(connection: &mut PgConnection) -> Result<i64, PostgresError> {
    let now = "select (extract(epoch from clock_timestamp()) * 1000)::bigint";
    Ok(sqlx::query_scalar(now).fetch_one(connection).await?)
}

/// `synchronous_commit` of the sessions in which this program records orders.
pub async fn own_synchronous_commit(postgres: &Postgres) -> Result<String, PostgresError> {
    let mut connection = postgres.dedicated().await?;
    let setting = sqlx::query_scalar("show synchronous_commit").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(setting)
}

/// Looks at the schema's list of migrations without making it.
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

/// Units that wait to go back to stock in Redis.
pub async fn outbox(connection: &mut PgConnection) -> Result<Waiting, PostgresError> {
    let waiting = "select count(*) as rows,
        coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::bigint as oldest_seconds from outbox";
    Ok(sqlx::query_as(waiting).fetch_one(connection).await?)
}

/// Edits of coupons that are not in force in Redis.
pub async fn unpublished(connection: &mut PgConnection) -> Result<Waiting, PostgresError> {
    let waiting = "select count(*) as rows,
        coalesce(extract(epoch from clock_timestamp() - min(changed_at)), 0)::bigint as oldest_seconds
        from coupons where published_version < version";
    Ok(sqlx::query_as(waiting).fetch_one(connection).await?)
}

/// Dead letters that nobody has dealt with.
pub async fn unseen_letters(connection: &mut PgConnection) -> Result<i64, PostgresError> {
    let count = "select count(*) from dead_letters where seen_at is null";
    Ok(sqlx::query_scalar(count).fetch_one(connection).await?)
}

/// Coupons, and the first of those whose stock is not total − live orders.
pub async fn stock_drift(connection: &mut PgConnection) -> Result<(i64, Option<String>), PostgresError> {
    // One walk over all live orders, not one for each coupon.
    let row = sqlx::query(
        "select count(*) as coupons, min(c.id) filter (where c.stock <> c.total - coalesce(live.orders, 0)) as wrong
         from coupons c left join (select coupon_id, count(*) as orders from orders
            where status in ('reserved', 'confirmed') group by coupon_id) live on live.coupon_id = c.id",
    )
    .fetch_one(connection)
    .await?;
    Ok((row.try_get("coupons")?, row.try_get("wrong")?))
}

/// One page of the ids of coupons that Redis must have, after `after`.
pub async fn published_ids(
    connection: &mut PgConnection,
    after: &str,
    limit: i64,
) -> Result<Vec<String>, PostgresError> {
    let page = "select id from coupons where published_version > 0 and id > $1 order by id limit $2";
    Ok(sqlx::query_scalar(page).bind(after).bind(limit).fetch_all(connection).await?)
}
