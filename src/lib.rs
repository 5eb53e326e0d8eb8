//! Flash-sale coupon grabbing on Redis Streams and Postgres.

pub mod catalogue;
pub mod cli;
pub mod config;
pub mod fence;
pub mod model;
pub mod postgres;
pub mod redis;
