//! The schema, its statements and its constraints on a real Postgres. Each test has its own schema; the tests
//! that run at the same time in one process share a cluster (`harness`).
#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod audit;
mod comparisons;
mod constraints;
mod expiry;
mod fence;
mod harness;
mod indexes;
mod migrations;
mod notices;
mod receipt;
mod recording;
mod rejection;
mod statements;
mod transitions;
mod work;
