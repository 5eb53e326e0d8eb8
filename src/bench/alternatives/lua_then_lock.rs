//! A script in Redis first, the conditional update in Postgres behind it, the order's row in its own time: Redis
//! turns away those who would come too late, but each unit still waits for the one row. The two stores are
//! not moved together: a process that dies between them leaves Redis a unit short, which nobody here repairs.

mod redis_stock;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::mpsc;

use super::crowd::{Answer, Buyer, must_refuse, new_claim, sell};
use super::pgbench::{Load, Pgbench, Script};
use super::shop::{Shop, insert_orders};
use super::{Figure, sold_rate};
use crate::config::{StoreAddresses, TOTAL_MAX_UNITS};
use crate::domain::{Claim, Partition};
use crate::postgres::PgConnection;
use crate::redis::RedisServer;
use redis_stock::RedisStock;

/// Orders that wait for the writer. Small, as they are in memory only; a writer that falls behind is waited for.
const QUEUE_MAX_ORDERS: usize = 256;
/// What is left for the end of a round of updates alone, when more want one.
const LAST_UNITS: i64 = 100;

const TAKE: &str = "update coupons set stock = stock - 1 where id = $1 and stock > 0";
/// The same for pgbench; it has no users.
const UPDATE: Script =
    Script { name: "update.sql", text: include_str!("lua_then_lock/update.sql"), one_per_user: "" };

/// Each number of clients for `run_for`; a unit is sold when both stores have deducted it.
///
/// # Errors
/// When a store fails, or a round does not add up in both.
pub async fn lua_then_lock(
    stores: &StoreAddresses,
    clients: &[usize],
    run_for: Duration,
) -> Result<Vec<Figure>> {
    let server = RedisServer::new(stores, "bench", Partition::DEFAULT)?;
    let mut figures = Vec::new();
    for &clients in clients {
        let redis = RedisStock::open(server.connect().await?).await?;
        let figure = round(stores, &server, &redis, clients, run_for).await;
        redis.delete().await?;
        figures.push(figure?);
    }
    Ok(figures)
}

/// The update alone, without Redis, users and orders: no client of the scheme can be faster.
///
/// # Errors
/// When Postgres fails, or the stock does not go down by as much as was sold.
pub async fn update_alone(
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: usize,
    run_for: Duration,
) -> Result<Figure> {
    let mut shop = Shop::open(&stores.database_url).await?;
    let load = Load { script: UPDATE, clients, variables: &[] };
    let summary = pgbench.sell(&load, run_for).await?;
    let sold = TOTAL_MAX_UNITS - shop.stock().await?;
    shop.leave(LAST_UNITS).await?;
    pgbench.storm(&load, LAST_UNITS).await?;
    let left = shop.stock().await?;
    ensure!(left == 0, "{left} of the last {LAST_UNITS} units are left");
    Ok(Figure { name: "its update alone, by pgbench", clients, rate: sold_rate(sold, &summary)? })
}

async fn round(
    stores: &StoreAddresses,
    server: &RedisServer,
    redis: &RedisStock,
    clients: usize,
    run_for: Duration,
) -> Result<Figure> {
    let mut shop = Shop::open(&stores.database_url).await?;
    let (queue, orders) = mpsc::channel(QUEUE_MAX_ORDERS);
    let writer = shop.door().connect(1).await?.pop().context("no connection for the writer")?;
    let writer = tokio::spawn(write(writer, orders));
    let (door, server, scripts) = (shop.door(), server.clone(), redis.clone());
    // A thread's buyers share a pipelined connection to Redis.
    let connect = async move |clients| {
        let redis = scripts.on(server.connect().await?);
        let both = |postgres| Both { redis: redis.clone(), postgres, queue: queue.clone() };
        Ok(door.connect(clients).await?.into_iter().map(both).collect())
    };
    let mut purchases = sell(&shop.coupon, clients, run_for, connect).await?;

    let stock = shop.stock().await?;
    shop.leave(0).await?;
    // Redis still has units: it is Postgres that refuses, and Redis has to be given its unit back.
    must_refuse(&mut purchases.buyer, &new_claim(&shop.coupon), "a claim after the last unit").await?;
    drop(purchases.buyer);
    writer.await?.context("the orders' writer")?;

    let (orders, sold) = (shop.orders().await?, purchases.units);
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

struct Both {
    redis: RedisStock,
    postgres: PgConnection,
    queue: mpsc::Sender<Claim>,
}

impl Buyer for Both {
    async fn buy(&mut self, claim: &Claim) -> Result<Answer> {
        if !self.redis.deduct(&claim.user).await? {
            return Ok(Answer::Refused);
        }
        let taken = sqlx::query(TAKE).bind(claim.coupon.as_str()).execute(&mut self.postgres).await?;
        if taken.rows_affected() == 0 {
            self.redis.give_back(&claim.user).await?;
            return Ok(Answer::Refused);
        }
        self.queue.send(claim.clone()).await.context("the orders' writer has stopped")?;
        Ok(Answer::Sold)
    }
}

/// Inserts whatever has come together since the last batch, until all buyers are gone.
async fn write(mut connection: PgConnection, mut orders: mpsc::Receiver<Claim>) -> Result<()> {
    let mut batch = Vec::with_capacity(QUEUE_MAX_ORDERS);
    while orders.recv_many(&mut batch, QUEUE_MAX_ORDERS).await > 0 {
        insert_orders(&mut connection, &batch).await?;
        batch.clear();
    }
    Ok(())
}
