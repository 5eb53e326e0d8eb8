//! The embedded stores, with the installed redis-server and Postgres. Each test has its own data directory and ends
//! only processes that its own stores started.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod child;
mod data_dir;
mod harness;
mod paths;
mod start;
mod takeover;
