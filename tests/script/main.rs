//! The scripts, called through the program's own functions. Each test has a private Redis.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod acknowledge;
mod batch;
mod claims_hash;
mod codes;
mod disturb;
mod harness;
mod history;
mod line_oracle;
mod line_page;
mod line_replay;
mod memory;
mod moves;
mod oracle;
mod reclaim;
mod refused;
mod release;
mod replay;
mod rights;
mod state;
mod trim;
mod waitlist;
