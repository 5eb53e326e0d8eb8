//! One row for each unit, taken with `for update skip locked`: buyers no longer wait for one row and their commits
//! share flushes. As Shopify described in 2026 (<https://shopify.engineering/scaling-inventory-reservations>).
//! The price is a row for each unit, and that nobody can say how many are left without counting.

use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::Row;

use super::Figure;
use super::crowd::{Answer, Buyer, must_refuse, new_claim, sell};
use super::shop::{Shop, claimed_at, is_refusal};
use crate::config::StoreAddresses;
use crate::model::Claim;
use crate::postgres::PgConnection;

const CLIENTS: [usize; 4] = [1, 8, 24, 50];
/// More than any round has sold; one that sells out fails.
const UNITS_PER_SECOND_MAX: u32 = 40_000;
/// For each buyer's first and last.
const UNITS_BESIDE: i64 = 1_000;

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
/// One statement, not begin, select, update and commit: one round trip instead of four, a third more with 24
/// clients. The search starts behind `$2`, which doubles the rate: else it walks over the dead entries of all
/// units sold so far.
const SELL: &str = "
    with free as (
        select id from units where coupon_id = $1 and id > $2 and order_id is null
        order by id limit 1
        for update skip locked
    )
    update units u set order_id = $3, user_id = $4, claimed_at = $5 from free where u.id = free.id
    returning u.id";

/// Each number of clients for `run_for`.
///
/// # Errors
/// When Postgres fails, or a round does not add up.
pub async fn row_per_unit(stores: &StoreAddresses, run_for: Duration) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for clients in CLIENTS {
        figures.push(round(stores, clients, run_for).await?);
    }
    Ok(figures)
}

async fn round(stores: &StoreAddresses, clients: usize, run_for: Duration) -> Result<Figure> {
    let mut shop = Shop::open(&stores.database_url).await?;
    let total = UNITS_BESIDE + i64::try_from((run_for * UNITS_PER_SECOND_MAX).as_secs())?;
    sqlx::raw_sql(TABLE).execute(&mut shop.keeper).await?;
    sqlx::query(FILL).bind(shop.coupon.as_str()).bind(total).execute(&mut shop.keeper).await?;
    // Plans are made from what it finds, and nobody else's vacuum begins during the round.
    sqlx::raw_sql("vacuum analyze units").execute(&mut shop.keeper).await?;

    let buyers =
        shop.connect(clients).await?.into_iter().map(|connection| Picker { connection, behind: 0 }).collect();
    let mut purchases = sell(&shop.coupon, buyers, run_for).await?;
    must_add_up(&mut shop, total, purchases.units).await?;
    sqlx::raw_sql("delete from units where order_id is null").execute(&mut shop.keeper).await?;
    must_refuse(&mut purchases.buyer, &new_claim(&shop.coupon), "a claim after the last unit").await?;
    must_add_up(&mut shop, purchases.units, purchases.units).await?;
    Ok(Figure { name: "row per unit, skip locked", clients, rate: purchases.rate })
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

struct Picker {
    connection: PgConnection,
    /// The unit sold last on this connection.
    behind: i64,
}

impl Buyer for Picker {
    async fn buy(&mut self, claim: &Claim) -> Result<Answer> {
        match self.pick(claim).await? {
            // Somebody who was refused may have let go of a unit further in front.
            Picked::NoneFree if self.behind > 0 => {
                self.behind = 0;
                Ok(if self.pick(claim).await? == Picked::Sold { Answer::Sold } else { Answer::Refused })
            }
            Picked::Sold => Ok(Answer::Sold),
            Picked::NoneFree | Picked::Repeated => Ok(Answer::Refused),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Picked {
    Sold,
    NoneFree,
    /// The user has one already.
    Repeated,
}

impl Picker {
    async fn pick(&mut self, claim: &Claim) -> Result<Picked> {
        let sold: Result<Option<i64>, sqlx::Error> = sqlx::query_scalar(SELL)
            .bind(claim.coupon.as_str())
            .bind(self.behind)
            .bind(claim.order.0)
            .bind(claim.user.as_str())
            .bind(claimed_at(claim)?)
            .fetch_optional(&mut self.connection)
            .await;
        match sold {
            Ok(Some(unit)) => {
                self.behind = unit;
                Ok(Picked::Sold)
            }
            Ok(None) => Ok(Picked::NoneFree),
            Err(error) if is_refusal(&error) => Ok(Picked::Repeated),
            Err(error) => Err(error.into()),
        }
    }
}
