//! Flash-sale coupon grabbing on Redis Streams and Postgres, without a broker between them.
//!
//! A claim arrives in [`http`] and waits in the [`claims`] queue for the next batch. One Lua script decides the batch
//! ([`redis::scripts`]): it takes the unit and appends an order event in the same step. A [`worker`] reads the event,
//! records the order in [`postgres`] and acknowledges it. The [`fence`] accepts claims only while both stores are known to
//! agree, and restores the agreement when they do not.
//!
//! The modules below are listed from the bottom up; each may use those before it. `http`, `worker` and `cli` never use
//! each other. `docs/ARCHITECTURE.md` describes the path of one claim.

pub mod config;
pub mod disk;
pub mod environment;
pub mod printing;

pub mod logs;
pub mod metrics;
pub mod tasks;

pub mod domain;
pub mod open_files;
pub mod other_process;
pub mod stop;

pub mod postgres;
pub mod redis;

pub mod fence;

pub mod coupons;

pub mod orders;

pub mod waitlist;

pub mod claims;

pub mod reconcile;

pub mod receipt;

pub mod partitions;

pub mod aof;

pub mod doctor;

pub mod live;

pub mod http;
pub mod worker;

pub mod data_dir;
pub mod embedded;
pub mod handover;

pub mod bench;

pub mod cli;

pub mod app;
