//! The `status` event of the admin's stream: the state of the sale in this second. A part that cannot be read is null.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::history::Point;
use crate::coupons::view::CouponView;
use crate::redis::order_stream::ConsumerInfo;

#[derive(Serialize, ToSchema)]
#[schema(as = SaleStatus)]
pub struct Status {
    /// Redis's clock.
    #[schema(required, format = DateTime)]
    pub server_time: Option<String>,
    pub point: Point,
    pub fence: FenceState,
    pub redis: RedisState,
    pub postgres: PostgresState,
    pub backlog: Backlog,
    /// How long an entry may stay unacknowledged before another worker takes it over.
    pub reclaim_after_ms: u64,
    /// Connections that read order events; without one, no order is recorded.
    #[schema(required)]
    pub workers: Option<u64>,
    #[schema(required)]
    pub consumers: Option<Vec<ConsumerInfo>>,
    pub drift: Drift,
    pub dead_letters: OpenLetters,
    /// The first 200 coupons, listed or not.
    #[schema(required)]
    pub coupons: Option<Vec<CouponView>>,
    /// How many more coupons there are.
    #[schema(required)]
    pub coupons_left_out: Option<u64>,
}

/// Whether claims are accepted.
#[derive(Serialize, ToSchema)]
#[schema(as = SaleFence)]
pub struct FenceState {
    pub state: UpOrDown,
    /// While it is up: the agreement of both stores.
    #[schema(required)]
    pub epoch: Option<String>,
    /// Since when this process sees this state.
    #[schema(format = DateTime)]
    pub since: String,
    /// While it is down: why.
    #[schema(required)]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum UpOrDown {
    Up,
    Down,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SaleRedis)]
pub struct RedisState {
    /// `ok`, or what is wrong.
    pub state: String,
    /// Whether Redis writes each claim to disk before it is answered.
    #[schema(required)]
    pub appendfsync_always: Option<bool>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SalePostgres)]
pub struct PostgresState {
    /// `ok`, or what is wrong.
    pub state: String,
    /// Since when Postgres does not answer.
    #[schema(required, format = DateTime)]
    pub away_since: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SaleBacklog)]
pub struct Backlog {
    /// Order events that are not recorded yet.
    #[schema(required)]
    pub events: Option<i64>,
    /// With more of them claims are refused.
    pub allowed: u64,
    /// Delivered to a worker, not acknowledged.
    #[schema(required)]
    pub pending: Option<i64>,
    /// Not delivered yet.
    #[schema(required)]
    pub lag: Option<i64>,
    /// The age of the oldest one, 0 without one.
    #[schema(required)]
    pub oldest_ms: Option<i64>,
}

/// Differences between the stores in the last full comparison of each partition, by whichever process.
#[derive(Clone, Default, Serialize, ToSchema)]
#[schema(as = SaleDrift)]
pub struct Drift {
    pub total: f64,
    pub kinds: BTreeMap<String, f64>,
    /// Of several partitions, the oldest time; null before one of them was compared.
    #[schema(required, format = DateTime)]
    pub compared_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SaleDeadLetters)]
pub struct OpenLetters {
    /// Neither replayed nor discarded.
    #[schema(required)]
    pub open: Option<i64>,
}
