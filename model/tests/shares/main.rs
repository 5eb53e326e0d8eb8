//! Exhaustive searches of the model of shares, with all rules in force and without one of them.

mod answers;
mod breaks;
mod checks;
mod holds;
