//! The conditional update in Postgres alone, `stock = stock - 1 where stock > 0`: correct and simple. All buyers
//! wait for one row, which each holds until its commit is flushed, so that the disk's flushes are the rate.

use std::time::Duration;

use anyhow::Result;

use super::pgbench::{Load, Pgbench, Script};
use super::shop::Shop;
use super::{Figure, sold_rate};
use crate::config::{StoreAddresses, TOTAL_MAX_UNITS};

const ONE_PER_USER: &str = "orders_one_live_per_slot";
/// The name of its figures as well.
pub const ONE_STATEMENT: (&str, Script) = (
    "optimistic lock, one statement",
    Script {
        name: "one_statement.sql",
        text: include_str!("optimistic_lock/one_statement.sql"),
        one_per_user: ONE_PER_USER,
    },
);
const ORDER_FIRST: (&str, Script) = (
    "optimistic lock, order first",
    Script {
        name: "order_first.sql",
        text: include_str!("optimistic_lock/order_first.sql"),
        one_per_user: ONE_PER_USER,
    },
);
const TRANSACTION: (&str, Script) = (
    "optimistic lock, transaction",
    Script {
        name: "transaction.sql",
        text: include_str!("optimistic_lock/transaction.sql"),
        one_per_user: ONE_PER_USER,
    },
);
/// What is left for the end of a round, when more want one.
const LAST_UNITS: i64 = 100;

/// The single statements with each number of clients, then the usual transaction with the most; `run_for` each.
///
/// # Errors
/// When Postgres fails, or a round does not add up.
pub async fn optimistic_lock(
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: &[usize],
    run_for: Duration,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for &clients in clients {
        figures.push(round(ONE_STATEMENT, stores, pgbench, clients, run_for).await?);
    }
    // One client never waits for the row: both cost it the same.
    for &clients in clients.iter().filter(|clients| **clients > 1) {
        figures.push(round(ORDER_FIRST, stores, pgbench, clients, run_for).await?);
    }
    if let Some(&most) = clients.last() {
        figures.push(round(TRANSACTION, stores, pgbench, most, run_for).await?);
    }
    Ok(figures)
}

async fn round(
    (name, script): (&'static str, Script),
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: usize,
    run_for: Duration,
) -> Result<Figure> {
    let mut shop = Shop::open(&stores.database_url).await?;
    let load = Load { script, clients, variables: &[] };
    let summary = pgbench.sell(&load, run_for).await?;
    let sold = shop.orders().await?;
    shop.must_add_up(sold, TOTAL_MAX_UNITS).await?;
    pgbench.must_refuse_repeat(&load).await?;
    shop.must_add_up(sold, TOTAL_MAX_UNITS).await?;

    let total = shop.leave(LAST_UNITS).await?;
    pgbench.storm(&load, LAST_UNITS).await?;
    shop.must_add_up(total, total).await?;
    Ok(Figure { name, clients, rate: sold_rate(sold, &summary)? })
}
