//! The faults that a search may inject.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A worker is killed, or its connection to Postgres breaks: its open transaction is rolled back.
    WorkerKilled,
    /// The process that rebuilds is killed.
    RebuilderKilled,
    ServerKilled,
    /// Postgres drops the session that holds a rebuild's lock; the rebuild notices at its next statement.
    SessionDropped,
    /// Redis restarts with all its data: connections break, the run id changes, scripts are gone.
    RedisRestarted,
    RedisFlushed,
    /// A replica with older data replaces Redis.
    RedisFailedOver,
    ClaimsDeleted,
    CouponDeleted,
    StreamDeleted,
    MarkerDeleted,
    StockEdited,
    /// An entry is deleted or trimmed before a worker has read it.
    EntryDeleted,
    /// An entry is deleted or trimmed after a worker has read it and before its acknowledgement.
    PendingDeleted,
    GroupDestroyed,
    /// An older copy replaces Postgres, with the same system identifier.
    PostgresOlderCopy,
    /// A replica of Postgres with older data is promoted.
    PostgresPromoted,
    /// A synchronous standby, which has every commit, is promoted.
    PostgresFailedOver,
    /// An operator restores the coupon's first definition, for example from a dump.
    DefinitionRestored,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 19] = [
        Self::WorkerKilled,
        Self::RebuilderKilled,
        Self::ServerKilled,
        Self::SessionDropped,
        Self::RedisRestarted,
        Self::RedisFlushed,
        Self::RedisFailedOver,
        Self::ClaimsDeleted,
        Self::CouponDeleted,
        Self::StreamDeleted,
        Self::MarkerDeleted,
        Self::StockEdited,
        Self::EntryDeleted,
        Self::PendingDeleted,
        Self::GroupDestroyed,
        Self::PostgresOlderCopy,
        Self::PostgresPromoted,
        Self::PostgresFailedOver,
        Self::DefinitionRestored,
    ];

    /// Whether another server, with other data, takes the place of a store.
    #[must_use]
    pub const fn replaces_a_server(self) -> bool {
        let of_postgres =
            matches!(self, Self::PostgresOlderCopy | Self::PostgresPromoted | Self::PostgresFailedOver);
        of_postgres || matches!(self, Self::RedisFailedOver)
    }
}
