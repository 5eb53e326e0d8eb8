//! What people do instead of this program, each written as well as it can be and called without HTTP, which
//! favours it. Those that consist of SQL alone are driven by pgbench, the others by buyers in this process, which are
//! compared with it. All are durable, sell to unique users under the same indexes, refuse a user's second order and
//! whoever comes after the last unit, and fail when stock and orders do not add up at the end of a round.

mod bare_insert;
mod client_check;
mod crowd;
mod lua_then_lock;
mod optimistic_lock;
mod per_request;
mod pgbench;
mod row_per_unit;
mod shop;
mod two_phase;

pub use bare_insert::bare_insert;
pub use client_check::{ClientCheck, client_check};
pub use lua_then_lock::{lua_then_lock, update_alone};
pub use optimistic_lock::optimistic_lock;
pub use per_request::{PerRequest, per_request};
pub use pgbench::Pgbench;
pub use row_per_unit::row_per_unit;
pub use two_phase::two_phase;

use anyhow::{Result, ensure};

use super::Rate;
use crate::config::StoreAddresses;

/// One round of an alternative.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub name: &'static str,
    /// Buyers at the same time, each with the next claim as soon as the last is answered.
    pub clients: usize,
    /// Units sold durably.
    pub rate: Rate,
}

/// The round that sold most in a second; `None` of none.
#[must_use]
pub fn fastest<'f>(figures: impl IntoIterator<Item = &'f Figure>) -> Option<&'f Figure> {
    figures.into_iter().max_by(|a, b| a.rate.per_second().total_cmp(&b.rate.per_second()))
}

/// What pgbench has sold, by what the database has of it.
fn sold_rate(sold: i64, summary: &pgbench::Summary) -> Result<Rate> {
    let operations = u64::try_from(sold)?;
    ensure!(
        (1..=summary.processed).contains(&operations),
        "{operations} units were sold in {} transactions",
        summary.processed
    );
    Ok(Rate { operations, elapsed: summary.elapsed })
}

/// Takes away what the alternatives have left in Postgres: their last round, for whoever wants to look at it.
///
/// # Errors
/// When Postgres does not let us.
pub async fn clear(stores: &StoreAddresses) -> Result<()> {
    let mut connection = shop::connect(&stores.database_url).await?;
    shop::drop_schema(&mut connection).await?;
    two_phase::drop_both(&mut connection).await
}
