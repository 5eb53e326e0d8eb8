//! Limits of partitions, and of the search for the master of a partition in a Redis Cluster or behind Sentinels.

use std::time::Duration;

/// How long one node of a cluster, or one Sentinel, may take to connect and to say who is the master.
pub const TOPOLOGY_ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// A stopped master loses its session after `REDIS_COMMAND_TIMEOUT`; a replica must not be promoted before.
pub const FAILOVER_MIN: Duration = Duration::from_secs(3);

// ---- claims that wait for a replica ----

/// EVALSHAs of such claims in flight at once, each on a connection of its own. More than without a replica: nearly all of
/// their time is the way to the replica and back.
pub const CLAIM_MAX_REPLICA_SENDERS: usize = 8;
/// How long `doctor` waits for a replica.
pub const DOCTOR_REPLICA_WAIT: Duration = Duration::from_secs(1);

// ---- partitions, and the shares of a coupon in several of them ----

/// At most this number of partitions; `Partition::NUMBERS` has so many.
pub const PARTITIONS_MAX: usize = 64;
/// How long "sold out" is told for after the units of all shares of a coupon were read.
pub const SOLD_OUT_MAX_AGE: Duration = Duration::from_millis(100);
/// How long a claim waits before it looks again for units that are on their way to its share.
pub const MOVE_POLL: Duration = Duration::from_millis(5);
/// How often a process looks for partitions that another one has added.
pub const PARTITIONS_POLL: Duration = Duration::from_secs(1);
