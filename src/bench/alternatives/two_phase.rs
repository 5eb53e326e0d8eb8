//! Two-phase commit: stock and orders in two databases, each unit a prepared transaction in both. Correct, but the
//! row of the stock is held over two flushes, and a coordinator that dies leaves it locked until somebody recovers.

mod databases;
mod recovery;

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::AssertSqlSafe;

use super::Figure;
use super::crowd::{Answer, Buyer, must_refuse, new_claim, sell};
use super::shop::{Shop, claimed_at, is_refusal};
use crate::config::{StoreAddresses, TOTAL_MAX_UNITS};
use crate::domain::Claim;
use crate::postgres::PgConnection;
use databases::Databases;
pub use databases::drop_both;
use recovery::recover;

/// Each has two connections and at most two prepared transactions: more than the bench's Postgres allows.
pub const CLIENTS_MAX: usize = 32;

/// The halves of a purchase.
const STOCK: &str = "stock";
const ORDERS: &str = "orders";

/// In the stock's database: which orders have taken a unit, so that recovery can tell a committed deduction from one
/// that was never prepared. The usual log of the coordinator would be one more flush while the row is held.
const DEDUCTIONS: &str = "create table deductions (order_id uuid primary key)";

/// How far a purchase goes before its coordinator dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LastStep {
    OrderPrepared,
    StockPrepared,
    StockCommitted,
    /// It does not die.
    OrderCommitted,
}

/// Each number of clients for `run_for`. Postgres needs `max_prepared_transactions` of 64 or more.
///
/// # Errors
/// When Postgres fails, a round does not add up, or a prepared transaction is left over.
pub async fn two_phase(stores: &StoreAddresses, clients: &[usize], run_for: Duration) -> Result<Vec<Figure>> {
    let databases = Databases::create(stores).await?;
    let mut figures = Vec::new();
    for &clients in clients {
        figures.push(round(&databases, clients.min(CLIENTS_MAX), run_for).await?);
    }
    Ok(figures)
}

async fn round(databases: &Databases, clients: usize, run_for: Duration) -> Result<Figure> {
    let mut stock = Shop::open(&databases.stock_url).await?;
    let mut orders = Shop::open(&databases.orders_url).await?;
    sqlx::raw_sql(DEDUCTIONS).execute(&mut stock.keeper).await?;
    let doors = (stock.door(), orders.door());
    let connect = async move |clients| {
        let pairs = doors.0.connect(clients).await?.into_iter().zip(doors.1.connect(clients).await?);
        Ok(pairs.map(|(stock, orders)| Coordinator { stock, orders }).collect())
    };
    let mut purchases = sell(&stock.coupon, clients, run_for, connect).await?;

    let recovered = die_at_every_step(&mut purchases.buyer, &mut stock, &mut orders).await?;
    must_add_up(&mut stock, &mut orders, TOTAL_MAX_UNITS, purchases.units + recovered).await?;
    let total = stock.leave(0).await?;
    must_refuse(&mut purchases.buyer, &new_claim(&stock.coupon), "a claim after the last unit").await?;
    must_add_up(&mut stock, &mut orders, total, total).await?;
    Ok(Figure { name: "two-phase commit", clients, rate: purchases.rate })
}

/// Leaves transactions in doubt as a coordinator that is killed would, and recovers them; answers how many units
/// were sold by that.
async fn die_at_every_step(buyer: &mut Coordinator, stock: &mut Shop, orders: &mut Shop) -> Result<i64> {
    let mut sold = 0;
    for (step, units) in
        [(LastStep::OrderPrepared, 0), (LastStep::StockPrepared, 1), (LastStep::StockCommitted, 1)]
    {
        buyer.buy_up_to(step, &new_claim(&stock.coupon)).await?;
        recover(&mut stock.keeper, &mut orders.keeper).await?;
        sold += units;
    }
    Ok(sold)
}

async fn must_add_up(stock: &mut Shop, orders: &mut Shop, total: i64, sold: i64) -> Result<()> {
    let (left, rows) = (stock.stock().await?, orders.orders().await?);
    ensure!(
        rows == sold && left == total - sold,
        "{sold} units were sold of {total}, but there are {rows} orders and {left} units left"
    );
    let in_doubt = "select count(*) from pg_prepared_xacts";
    let in_doubt: i64 = sqlx::query_scalar(in_doubt).fetch_one(&mut stock.keeper).await?;
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
    /// The order is prepared first and committed last: the one row of the stock is held as short as can be.
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

/// Names are unique in the whole cluster, not in a database: the two halves of an order have one each.
fn gid(half: &str, order: impl Display) -> String {
    format!("{half}:{order}")
}

// The texts below hold ids only, which are valid by construction: letters, digits, `_` and `-`.

fn insert_order(claim: &Claim) -> Result<String> {
    let Claim { coupon, user, order } = claim;
    let claimed_at_ns = claimed_at(claim)?.unix_timestamp_nanos();
    Ok(format!(
        "insert into orders (id, coupon_id, user_id, status, claimed_at)
         values ('{order}', '{coupon}', '{user}', 'confirmed', to_timestamp({claimed_at_ns} / 1e9))"
    ))
}

/// Without `stock > 0`: the constraint refuses the last but one unit, and nothing is prepared.
fn take_unit(claim: &Claim) -> String {
    let Claim { coupon, order, .. } = claim;
    format!(
        "insert into deductions values ('{order}'); update coupons set stock = stock - 1 where id = '{coupon}'"
    )
}

/// One round trip: while it is under way others wait for the row. Whether Postgres promises to commit.
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
