//! A script in Redis first, the conditional update in Postgres behind it, the order's row in its own time: Redis
//! turns away those who would come too late, but each unit still waits for the one row. The two stores are
//! not moved together: a process that dies between them leaves Redis a unit short, which nobody here repairs.

mod redis_stock;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::mpsc;

use super::Figure;
use super::crowd::{Answer, Buyer, must_refuse, new_claim, sell};
use super::shop::{Shop, insert_orders};
use crate::config::{StoreAddresses, TOTAL_MAX_UNITS};
use crate::model::Claim;
use crate::postgres::PgConnection;
use crate::redis::RedisServer;
use redis_stock::RedisStock;

const CLIENTS: [usize; 4] = [1, 8, 24, 50];
/// Orders that wait for the writer. Small, as they are in memory only; a writer that falls behind is waited for.
const QUEUE_MAX_ORDERS: usize = 256;

const TAKE: &str = "update coupons set stock = stock - 1 where id = $1 and stock > 0";

/// Each number of clients for `run_for`; a unit is sold when both stores have deducted it.
///
/// # Errors
/// When a store fails, or a round does not add up in both.
pub async fn lua_then_lock(stores: &StoreAddresses, run_for: Duration) -> Result<Vec<Figure>> {
    let server = RedisServer::new(stores, "bench")?;
    let mut figures = Vec::new();
    for clients in CLIENTS {
        let redis = RedisStock::open(server.connect().await?).await?;
        let figure = round(stores, &redis, clients, run_for).await;
        redis.delete().await?;
        figures.push(figure?);
    }
    Ok(figures)
}

async fn round(
    stores: &StoreAddresses,
    redis: &RedisStock,
    clients: usize,
    run_for: Duration,
) -> Result<Figure> {
    let mut shop = Shop::open(&stores.database_url).await?;
    let (queue, orders) = mpsc::channel(QUEUE_MAX_ORDERS);
    let writer = shop.connect(1).await?.pop().context("no connection for the writer")?;
    let writer = tokio::spawn(write(writer, orders));
    let buyer = |postgres| Both { redis: redis.clone(), postgres, queue: queue.clone() };
    let buyers = shop.connect(clients).await?.into_iter().map(buyer).collect();
    drop(queue);
    let mut purchases = sell(&shop.coupon, buyers, run_for).await?;

    let stock = shop.stock().await?;
    shop.sell_out().await?;
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

/// Inserts whatever has come together meanwhile, until all buyers are gone.
async fn write(mut connection: PgConnection, mut orders: mpsc::Receiver<Claim>) -> Result<()> {
    let mut batch = Vec::with_capacity(QUEUE_MAX_ORDERS);
    while orders.recv_many(&mut batch, QUEUE_MAX_ORDERS).await > 0 {
        insert_orders(&mut connection, &batch).await?;
        batch.clear();
    }
    Ok(())
}
