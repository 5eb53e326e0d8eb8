//! What happens to an order after its claim: `waiters` wakes requests that wait for its recording, `lookup` finds it
//! in either store, `unrecorded` finds one that may not be recorded yet. `transitions` confirms, cancels and revokes
//! orders, `expiry` ends orders whose time to pay is over, `release` returns the units of ended orders.

pub mod expiry;
pub mod lookup;
pub mod release;
pub mod stream_entries;
pub mod stream_status;
pub mod transitions;
pub mod unrecorded;
pub mod waiters;
