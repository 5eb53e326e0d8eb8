//! The command line: the real program against a fake server that records its requests, and against fake redis-cli and
//! psql programs. `tests/system/cli.rs` runs commands against a real server.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod audit;
mod claim;
mod client;
mod coupon;
mod harness;
mod manners;
mod order;
mod printing;
mod stream;
mod token;
mod tools;
mod usage;
