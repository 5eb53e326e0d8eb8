//! A conditional update in Postgres only, `stock = stock - 1 where stock > 0`: correct and simple. All buyers wait for
//! one row, and each buyer locks the row until its commit is flushed. So there are at most as many sales as flushes of
//! the disk.

use std::time::Duration;

use anyhow::Result;

use super::pgbench::{Load, Pgbench, Script};
use super::schema::BenchSchema;
use super::{Figure, sold_rate};
use crate::config::{StoreAddresses, TOTAL_MAX_UNITS};

const ONE_PER_USER: &str = "orders_one_live_per_slot";
/// An alternative: the name of its figures, and its script.
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
/// Units for the check at the end of a measurement that claims after the last unit are refused.
const LAST_UNITS: i64 = 100;

/// Measures each single statement with each number of clients, then the usual transaction with the highest number of
/// clients; each measurement lasts `run_for`.
///
/// # Errors
/// When Postgres fails, or stock and orders do not match.
pub async fn optimistic_lock(
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: &[usize],
    run_for: Duration,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for &clients in clients {
        figures.push(measure(ONE_STATEMENT, stores, pgbench, clients, run_for).await?);
    }
    // One client never waits for the row, so both statements take the same time.
    for &clients in clients.iter().filter(|clients| **clients > 1) {
        figures.push(measure(ORDER_FIRST, stores, pgbench, clients, run_for).await?);
    }
    if let Some(&most) = clients.last() {
        figures.push(measure(TRANSACTION, stores, pgbench, most, run_for).await?);
    }
    Ok(figures)
}

async fn measure(
    (name, script): (&'static str, Script),
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: usize,
    run_for: Duration,
) -> Result<Figure> {
    let mut schema = BenchSchema::create(&stores.database_url).await?;
    let load = Load { script, clients, variables: &[] };
    let summary = pgbench.run_buyers(&load, run_for).await?;
    let sold = schema.orders().await?;
    schema.check_totals(sold, TOTAL_MAX_UNITS).await?;
    pgbench.check_repeat_refused(&load).await?;
    schema.check_totals(sold, TOTAL_MAX_UNITS).await?;

    let total = schema.set_stock(LAST_UNITS).await?;
    pgbench.oversell(&load, LAST_UNITS).await?;
    schema.check_totals(total, total).await?;
    Ok(Figure { name, clients, rate: sold_rate(sold, &summary)? })
}
