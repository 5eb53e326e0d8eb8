//! Coupons: `definitions` creates and edits them, `publish` brings a definition to Redis, `in_force` reads it back,
//! `abandoned` cancels takes of moves that were not finished, `catalogue` knows which ids exist, `snapshots` caches coupons for readers, `view` is what they see.

pub mod abandoned;
pub mod catalogue;
pub mod definitions;
pub mod held_units;
pub mod in_force;
pub mod publish;
pub mod snapshots;
pub mod view;
