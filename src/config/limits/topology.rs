//! Limits of the search for the master of a partition in a Redis Cluster or behind Sentinels.

use std::time::Duration;

/// How long one node of a cluster, or one Sentinel, may take to connect and to say who is the master.
pub const TOPOLOGY_ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// A stopped master loses its session after `REDIS_COMMAND_TIMEOUT`; a replica must not be promoted before.
pub const FAILOVER_MIN: Duration = Duration::from_secs(3);
