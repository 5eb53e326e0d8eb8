//! What happens to an order after its claim: `waiters` tells who waits that it is recorded, `lookup` finds it wherever
//! it is, `release` returns the unit of one that has ended.

pub mod lookup;
pub mod release;
pub mod stream_status;
pub mod waiters;
