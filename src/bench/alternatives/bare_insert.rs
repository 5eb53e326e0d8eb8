//! The lowest possible cost of recording, to compare with `drain`: inserts a worker's batches in a loop on one
//! connection, and updates the stock in the same transaction. There is no stream, no fence and no acknowledgement.

use std::time::Duration;

use anyhow::Result;
use sqlx::Connection;
use tokio::time::Instant;

use super::Figure;
use super::buyers::new_claim;
use super::schema::{BenchSchema, insert_orders};
use crate::bench::Rate;
use crate::config::{RECORD_BATCH_MAX_EVENTS, StoreAddresses, TOTAL_MAX_UNITS};
use crate::domain::{Claim, CouponId};
use crate::postgres::PgConnection;

/// The rate of inserted rows, in batches of a worker's size. The time does not include the generation of the rows.
///
/// # Errors
/// When Postgres fails, or stock and orders do not match.
pub async fn bare_insert(stores: &StoreAddresses, run_for: Duration) -> Result<Figure> {
    let mut schema = BenchSchema::create(&stores.database_url).await?;
    insert_batch(&mut schema.control, &batch(&schema.coupon)).await?;
    let mut rate = Rate::default();
    while rate.elapsed < run_for {
        let claims = batch(&schema.coupon);
        let started = Instant::now();
        insert_batch(&mut schema.control, &claims).await?;
        rate.elapsed += started.elapsed();
        rate.operations += claims.len() as u64;
    }
    let before = i64::try_from(RECORD_BATCH_MAX_EVENTS)?;
    schema.check_totals(before + i64::try_from(rate.operations)?, TOTAL_MAX_UNITS).await?;
    Ok(Figure { name: "bare insert", clients: 1, rate })
}

fn batch(coupon: &CouponId) -> Vec<Claim> {
    (0..RECORD_BATCH_MAX_EVENTS).map(|_| new_claim(coupon)).collect()
}

async fn insert_batch(connection: &mut PgConnection, claims: &[Claim]) -> Result<()> {
    let mut transaction = connection.begin().await?;
    insert_orders(&mut transaction, claims).await?;
    sqlx::query("update coupons set stock = stock - $1 where id = $2")
        .bind(i64::try_from(claims.len())?)
        .bind(claims.first().map(|claim| claim.coupon.as_str()))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}
