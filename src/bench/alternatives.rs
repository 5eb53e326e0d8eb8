//! What people do instead of this program, each written as well as it can be and called without HTTP, which
//! favours it. All are durable, sell to unique users under the same indexes, refuse a user's second order and
//! whoever comes after the last unit, and fail when stock and orders do not add up at the end of a round.

mod bare_insert;
mod crowd;
mod lua_then_lock;
mod optimistic_lock;
mod per_request;
mod row_per_unit;
mod shop;
mod two_phase;

pub use bare_insert::bare_insert;
pub use lua_then_lock::lua_then_lock;
pub use optimistic_lock::optimistic_lock;
pub use per_request::{PerRequest, per_request};
pub use row_per_unit::row_per_unit;
pub use two_phase::two_phase;

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

/// Takes away what the alternatives have left in Postgres: their last round, for whoever wants to look at it.
///
/// # Errors
/// When Postgres does not let us.
pub async fn clear(stores: &StoreAddresses) -> anyhow::Result<()> {
    let mut connection = shop::connect(&stores.database_url).await?;
    shop::drop_schema(&mut connection).await?;
    two_phase::drop_both(&mut connection).await
}
