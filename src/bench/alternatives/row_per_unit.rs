//! One row for each unit, selected with `for update skip locked`: buyers do not wait for one row, and their commits
//! share flushes. Shopify described this design in 2026 (<https://shopify.engineering/scaling-inventory-reservations>).
//! Its cost: each unit needs a row, and only a count of rows gives the stock.

use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::Row;

use super::pgbench::{Load, Pgbench, Script};
use super::schema::BenchSchema;
use super::{Figure, sold_rate};
use crate::config::StoreAddresses;

const PICK: Script = Script {
    name: "pick.sql",
    text: include_str!("row_per_unit/pick.sql"),
    one_per_user: "units_one_per_user",
};
/// More units than any measurement has sold.
const UNITS_PER_SECOND_MAX: u32 = 60_000;
/// Units for the check at the end of a measurement that claims after the last unit are refused.
const LAST_UNITS: i64 = 100;

/// A unit's row is also its order. `fillfactor` leaves half of each page free for the version of a row that has the
/// buyer.
const TABLE: &str = r#"
    create table units (
        id         bigint      primary key,
        coupon_id  text        collate "C" not null,
        order_id   uuid        constraint units_order unique,
        user_id    text        collate "C",
        claimed_at timestamptz,
        constraint units_one_per_user unique (coupon_id, user_id)
    ) with (fillfactor = 50);
    create index units_free on units (coupon_id, id) where order_id is null"#;
const FILL: &str = "insert into units (id, coupon_id) select n, $1 from generate_series(1, $2) n";
const DELETE_FREE_UNITS: &str = "delete from units where id in (
    select id from units where coupon_id = $1 and order_id is null order by id offset $2)";

/// Measures each number of clients for `run_for`. In the first measurement all clients start at the first unit, in the
/// second each client starts at a different unit.
///
/// # Errors
/// When Postgres fails, or the number of sold units does not match.
pub async fn row_per_unit(
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: &[usize],
    run_for: Duration,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for start_apart in [false, true] {
        for &clients in clients {
            figures.push(measure(stores, pgbench, clients, start_apart, run_for).await?);
        }
    }
    Ok(figures)
}

async fn measure(
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: usize,
    start_apart: bool,
    run_for: Duration,
) -> Result<Figure> {
    let mut schema = BenchSchema::create(&stores.database_url).await?;
    let seconds = i64::try_from(run_for.as_millis().div_ceil(1_000))?;
    let total = LAST_UNITS + seconds * i64::from(UNITS_PER_SECOND_MAX);
    sqlx::raw_sql(TABLE).execute(&mut schema.control).await?;
    sqlx::query(FILL).bind(schema.coupon.as_str()).bind(total).execute(&mut schema.control).await?;
    // Gives the planner its statistics, and keeps autovacuum from starting during the measurement.
    sqlx::raw_sql("vacuum analyze units").execute(&mut schema.control).await?;

    let (name, share) = if start_apart {
        ("row per unit, clients apart", total / i64::try_from(clients)?)
    } else {
        ("row per unit, skip locked", 0)
    };
    let load = Load { script: PICK, clients, variables: &[("behind", -1), ("share", share)] };
    let summary = pgbench.run_buyers(&load, run_for).await?;
    let sold = sold(&mut schema).await?;
    check_totals(&mut schema, total, sold).await?;
    pgbench.check_repeat_refused(&load).await?;
    check_totals(&mut schema, total, sold).await?;

    sqlx::query(DELETE_FREE_UNITS)
        .bind(schema.coupon.as_str())
        .bind(LAST_UNITS)
        .execute(&mut schema.control)
        .await?;
    // All clients start at the first unit: a client that finds no unit restarts there anyway.
    let load = Load { variables: &[("behind", 0), ("share", 0)], ..load };
    pgbench.oversell(&load, LAST_UNITS).await?;
    check_totals(&mut schema, sold + LAST_UNITS, sold + LAST_UNITS).await?;
    Ok(Figure { name, clients, rate: sold_rate(sold, &summary)? })
}

async fn sold(schema: &mut BenchSchema) -> Result<i64> {
    let sold = "select count(*) from units where order_id is not null";
    Ok(sqlx::query_scalar(sold).fetch_one(&mut schema.control).await?)
}

async fn check_totals(schema: &mut BenchSchema, total: i64, sold: i64) -> Result<()> {
    let counts = "select count(*) filter (where order_id is null) as free, count(distinct user_id) as users from units";
    let row = sqlx::query(counts).fetch_one(&mut schema.control).await?;
    let (free, users): (i64, i64) = (row.try_get("free")?, row.try_get("users")?);
    ensure!(
        users == sold && free == total - sold,
        "{sold} units were sold of {total}, but {free} are free and {users} users have one"
    );
    Ok(())
}
