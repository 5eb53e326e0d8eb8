//! Limits of the connections to Postgres.

use std::time::Duration;

pub const POSTGRES_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub const POSTGRES_STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
pub const POSTGRES_LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// A suspended worker must not hold the fence's lock for ever.
pub const POSTGRES_IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(1);
/// All connections of a process. The default lets each role of one partition work at any time.
pub const POSTGRES_CONNECTIONS_DEFAULT: u32 = 20;
pub const POSTGRES_CONNECTIONS_MIN: u32 = 8;
pub const POSTGRES_CONNECTIONS_MAX: u32 = 1_000;
pub const POSTGRES_POOL_CONNECTIONS: u32 = 7;
/// Beyond the setting.
pub const POSTGRES_REBUILD_CONNECTIONS: u16 = 1;
/// The share of the connections for work that one partition may hold at once.
pub const POSTGRES_WORK_PARTITION_PERCENT: usize = 67;
/// A connection that was idle for longer is pinged before it is lent.
pub const POSTGRES_WORK_MAX_IDLE: Duration = Duration::from_secs(1);
/// How long a role waits for a connection.
pub const POSTGRES_WORK_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements that one connection caches.
pub const POSTGRES_CACHE_STATEMENTS: usize = 256;
/// Orders in one notice of recorded orders: Postgres refuses a notice of 8,000 bytes.
pub const NOTICE_MAX_ORDERS: usize = 370;
/// How often the session that hears notices is closed if no request waits.
pub const NOTICES_SESSION_LINGER: Duration = Duration::from_mins(1);
/// How often that session is pinged. Postgres ends it if it is not: a process that stands still would keep all notices in
/// Postgres's queue.
pub const NOTICES_SESSION_PING: Duration = Duration::from_secs(10);
pub const NOTICES_SESSION_IDLE_TIMEOUT: Duration = Duration::from_mins(1);
