//! The command line as a user meets it: the real program against a server that records what it is
//! asked, and against stand-ins for redis-cli and psql. What a real server answers is tested elsewhere.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod claim;
mod client;
mod coupon;
mod harness;
mod printing;
mod stream;
mod token;
mod tools;
mod usage;
