//! Flash-sale coupon grabbing on Redis Streams and Postgres, with no broker between them.
//!
//! A claim arrives in [`http`], waits in the [`gate`] for the next batch, and is decided by one Lua
//! script ([`redis::scripts`]), which takes the unit and appends an order event in the same step. A
//! [`worker`] reads the event, records the order in [`postgres`] and acknowledges it. The [`fence`] lets
//! claims through only while both stores are known to agree, and makes them agree again when they do not.
//!
//! Modules below, from the ground up; each may use those before it, and `http`, `worker` and `cli` never
//! see each other.

pub mod config;
pub mod disk;
pub mod environment;
pub mod printing;

pub mod logs;
pub mod tasks;

pub mod domain;
pub mod metrics;
pub mod open_files;
pub mod stop;

pub mod postgres;
pub mod redis;

pub mod fence;

pub mod coupons;

pub mod orders;

pub mod claims;

pub mod reconcile;

pub mod doctor;

pub mod http;
pub mod worker;

pub mod data_dir;
pub mod embedded;

pub mod bench;

pub mod cli;

pub mod app;
