//! What happens to an order after its claim: `waiters` wakes requests that wait for its recording, `lookup` finds it
//! in either store, `release` returns the unit of one that has ended.

pub mod lookup;
pub mod release;
pub mod stream_status;
pub mod waiters;
