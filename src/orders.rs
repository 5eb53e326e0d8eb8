//! What happens to an order after its claim: `waiters` wakes requests that wait for its recording, `lookup` finds it
//! in either store, `unrecorded` finds one that may be on its way, `transitions` confirms, cancels and revokes it,
//! `release` returns the unit of one that has ended.

pub mod lookup;
pub mod release;
pub mod stream_status;
pub mod transitions;
pub mod unrecorded;
pub mod waiters;
