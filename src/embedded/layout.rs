//! Names inside the data directory: each store's folder, socket and log, and Postgres's cluster. `user.rs` decides who
//! may read them, `sockets.rs` in which folder the sockets are.

pub const REDIS_FOLDER: &str = "redis";
pub const REDIS_SOCKET: &str = "redis.sock";
pub const REDIS_LOG: &str = "redis.log";

pub const POSTGRES_FOLDER: &str = "postgres";
/// Postgres makes this name from its port.
pub const POSTGRES_SOCKET: &str = ".s.PGSQL.5432";
pub const POSTGRES_LOG: &str = "postgres.log";
/// The cluster's folder, inside the store's folder; the socket and the log are beside it.
pub const POSTGRES_CLUSTER: &str = "cluster";
pub const POSTGRES_USER: &str = "seckill";
pub const POSTGRES_DATABASE: &str = "seckill";
