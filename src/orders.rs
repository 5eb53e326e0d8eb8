//! What happens to an order after its claim: `waiters` wakes requests that wait for its recording, `lookup` finds it
//! in either store, `unrecorded` finds one that may be on its way, `transitions` confirms, cancels and revokes it,
//! `expiry` ends one whose time to pay is over, `release` returns the units of those that have ended.

pub mod expiry;
pub mod lookup;
pub mod release;
pub mod stream_status;
pub mod transitions;
pub mod unrecorded;
pub mod waiters;
