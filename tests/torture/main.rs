//! The torture test: the real program under load while things are killed, paused, cut and flushed, and a
//! checker that decides from the outside whether every promise held.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod checker;
mod checker_cases;
mod history;
mod stores;
