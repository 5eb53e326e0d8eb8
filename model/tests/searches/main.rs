//! Exhaustive searches of the model, with all rules in force and without one of them.

mod breaks;
mod checks;
mod holds;
mod order_life;
mod promotion;
mod slots;
mod waitlist;
