//! Exhaustive searches of the model: `holds` and `order_life` with all rules in force, `breaks` and `order_life` without
//! one of them.

mod breaks;
mod checks;
mod holds;
mod order_life;
