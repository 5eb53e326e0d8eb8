//! The textbook form of TCC (try, confirm, cancel) in Postgres only: three transactions, each of which updates the one row
//! of the stock. Try reserves a unit (`stock - 1`, `frozen + 1`) and inserts the order, confirm ends the reservation, and
//! cancel returns the unit. Each transaction is one prepared statement, so that the row is never locked during a round
//! trip. But each locks the row until its commit is flushed: a sale needs two flushes, one after the other.

use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::Row;

use super::pgbench::{Load, Pgbench, Script};
use super::schema::BenchSchema;
use super::{Figure, sold_rate};
use crate::config::{StoreAddresses, TOTAL_MAX_UNITS};

const ONE_PER_USER: &str = "orders_one_live_per_slot";
/// The name of its figures, the cycle of try and confirm, and the cycle of try and cancel.
struct Variant {
    name: &'static str,
    confirm: Script,
    cancel: Script,
}
const STOCK_FIRST: Variant = Variant {
    name: "textbook TCC, stock first",
    confirm: Script {
        name: "stock_first.sql",
        text: concat!(
            include_str!("textbook_tcc/try_stock_first.sql"),
            include_str!("textbook_tcc/confirm.sql")
        ),
        one_per_user: ONE_PER_USER,
    },
    cancel: Script {
        name: "stock_first_cancel.sql",
        text: concat!(
            include_str!("textbook_tcc/try_stock_first.sql"),
            include_str!("textbook_tcc/cancel.sql")
        ),
        one_per_user: ONE_PER_USER,
    },
};
const ORDER_FIRST: Variant = Variant {
    name: "textbook TCC, order first",
    confirm: Script {
        name: "order_first.sql",
        text: concat!(
            include_str!("textbook_tcc/try_order_first.sql"),
            include_str!("textbook_tcc/confirm.sql")
        ),
        one_per_user: ONE_PER_USER,
    },
    cancel: Script {
        name: "order_first_cancel.sql",
        text: concat!(
            include_str!("textbook_tcc/try_order_first.sql"),
            include_str!("textbook_tcc/cancel.sql")
        ),
        one_per_user: ONE_PER_USER,
    },
};
/// The row of the coupon is the row of the stock: `stock` units are available.
const FROZEN: &str = "alter table coupons add column frozen bigint not null default 0 constraint frozen_units check (frozen >= 0)";
/// Units for the checks at the end of a measurement.
const LAST_UNITS: i64 = 100;
/// Gives the cancelled orders other ids than the later orders of the same users.
const CANCELLED_IDS: [(&str, i64); 1] = [("ids", 2_000_000)];

/// Measures both variants with each number of clients; each measurement lasts `run_for`. A cycle is a try and its
/// confirm, of a new user.
///
/// # Errors
/// When Postgres fails, or stock and orders do not match.
pub async fn textbook_tcc(
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: &[usize],
    run_for: Duration,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for variant in [STOCK_FIRST, ORDER_FIRST] {
        for &clients in clients {
            figures.push(measure(&variant, stores, pgbench, clients, run_for).await?);
        }
    }
    Ok(figures)
}

async fn measure(
    Variant { name, confirm, cancel }: &Variant,
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: usize,
    run_for: Duration,
) -> Result<Figure> {
    let mut schema = BenchSchema::create(&stores.database_url).await?;
    sqlx::raw_sql(FROZEN).execute(&mut schema.control).await?;
    let load = Load { script: *confirm, clients, variables: &[] };
    let summary = pgbench.run_buyers(&load, run_for).await?;
    let sold = check(&mut schema, TOTAL_MAX_UNITS).await?.confirmed;
    pgbench.check_repeat_refused(&load).await?;

    let total = schema.set_stock(LAST_UNITS).await?;
    // More orders than units: each unit is cancelled and reserved again.
    let cancels = Load { script: *cancel, variables: &CANCELLED_IDS, ..load };
    pgbench.oversell(&cancels, LAST_UNITS).await?;
    let Orders { confirmed, cancelled } = check(&mut schema, total).await?;
    ensure!(
        confirmed == sold && cancelled > LAST_UNITS,
        "{confirmed} orders of {sold} are confirmed and {cancelled} cancelled"
    );
    pgbench.oversell(&load, LAST_UNITS).await?;
    let confirmed = check(&mut schema, total).await?.confirmed;
    ensure!(confirmed == total, "{confirmed} of {total} units are sold");
    Ok(Figure { name, clients, rate: sold_rate(sold, &summary)? })
}

/// The numbers of orders that have ended their cycle.
struct Orders {
    confirmed: i64,
    cancelled: i64,
}

/// # Errors
/// When an order is still reserved, or the stock is not `total` less the confirmed orders.
async fn check(schema: &mut BenchSchema, total: i64) -> Result<Orders> {
    let counts = "select stock, frozen, count(o.id) filter (where o.status = 'reserved') as reserved,
            count(o.id) filter (where o.status = 'confirmed') as confirmed,
            count(o.id) filter (where o.status = 'cancelled') as cancelled
        from coupons c left join orders o on o.coupon_id = c.id group by c.id, c.partition";
    let row = sqlx::query(counts).fetch_one(&mut schema.control).await?;
    let [stock, frozen, reserved, confirmed, cancelled]: [i64; 5] = [
        row.try_get("stock")?,
        row.try_get("frozen")?,
        row.try_get("reserved")?,
        row.try_get("confirmed")?,
        row.try_get("cancelled")?,
    ];
    ensure!(
        (stock, frozen, reserved) == (total - confirmed, 0, 0),
        "{confirmed} units were sold of {total}, but {stock} are left, {frozen} frozen and {reserved} reserved"
    );
    Ok(Orders { confirmed, cancelled })
}
