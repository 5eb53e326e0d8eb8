//! One row for each unit, taken with `for update skip locked`: buyers no longer wait for one row and their commits
//! share flushes. As Shopify described in 2026 (<https://shopify.engineering/scaling-inventory-reservations>).
//! The price is a row for each unit, and that only counting tells how many are left.

use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::Row;

use super::pgbench::{Load, Pgbench, Script};
use super::shop::Shop;
use super::{Figure, sold_rate};
use crate::config::StoreAddresses;

const PICK: Script = Script {
    name: "pick.sql",
    text: include_str!("row_per_unit/pick.sql"),
    one_per_user: "units_one_per_user",
};
/// More than any round has sold.
const UNITS_PER_SECOND_MAX: u32 = 60_000;
/// What is left for the end of a round, when more want one.
const LAST_UNITS: i64 = 100;

/// The unit is the order. Half of each page is left for the version that names its buyer.
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
const LEAVE: &str = "delete from units where id in (
    select id from units where coupon_id = $1 and order_id is null order by id offset $2)";

/// Each number of clients for `run_for`, all from the front and each from a place of its own.
///
/// # Errors
/// When Postgres fails, or a round does not add up.
pub async fn row_per_unit(
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: &[usize],
    run_for: Duration,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for are_apart in [false, true] {
        for &clients in clients {
            figures.push(round(stores, pgbench, clients, are_apart, run_for).await?);
        }
    }
    Ok(figures)
}

async fn round(
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: usize,
    are_apart: bool,
    run_for: Duration,
) -> Result<Figure> {
    let mut shop = Shop::open(&stores.database_url).await?;
    let seconds = i64::try_from(run_for.as_millis().div_ceil(1_000))?;
    let total = LAST_UNITS + seconds * i64::from(UNITS_PER_SECOND_MAX);
    sqlx::raw_sql(TABLE).execute(&mut shop.keeper).await?;
    sqlx::query(FILL).bind(shop.coupon.as_str()).bind(total).execute(&mut shop.keeper).await?;
    // Plans are made from what it finds, and no vacuum of Postgres's own begins during the round.
    sqlx::raw_sql("vacuum analyze units").execute(&mut shop.keeper).await?;

    let (name, share) = if are_apart {
        ("row per unit, clients apart", total / i64::try_from(clients)?)
    } else {
        ("row per unit, skip locked", 0)
    };
    let load = Load { script: PICK, clients, variables: &[("behind", -1), ("share", share)] };
    let summary = pgbench.sell(&load, run_for).await?;
    let sold = sold(&mut shop).await?;
    must_add_up(&mut shop, total, sold).await?;
    pgbench.must_refuse_repeat(&load).await?;
    must_add_up(&mut shop, total, sold).await?;

    sqlx::query(LEAVE).bind(shop.coupon.as_str()).bind(LAST_UNITS).execute(&mut shop.keeper).await?;
    // From the front: a client that finds none left behind it begins there with its next transaction.
    let load = Load { variables: &[("behind", 0), ("share", 0)], ..load };
    pgbench.storm(&load, LAST_UNITS).await?;
    must_add_up(&mut shop, sold + LAST_UNITS, sold + LAST_UNITS).await?;
    Ok(Figure { name, clients, rate: sold_rate(sold, &summary)? })
}

async fn sold(shop: &mut Shop) -> Result<i64> {
    let sold = "select count(*) from units where order_id is not null";
    Ok(sqlx::query_scalar(sold).fetch_one(&mut shop.keeper).await?)
}

async fn must_add_up(shop: &mut Shop, total: i64, sold: i64) -> Result<()> {
    let counts = "select count(*) filter (where order_id is null) as free, count(distinct user_id) as users from units";
    let row = sqlx::query(counts).fetch_one(&mut shop.keeper).await?;
    let (free, users): (i64, i64) = (row.try_get("free")?, row.try_get("users")?);
    ensure!(
        users == sold && free == total - sold,
        "{sold} units were sold of {total}, but {free} are free and {users} users have one"
    );
    Ok(())
}
