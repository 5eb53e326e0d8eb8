//! The program as its users have it: the real binary on a real Redis and Postgres.

mod claims;
mod harness;
