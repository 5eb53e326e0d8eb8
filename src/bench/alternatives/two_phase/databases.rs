//! The two databases of two-phase commit, in the bench's Postgres.

use anyhow::{Context, Result, ensure};
use sqlx::AssertSqlSafe;
use url::Url;

use super::{finish, recovery};
use crate::bench::alternatives::schema;
use crate::config::StoreAddresses;
use crate::postgres::PgConnection;

const STOCK: &str = "bench_stock";
const ORDERS: &str = "bench_orders";
/// Two for each client, at the highest number of clients.
const PREPARED_MIN: i32 = 64;

pub struct Databases {
    pub stock_url: String,
    pub orders_url: String,
}

impl Databases {
    /// Drops both databases if they exist, and creates them.
    ///
    /// # Errors
    /// When Postgres refuses, or allows too few prepared transactions.
    pub async fn create(stores: &StoreAddresses) -> Result<Self> {
        let mut connection = schema::connect(&stores.database_url).await?;
        let setting = "select current_setting('max_prepared_transactions')::int";
        let allowed: i32 = sqlx::query_scalar(setting).fetch_one(&mut connection).await?;
        ensure!(
            allowed >= PREPARED_MIN,
            "two-phase commit needs max_prepared_transactions={PREPARED_MIN} or more, and it is {allowed}"
        );
        Ok(Self {
            stock_url: create(&mut connection, &stores.database_url, STOCK).await?,
            orders_url: create(&mut connection, &stores.database_url, ORDERS).await?,
        })
    }
}

/// Returns the database's address.
async fn create(connection: &mut PgConnection, url: &str, name: &str) -> Result<String> {
    let mut address = Url::parse(url).context("DATABASE_URL is not a URL")?;
    address.set_path(name);
    let address = String::from(address);
    let exists: bool = sqlx::query_scalar("select exists (select 1 from pg_database where datname = $1)")
        .bind(name)
        .fetch_one(&mut *connection)
        .await?;
    if exists {
        // Prepared transactions of a killed bench prevent dropping the database.
        let mut inside = schema::connect(&address).await?;
        for gid in recovery::prepared(&mut inside).await? {
            finish(&mut inside, "rollback prepared", &gid).await?;
        }
    }
    drop_database(connection, name).await?;
    sqlx::raw_sql(AssertSqlSafe(format!("create database {name}"))).execute(&mut *connection).await?;
    Ok(address)
}

/// # Errors
/// When Postgres refuses, for example because a prepared transaction is left.
pub async fn drop_both(connection: &mut PgConnection) -> Result<()> {
    drop_database(connection, STOCK).await?;
    drop_database(connection, ORDERS).await
}

async fn drop_database(connection: &mut PgConnection, name: &str) -> Result<()> {
    let sql = format!("drop database if exists {name} with (force)");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}
