//! What happens to an order after its claim: `waiters` wakes requests that wait for its recording, `lookup` finds the
//! order in either store, `release` returns the unit of an order that has ended.

pub mod lookup;
pub mod release;
pub mod stream_status;
pub mod waiters;
