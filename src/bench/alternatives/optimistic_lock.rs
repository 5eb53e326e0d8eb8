//! The conditional update in Postgres alone, `stock = stock - 1 where stock > 0`: correct and simple. All buyers
//! wait for one row, which each holds until its commit is flushed, so that the disk's flushes are the rate.

use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::Connection;

use super::Figure;
use super::crowd::{Answer, Buyer, must_refuse, new_claim, sell};
use super::shop::{Shop, claimed_at, is_refusal};
use crate::config::StoreAddresses;
use crate::model::Claim;
use crate::postgres::PgConnection;

const CLIENTS: [usize; 4] = [1, 4, 16, 50];
const TRANSACTION_CLIENTS: usize = 50;

/// One statement for all: the row is held for one round trip and one flush.
const SELL: &str = "
    with u as (update coupons set stock = stock - 1 where id = $1 and stock > 0 returning 1)
    insert into orders (id, coupon_id, user_id, status, claimed_at) select $2, $1, $3, 'confirmed', $4 from u";
const TAKE: &str = "update coupons set stock = stock - 1 where id = $1 and stock > 0";
const INSERT: &str =
    "insert into orders (id, coupon_id, user_id, status, claimed_at) values ($2, $1, $3, 'confirmed', $4)";

/// One statement in autocommit with each number of clients, then the usual two in a transaction; `run_for` each.
///
/// # Errors
/// When Postgres fails, or a round does not add up.
pub async fn optimistic_lock(stores: &StoreAddresses, run_for: Duration) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for clients in CLIENTS {
        figures.push(round("optimistic lock, one statement", stores, clients, run_for, OneStatement).await?);
    }
    let name = "optimistic lock, transaction";
    figures.push(round(name, stores, TRANSACTION_CLIENTS, run_for, Transaction).await?);
    Ok(figures)
}

async fn round<B: Buyer>(
    name: &'static str,
    stores: &StoreAddresses,
    clients: usize,
    run_for: Duration,
    buyer: impl Fn(PgConnection) -> B,
) -> Result<Figure> {
    let mut shop = Shop::open(&stores.database_url).await?;
    let buyers = shop.connect(clients).await?.into_iter().map(buyer).collect();
    let mut purchases = sell(&shop.coupon, buyers, run_for).await?;
    shop.must_add_up(purchases.units).await?;

    let total = shop.sell_out().await?;
    must_refuse(&mut purchases.buyer, &new_claim(&shop.coupon), "a claim after the last unit").await?;
    let (stock, orders) = (shop.stock().await?, shop.orders().await?);
    ensure!(
        stock == 0 && orders == total,
        "of {total} units {stock} are left, and there are {orders} orders"
    );
    Ok(Figure { name, clients, rate: purchases.rate })
}

struct OneStatement(PgConnection);

impl Buyer for OneStatement {
    async fn buy(&mut self, claim: &Claim) -> Result<Answer> {
        execute(SELL, claim, &mut self.0).await
    }
}

struct Transaction(PgConnection);

impl Buyer for Transaction {
    async fn buy(&mut self, claim: &Claim) -> Result<Answer> {
        let mut transaction = self.0.begin().await?;
        let taken = sqlx::query(TAKE).bind(claim.coupon.as_str()).execute(&mut *transaction).await?;
        let is_taken = taken.rows_affected() == 1;
        if is_taken && execute(INSERT, claim, &mut transaction).await? == Answer::Sold {
            transaction.commit().await?;
            return Ok(Answer::Sold);
        }
        transaction.rollback().await?;
        Ok(Answer::Refused)
    }
}

async fn execute(sql: &'static str, claim: &Claim, connection: &mut PgConnection) -> Result<Answer> {
    let done = sqlx::query(sql)
        .bind(claim.coupon.as_str())
        .bind(claim.order.0)
        .bind(claim.user.as_str())
        .bind(claimed_at(claim)?)
        .execute(connection)
        .await;
    match done {
        Ok(done) if done.rows_affected() == 1 => Ok(Answer::Sold),
        Ok(_) => Ok(Answer::Refused),
        Err(error) if is_refusal(&error) => Ok(Answer::Refused),
        Err(error) => Err(error.into()),
    }
}
