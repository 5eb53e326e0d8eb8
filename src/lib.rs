//! Flash-sale coupon grabbing on Redis Streams and Postgres.

pub mod config;
pub mod data_dir;
pub mod embedded;
pub mod model;
