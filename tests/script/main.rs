//! The scripts against a private Redis each, through the same functions that the program calls.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod acknowledge;
mod batch;
mod claims_hash;
mod codes;
mod disturb;
mod harness;
mod history;
mod memory;
mod oracle;
mod reclaim;
mod refused;
mod release;
mod replay;
mod rights;
mod state;
mod trim;
