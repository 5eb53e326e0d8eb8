//! Two-phase commit: stock and orders in two databases, and each sale is a prepared transaction in both. Correct, but
//! the row of the stock is locked during two flushes, and after the death of a coordinator it stays locked until a
//! recovery.

mod databases;
mod recovery;

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::AssertSqlSafe;

use super::Figure;
use super::buyers::{Answer, Buyer, check_refused, new_claim, run_buyers};
use super::schema::{BenchSchema, claimed_at, is_refusal};
use crate::config::{StoreAddresses, TOTAL_MAX_UNITS};
use crate::domain::Claim;
use crate::postgres::PgConnection;
use databases::Databases;
pub use databases::drop_both;
use recovery::recover;

/// Each client has two connections and at most two prepared transactions; the bench's Postgres allows no more clients.
pub const CLIENTS_MAX: usize = 32;

/// Prefixes for the names of a sale's two prepared transactions.
const STOCK: &str = "stock";
const ORDERS: &str = "orders";

/// A table in the stock's database with the orders that have taken a unit. It shows the recovery whether a deduction
/// was committed or never prepared. The usual log of the coordinator would need another flush while the row is locked.
const DEDUCTIONS: &str = "create table deductions (order_id uuid primary key)";

/// The last step of a purchase before its coordinator dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LastStep {
    OrderPrepared,
    StockPrepared,
    StockCommitted,
    /// The whole purchase: the coordinator does not die.
    OrderCommitted,
}

/// Measures each number of clients for `run_for`. Postgres needs `max_prepared_transactions` of 64 or more.
///
/// # Errors
/// When Postgres fails, stock and orders do not match, or a prepared transaction is left.
pub async fn two_phase(stores: &StoreAddresses, clients: &[usize], run_for: Duration) -> Result<Vec<Figure>> {
    let databases = Databases::create(stores).await?;
    let mut figures = Vec::new();
    for &clients in clients {
        figures.push(measure(&databases, clients.min(CLIENTS_MAX), run_for).await?);
    }
    Ok(figures)
}

async fn measure(databases: &Databases, clients: usize, run_for: Duration) -> Result<Figure> {
    let mut stock = BenchSchema::create(&databases.stock_url).await?;
    let mut orders = BenchSchema::create(&databases.orders_url).await?;
    sqlx::raw_sql(DEDUCTIONS).execute(&mut stock.control).await?;
    let connectors = (stock.connector(), orders.connector());
    let connect = async move |clients| {
        let pairs =
            connectors.0.connect(clients).await?.into_iter().zip(connectors.1.connect(clients).await?);
        Ok(pairs.map(|(stock, orders)| Coordinator { stock, orders }).collect())
    };
    let mut purchases = run_buyers(&stock.coupon, clients, run_for, connect).await?;

    let recovered = die_at_every_step(&mut purchases.buyer, &mut stock, &mut orders).await?;
    check_totals(&mut stock, &mut orders, TOTAL_MAX_UNITS, purchases.units + recovered).await?;
    let total = stock.set_stock(0).await?;
    check_refused(&mut purchases.buyer, &new_claim(&stock.coupon), "a claim after the last unit").await?;
    check_totals(&mut stock, &mut orders, total, total).await?;
    Ok(Figure { name: "two-phase commit", clients, rate: purchases.rate })
}

/// Leaves prepared transactions, as a killed coordinator does, and recovers them. Returns the number of units sold.
async fn die_at_every_step(
    buyer: &mut Coordinator,
    stock: &mut BenchSchema,
    orders: &mut BenchSchema,
) -> Result<i64> {
    let mut sold = 0;
    for (step, units) in
        [(LastStep::OrderPrepared, 0), (LastStep::StockPrepared, 1), (LastStep::StockCommitted, 1)]
    {
        buyer.buy_up_to(step, &new_claim(&stock.coupon)).await?;
        recover(&mut stock.control, &mut orders.control).await?;
        sold += units;
    }
    Ok(sold)
}

async fn check_totals(
    stock: &mut BenchSchema,
    orders: &mut BenchSchema,
    total: i64,
    sold: i64,
) -> Result<()> {
    let (left, rows) = (stock.stock().await?, orders.orders().await?);
    ensure!(
        rows == sold && left == total - sold,
        "{sold} units were sold of {total}, but there are {rows} orders and {left} units left"
    );
    let in_doubt = "select count(*) from pg_prepared_xacts";
    let in_doubt: i64 = sqlx::query_scalar(in_doubt).fetch_one(&mut stock.control).await?;
    ensure!(in_doubt == 0, "{in_doubt} prepared transactions are left in doubt");
    Ok(())
}

struct Coordinator {
    stock: PgConnection,
    orders: PgConnection,
}

impl Buyer for Coordinator {
    async fn buy(&mut self, claim: &Claim) -> Result<Answer> {
        self.buy_up_to(LastStep::OrderCommitted, claim).await
    }
}

impl Coordinator {
    /// The order is prepared first and committed last, so that the row of the stock is locked for the shortest time.
    async fn buy_up_to(&mut self, last: LastStep, claim: &Claim) -> Result<Answer> {
        let (stock, order) = (gid(STOCK, claim.order), gid(ORDERS, claim.order));
        if !prepare(&mut self.orders, &order, &insert_order(claim)?).await? {
            return Ok(Answer::Refused);
        }
        if last == LastStep::OrderPrepared {
            return Ok(Answer::Refused);
        }
        if !prepare(&mut self.stock, &stock, &take_unit(claim)).await? {
            finish(&mut self.orders, "rollback prepared", &order).await?;
            return Ok(Answer::Refused);
        }
        if last == LastStep::StockPrepared {
            return Ok(Answer::Refused);
        }
        finish(&mut self.stock, "commit prepared", &stock).await?;
        if last == LastStep::OrderCommitted {
            finish(&mut self.orders, "commit prepared", &order).await?;
        }
        Ok(Answer::Sold)
    }
}

/// The name of a prepared transaction. Names are unique in the whole cluster, so the two transactions of a sale have
/// different names.
fn gid(half: &str, order: impl Display) -> String {
    format!("{half}:{order}")
}

// The statements below contain ids only, whose types allow letters, digits, `_` and `-`.

fn insert_order(claim: &Claim) -> Result<String> {
    let Claim { coupon, user, order, .. } = claim;
    let claimed_at_ns = claimed_at(claim)?.unix_timestamp_nanos();
    Ok(format!(
        "insert into orders (id, coupon_id, user_id, status, claimed_at)
         values ('{order}', '{coupon}', '{user}', 'confirmed', to_timestamp({claimed_at_ns} / 1e9))"
    ))
}

/// Has no `stock > 0`: the constraint refuses a negative stock, and then nothing is prepared.
fn take_unit(claim: &Claim) -> String {
    let Claim { coupon, order, .. } = claim;
    format!(
        "insert into deductions values ('{order}'); update coupons set stock = stock - 1 where id = '{coupon}'"
    )
}

/// Prepares a transaction in one round trip, because other buyers wait for its row. `false` if a constraint refuses the
/// transaction.
async fn prepare(connection: &mut PgConnection, gid: &str, sql: &str) -> Result<bool> {
    let all = format!("begin; {sql}; prepare transaction '{gid}'");
    match sqlx::raw_sql(AssertSqlSafe(all)).execute(&mut *connection).await {
        Ok(_) => Ok(true),
        Err(error) if is_refusal(&error) => {
            sqlx::raw_sql("rollback").execute(connection).await?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

async fn finish(connection: &mut PgConnection, how: &str, gid: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(format!("{how} '{gid}'"))).execute(connection).await?;
    Ok(())
}
