//! The claim, from its arrival to its outcome: callers use `claim`, `batcher` sends claims to Redis in batches, `queue`
//! holds those that wait. The claim script decides the outcome.

pub mod batcher;
pub mod claim;
mod queue;
