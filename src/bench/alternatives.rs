//! Alternatives to this program's design, each in the fastest form that we know. They work without HTTP, which makes
//! their figures better. pgbench runs those that consist of SQL only; buyers in this process run the others, and
//! `client_check` compares both clients. All are durable, sell to unique users with the same indexes, and refuse a
//! user's second order and claims after the last unit. A measurement fails if stock and orders do not match at its end.

mod bare_insert;
mod buyers;
mod client_check;
mod lua_then_lock;
mod optimistic_lock;
mod per_request;
mod pgbench;
mod row_per_unit;
mod schema;
mod textbook_tcc;
mod two_phase;

pub use bare_insert::bare_insert;
pub use client_check::{ClientCheck, client_check};
pub use lua_then_lock::{lua_then_lock, update_alone};
pub use optimistic_lock::optimistic_lock;
pub use per_request::{PerRequest, per_request};
pub use pgbench::Pgbench;
pub use row_per_unit::row_per_unit;
pub use textbook_tcc::textbook_tcc;
pub use two_phase::two_phase;

use anyhow::{Result, ensure};

use super::Rate;
use crate::config::StoreAddresses;

/// The result of one measurement of an alternative.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub name: &'static str,
    /// Concurrent buyers; each sends its next claim as soon as the last one is answered.
    pub clients: usize,
    /// Units that were sold durably.
    pub rate: Rate,
}

/// The measurement with the most sales per second; `None` if there are no measurements.
#[must_use]
pub fn fastest<'f>(figures: impl IntoIterator<Item = &'f Figure>) -> Option<&'f Figure> {
    figures.into_iter().max_by(|a, b| a.rate.per_second().total_cmp(&b.rate.per_second()))
}

/// The rate of a pgbench run, with the number of sales read from the database.
///
/// # Errors
/// When nothing was sold, or more than pgbench has processed.
fn sold_rate(sold: i64, summary: &pgbench::Summary) -> Result<Rate> {
    let operations = u64::try_from(sold)?;
    ensure!(
        (1..=summary.processed).contains(&operations),
        "{operations} units were sold in {} transactions",
        summary.processed
    );
    Ok(Rate { operations, elapsed: summary.elapsed })
}

/// Drops the schema and the databases of the last measurement. Until then they are kept for inspection.
///
/// # Errors
/// When Postgres refuses.
pub async fn clear(stores: &StoreAddresses) -> Result<()> {
    let mut connection = schema::connect(&stores.database_url).await?;
    schema::drop_schema(&mut connection).await?;
    two_phase::drop_both(&mut connection).await
}
