//! The claim, from its arrival to its outcome: `claim` is what a caller uses, `batcher` sends claims to Redis in
//! batches, `queue` holds those that wait. What a claim means is decided by the script.

pub mod batcher;
pub mod claim;
mod queue;
