//! A database for an alternative: the program's own tables, empty, in a schema of the bench, with one coupon
//! on sale, and connections to it. Who buys how is not known here.

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
/// Tells the connections of alternatives from the program's.
pub const APPLICATION: &str = "seckill bench";
/// Many clients queue for one row: a time-out would end a round on a slow disk.
const SESSION: [(&str, &str); 4] = [
    ("application_name", APPLICATION),
    ("statement_timeout", "60s"),
    ("lock_timeout", "60s"),
    ("idle_in_transaction_session_timeout", "60s"),
];
/// Longest wait for the connections of the round before.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
const LEAVE_POLL: Duration = Duration::from_millis(10);

pub struct Shop {
    pub coupon: CouponId,
    postgres: Postgres,
    /// For whatever is no buyer's work.
    pub keeper: PgConnection,
}

impl Shop {
    /// Drops what an earlier round has left and opens anew.
    ///
    /// # Errors
    /// When Postgres does not let us.
    pub async fn open(database_url: &str) -> Result<Self> {
        let postgres = Postgres::new(database_url, SCHEMA)?;
        let mut keeper = session(&postgres).await?;
        until_others_have_left(&mut keeper).await?;
        drop_schema(&mut keeper).await?;
        postgres.prepare().await?;
        let coupon: CouponId = "bench".parse()?;
        sqlx::query("insert into coupons (id, title, total, stock) values ($1, '', $2, $2)")
            .bind(coupon.as_str())
            .bind(TOTAL_MAX_UNITS)
            .execute(&mut keeper)
            .await?;
        Ok(Self { coupon, postgres, keeper })
    }

    /// Makes connections for buyers.
    pub fn door(&self) -> Door {
        Door(self.postgres.clone())
    }

    /// Takes away what is left but for so many units, as if it had never been there; answers how many units there
    /// are then at all.
    pub async fn leave(&mut self, units: i64) -> Result<i64> {
        let sql = "update coupons set total = total - stock + $2, stock = $2 where id = $1 returning total";
        Ok(sqlx::query_scalar(sql).bind(self.coupon.as_str()).bind(units).fetch_one(&mut self.keeper).await?)
    }

    /// Units left.
    pub async fn stock(&mut self) -> Result<i64> {
        let sql = "select stock from coupons where id = $1";
        Ok(sqlx::query_scalar(sql).bind(self.coupon.as_str()).fetch_one(&mut self.keeper).await?)
    }

    pub async fn orders(&mut self) -> Result<i64> {
        let sql = "select count(*) from orders where coupon_id = $1";
        Ok(sqlx::query_scalar(sql).bind(self.coupon.as_str()).fetch_one(&mut self.keeper).await?)
    }

    /// # Errors
    /// When other than so many units of so many were sold, or stock and orders do not add up.
    pub async fn must_add_up(&mut self, sold: i64, total: i64) -> Result<()> {
        let (stock, orders) = (self.stock().await?, self.orders().await?);
        ensure!(
            orders == sold && stock == total - sold,
            "{sold} units were sold of {total}, but there are {orders} orders and {stock} units left"
        );
        Ok(())
    }
}

/// The way to a shop's database for its buyers, from any thread.
#[derive(Clone)]
pub struct Door(Postgres);

impl Door {
    /// A connection for each of so many buyers.
    pub async fn connect(&self, clients: usize) -> Result<Vec<PgConnection>> {
        try_join_all((0..clients).map(|_| session(&self.0))).await
    }
}

/// The settings of a buyer's connection as libpq takes them: those of a session from here.
pub fn libpq_options() -> String {
    let path = [("search_path", SCHEMA), ("synchronous_commit", "on")];
    let settings =
        path.into_iter().chain(SESSION).chain(BY_INDEX).filter(|(name, _)| *name != "application_name");
    settings.map(|(name, value)| format!("-c {name}={value}")).collect::<Vec<_>>().join(" ")
}

/// What a shop has made in its database.
pub async fn drop_schema(connection: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("drop schema if exists bench cascade").execute(connection).await?;
    Ok(())
}

/// A connection for whoever has no shop yet.
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

/// A server process outlives its connection for a moment: two rounds' could be more than Postgres allows.
async fn until_others_have_left(keeper: &mut PgConnection) -> Result<()> {
    let others = "select count(*) from pg_stat_activity
        where application_name = $1 and datname = current_database() and pid <> pg_backend_pid()";
    let deadline = Instant::now() + LEAVE_TIMEOUT;
    while sqlx::query_scalar::<_, i64>(others).bind(APPLICATION).fetch_one(&mut *keeper).await? > 0 {
        ensure!(Instant::now() < deadline, "connections of another bench are open");
        sleep(LEAVE_POLL).await;
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

/// The time inside the order's id.
pub fn claimed_at(claim: &Claim) -> Result<OffsetDateTime> {
    claim.order.claimed_at().context("an order's id holds no time")
}

/// Whether a constraint stands against it: a user's second order, or a unit that is not there.
pub fn is_refusal(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| e.is_unique_violation() || e.is_check_violation())
}
