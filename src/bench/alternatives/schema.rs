//! The database schema of an alternative: the program's own tables with one coupon on sale, and connections to them. The
//! alternatives implement the sales.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::config::TOTAL_MAX_UNITS;
use crate::domain::{Claim, CouponId};
use crate::postgres::{BY_INDEX, PgConnection, Postgres};

pub const SCHEMA: &str = "bench";
/// Distinguishes the connections of alternatives from those of the program.
pub const APPLICATION: &str = "seckill bench";
/// Longer timeouts than the program's: many clients wait for one row, and must not time out on a slow disk.
const SESSION: [(&str, &str); 4] = [
    ("application_name", APPLICATION),
    ("statement_timeout", "60s"),
    ("lock_timeout", "60s"),
    ("idle_in_transaction_session_timeout", "60s"),
];
/// Longest wait until the connections of the previous measurement are closed.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DISCONNECT_POLL: Duration = Duration::from_millis(10);

pub struct BenchSchema {
    pub coupon: CouponId,
    postgres: Postgres,
    /// A connection for everything except sales.
    pub control: PgConnection,
}

impl BenchSchema {
    /// Drops the schema of an earlier measurement and creates a new one.
    ///
    /// # Errors
    /// When Postgres refuses, or connections of another bench are open.
    pub async fn create(database_url: &str) -> Result<Self> {
        let postgres = Postgres::new(database_url, SCHEMA)?;
        let mut control = session(&postgres).await?;
        wait_until_others_disconnect(&mut control).await?;
        drop_schema(&mut control).await?;
        postgres.prepare().await?;
        let coupon: CouponId = "bench".parse()?;
        sqlx::query("insert into coupons (id, title, total, stock) values ($1, '', $2, $2)")
            .bind(coupon.as_str())
            .bind(TOTAL_MAX_UNITS)
            .execute(&mut control)
            .await?;
        Ok(Self { coupon, postgres, control })
    }

    /// Opens connections for buyers.
    pub fn connector(&self) -> Connector {
        Connector(self.postgres.clone())
    }

    /// Reduces the total so that this number of units is left, and returns the new total.
    pub async fn set_stock(&mut self, units: i64) -> Result<i64> {
        let sql = "update coupons set total = total - stock + $2, stock = $2 where id = $1 returning total";
        Ok(sqlx::query_scalar(sql)
            .bind(self.coupon.as_str())
            .bind(units)
            .fetch_one(&mut self.control)
            .await?)
    }

    /// Number of units left.
    pub async fn stock(&mut self) -> Result<i64> {
        let sql = "select stock from coupons where id = $1";
        Ok(sqlx::query_scalar(sql).bind(self.coupon.as_str()).fetch_one(&mut self.control).await?)
    }

    /// Number of orders.
    pub async fn orders(&mut self) -> Result<i64> {
        let sql = "select count(*) from orders where coupon_id = $1";
        Ok(sqlx::query_scalar(sql).bind(self.coupon.as_str()).fetch_one(&mut self.control).await?)
    }

    /// # Errors
    /// When the stock is not `total - sold`, or the number of orders is not `sold`.
    pub async fn check_totals(&mut self, sold: i64, total: i64) -> Result<()> {
        let (stock, orders) = (self.stock().await?, self.orders().await?);
        ensure!(
            orders == sold && stock == total - sold,
            "{sold} units were sold of {total}, but there are {orders} orders and {stock} units left"
        );
        Ok(())
    }
}

/// Opens buyers' connections to a schema, from any thread.
#[derive(Clone)]
pub struct Connector(Postgres);

impl Connector {
    /// Opens one connection for each buyer.
    pub async fn connect(&self, clients: usize) -> Result<Vec<PgConnection>> {
        try_join_all((0..clients).map(|_| session(&self.0))).await
    }
}

/// The settings of a buyer's connection as `PGOPTIONS`: the same as those of a connection opened here.
pub fn libpq_options() -> String {
    let path = [("search_path", SCHEMA), ("synchronous_commit", "on")];
    let settings =
        path.into_iter().chain(SESSION).chain(BY_INDEX).filter(|(name, _)| *name != "application_name");
    settings.map(|(name, value)| format!("-c {name}={value}")).collect::<Vec<_>>().join(" ")
}

/// Drops the schema in the connection's database.
pub async fn drop_schema(connection: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("drop schema if exists bench cascade").execute(connection).await?;
    Ok(())
}

/// Opens a connection without creating a schema.
pub async fn connect(database_url: &str) -> Result<PgConnection> {
    session(&Postgres::new(database_url, SCHEMA)?).await
}

async fn session(postgres: &Postgres) -> Result<PgConnection> {
    let mut connection = postgres.dedicated().await?;
    for (name, value) in SESSION {
        let set = "select set_config($1, $2, false)";
        sqlx::query(set).bind(name).bind(value).execute(&mut connection).await?;
    }
    Ok(connection)
}

/// Waits, because a Postgres process ends a moment after its connection is closed: the processes of two measurements
/// could be more than Postgres allows.
async fn wait_until_others_disconnect(control: &mut PgConnection) -> Result<()> {
    let others = "select count(*) from pg_stat_activity
        where application_name = $1 and datname = current_database() and pid <> pg_backend_pid()";
    let deadline = Instant::now() + DISCONNECT_TIMEOUT;
    while sqlx::query_scalar::<_, i64>(others).bind(APPLICATION).fetch_one(&mut *control).await? > 0 {
        ensure!(Instant::now() < deadline, "connections of another bench are open");
        sleep(DISCONNECT_POLL).await;
    }
    Ok(())
}

/// Inserts the orders of these claims in one statement.
pub async fn insert_orders(connection: &mut PgConnection, claims: &[Claim]) -> Result<()> {
    let inserted = sqlx::query(
        "insert into orders (id, coupon_id, user_id, status, claimed_at)
         select id, coupon_id, user_id, 'confirmed', claimed_at
         from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) as e (id, coupon_id, user_id, claimed_at)",
    )
    .bind(claims.iter().map(|claim| claim.order.0).collect::<Vec<Uuid>>())
    .bind(claims.iter().map(|claim| claim.coupon.as_str()).collect::<Vec<&str>>())
    .bind(claims.iter().map(|claim| claim.user.as_str()).collect::<Vec<&str>>())
    .bind(claims.iter().map(claimed_at).collect::<Result<Vec<OffsetDateTime>>>()?)
    .execute(connection)
    .await?
    .rows_affected();
    ensure!(inserted == claims.len() as u64, "{inserted} of {} orders were inserted", claims.len());
    Ok(())
}

/// The time in the order's id (UUID version 7).
pub fn claimed_at(claim: &Claim) -> Result<OffsetDateTime> {
    claim.order.claimed_at().context("an order's id holds no time")
}

/// Whether a constraint refused the statement: a user's second order, or a sale after the last unit.
pub fn is_refusal(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| e.is_unique_violation() || e.is_check_violation())
}
