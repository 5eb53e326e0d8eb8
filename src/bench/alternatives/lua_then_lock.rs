//! A script in Redis takes the unit first, then a conditional update in Postgres, and a writer inserts the order later.
//! Redis refuses claims after the last unit, but each sale still waits for the one row of the stock. If a process dies
//! between the two stores, Redis has a unit too few, and this alternative does not repair that.

mod redis_stock;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::mpsc;

use super::buyers::{Answer, Buyer, check_refused, new_claim, run_buyers};
use super::pgbench::{Load, Pgbench, Script};
use super::schema::{BenchSchema, insert_orders};
use super::{Figure, sold_rate};
use crate::config::{StoreAddresses, TOTAL_MAX_UNITS};
use crate::domain::{Claim, Partition};
use crate::postgres::PgConnection;
use crate::redis::RedisServer;
use redis_stock::RedisStock;

/// Orders that wait for the writer. A small number, because they are in memory only; buyers wait when the queue is
/// full.
const QUEUE_MAX_ORDERS: usize = 256;
/// Units for the check at the end of `update_alone` that updates after the last unit are refused.
const LAST_UNITS: i64 = 100;

const TAKE: &str = "update coupons set stock = stock - 1 where id = $1 and stock > 0";
/// The same statement for pgbench, without users.
const UPDATE: Script =
    Script { name: "update.sql", text: include_str!("lua_then_lock/update.sql"), one_per_user: "" };

/// Measures each number of clients for `run_for`. A unit counts as sold when both stores have deducted it.
///
/// # Errors
/// When a store fails, or the stock of a store does not match its orders.
pub async fn lua_then_lock(
    stores: &StoreAddresses,
    clients: &[usize],
    run_for: Duration,
) -> Result<Vec<Figure>> {
    let server = RedisServer::new(stores, "bench", Partition::DEFAULT)?;
    let mut figures = Vec::new();
    for &clients in clients {
        let redis = RedisStock::open(server.connect().await?).await?;
        let figure = measure(stores, &server, &redis, clients, run_for).await;
        redis.delete().await?;
        figures.push(figure?);
    }
    Ok(figures)
}

/// Measures only the update, without Redis, users and orders: the whole alternative cannot be faster than this.
///
/// # Errors
/// When Postgres fails, or the stock does not match the sales.
pub async fn update_alone(
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: usize,
    run_for: Duration,
) -> Result<Figure> {
    let mut schema = BenchSchema::create(&stores.database_url).await?;
    let load = Load { script: UPDATE, clients, variables: &[] };
    let summary = pgbench.run_buyers(&load, run_for).await?;
    let sold = TOTAL_MAX_UNITS - schema.stock().await?;
    schema.set_stock(LAST_UNITS).await?;
    pgbench.oversell(&load, LAST_UNITS).await?;
    let left = schema.stock().await?;
    ensure!(left == 0, "{left} of the last {LAST_UNITS} units are left");
    Ok(Figure { name: "its update alone, by pgbench", clients, rate: sold_rate(sold, &summary)? })
}

async fn measure(
    stores: &StoreAddresses,
    server: &RedisServer,
    redis: &RedisStock,
    clients: usize,
    run_for: Duration,
) -> Result<Figure> {
    let mut schema = BenchSchema::create(&stores.database_url).await?;
    let (queue, orders) = mpsc::channel(QUEUE_MAX_ORDERS);
    let writer = schema.connector().connect(1).await?.pop().context("no connection for the writer")?;
    let writer = tokio::spawn(write(writer, orders));
    let (connector, server, scripts) = (schema.connector(), server.clone(), redis.clone());
    // The buyers of a thread share a pipelined connection to Redis.
    let connect = async move |clients| {
        let redis = scripts.with_connection(server.connect().await?);
        let buyer = |postgres| BothStores { redis: redis.clone(), postgres, queue: queue.clone() };
        Ok(connector.connect(clients).await?.into_iter().map(buyer).collect())
    };
    let mut purchases = run_buyers(&schema.coupon, clients, run_for, connect).await?;

    let stock = schema.stock().await?;
    schema.set_stock(0).await?;
    // Redis still has units: so Postgres refuses, and the buyer returns the unit to Redis.
    check_refused(&mut purchases.buyer, &new_claim(&schema.coupon), "a claim after the last unit").await?;
    drop(purchases.buyer);
    writer.await?.context("the orders' writer")?;

    let (orders, sold) = (schema.orders().await?, purchases.units);
    let in_redis = redis.counts().await?;
    ensure!(
        orders == sold && stock == TOTAL_MAX_UNITS - sold && in_redis == (stock, sold),
        "{sold} units were sold of {TOTAL_MAX_UNITS}, but Postgres has {orders} orders and {stock} units left, \
         and Redis {} buyers and {} units left",
        in_redis.1,
        in_redis.0
    );
    Ok(Figure { name: "Lua in Redis, then optimistic lock", clients, rate: purchases.rate })
}

/// Buys in Redis, then in Postgres.
struct BothStores {
    redis: RedisStock,
    postgres: PgConnection,
    queue: mpsc::Sender<Claim>,
}

impl Buyer for BothStores {
    async fn buy(&mut self, claim: &Claim) -> Result<Answer> {
        if !self.redis.deduct(&claim.user).await? {
            return Ok(Answer::Refused);
        }
        let taken = sqlx::query(TAKE).bind(claim.coupon.as_str()).execute(&mut self.postgres).await?;
        if taken.rows_affected() == 0 {
            self.redis.return_unit(&claim.user).await?;
            return Ok(Answer::Refused);
        }
        self.queue.send(claim.clone()).await.context("the orders' writer has stopped")?;
        Ok(Answer::Sold)
    }
}

/// Inserts the orders in batches, until no buyer is left.
async fn write(mut connection: PgConnection, mut orders: mpsc::Receiver<Claim>) -> Result<()> {
    let mut batch = Vec::with_capacity(QUEUE_MAX_ORDERS);
    while orders.recv_many(&mut batch, QUEUE_MAX_ORDERS).await > 0 {
        insert_orders(&mut connection, &batch).await?;
        batch.clear();
    }
    Ok(())
}
