//! Flash-sale coupon grabbing on Redis Streams and Postgres.

pub mod catalogue;
pub mod cli;
pub mod config;
pub mod fence;
pub mod gate;
pub mod http;
pub mod model;
pub mod postgres;
pub mod recorded;
pub mod redis;
pub mod worker;
