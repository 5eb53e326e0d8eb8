//! The order stream's state for the operator: how far the workers are, and which other groups read the stream.

use serde::Serialize;
use utoipa::ToSchema;

use std::time::{Duration, Instant};

use crate::fence::{Fence, StoreError};
pub use crate::redis::keys::GROUP;
pub use crate::redis::order_stream::ConsumerInfo;
use crate::redis::order_stream::{self as stream, GroupInfo};
use crate::redis::{health, server_info};

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum StreamStatus {
    /// The fence is down: there is no session to read with.
    Down {
        fence: FenceView,
    },
    Up(Box<StreamView>),
}

#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "lowercase")]
#[schema(as = Fence)]
pub enum FenceView {
    Up { epoch: String },
    Down { reason: String },
}

#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Stream)]
pub struct StreamView {
    /// The stream's key in Redis.
    pub stream: String,
    #[schema(minimum = 0)]
    pub partition: i16,
    pub length: i64,
    #[schema(required)]
    pub first_entry_id: Option<String>,
    #[schema(required)]
    pub last_entry_id: Option<String>,
    pub group: &'static str,
    /// Order events that are not acknowledged: `pending` and `lag` together.
    pub backlog: i64,
    /// Delivered to a consumer and not acknowledged.
    pub pending: i64,
    /// Not delivered yet.
    pub lag: i64,
    #[schema(required)]
    pub oldest_pending_ms: Option<i64>,
    /// The age of the oldest event that is not delivered.
    #[schema(required)]
    pub oldest_unread_ms: Option<i64>,
    pub consumers: Vec<ConsumerInfo>,
    /// Every group of the stream, including those of other programs.
    pub groups: Vec<GroupInfo>,
    pub fence: FenceView,
}

/// The numbers of the stream for the metrics. Cheap to read, however long the stream is.
pub struct StreamNumbers {
    pub length: i64,
    /// Groups of the stream, those of other programs included.
    pub groups: i64,
    pub lag: i64,
    pub pending: i64,
    pub consumers: i64,
    /// Connections of workers; `None` if Redis does not tell.
    pub workers: Option<u64>,
    /// Age of the oldest event that is not acknowledged; zero without one.
    pub oldest: Duration,
}

/// Reads the stream's numbers.
///
/// # Errors
/// If the fence is down or Redis does not answer.
pub async fn numbers(fence: &Fence) -> Result<StreamNumbers, StoreError> {
    let session = fence.require_session()?;
    let redis = &session.redis;
    let groups = stream::groups(redis).await?;
    let ours = groups.iter().find(|group| group.name == GROUP).cloned().unwrap_or_default();
    let oldest = health::oldest_unacknowledged(redis, &ours).await?;
    let now = Duration::from_millis(session.clock.at_ms(Instant::now()).unsigned_abs());
    let oldest = oldest.map_or(Duration::ZERO, |id| now.saturating_sub(stream::appended_at(&id)));
    Ok(StreamNumbers {
        length: stream::length(redis).await?,
        groups: i64::try_from(groups.len()).unwrap_or(i64::MAX),
        lag: stream::unread(redis, &ours).await?,
        pending: ours.pending,
        consumers: ours.consumers,
        workers: health::workers(redis).await?,
        oldest,
    })
}

/// Reads the stream's state.
///
/// # Errors
/// If Redis does not answer.
pub async fn read(fence: &Fence) -> Result<StreamStatus, StoreError> {
    let session = match fence.session() {
        Ok(session) => session,
        Err(reason) => {
            return Ok(StreamStatus::Down { fence: FenceView::Down { reason: reason.to_string() } });
        }
    };
    let redis = &session.redis;
    let groups = stream::groups(redis).await?;
    let ours = groups.iter().find(|group| group.name == GROUP).cloned().unwrap_or_default();
    let lag = stream::unread(redis, &ours).await?;
    let oldest = stream::pending_ids(redis, "-").await?.into_iter().next();
    let unread = if lag > 0 { stream::first_unread_id(redis, &ours).await? } else { None };
    let now_ms = server_info::now_ms(redis).await?;
    let age_ms = |id: String| {
        let added_ms = id.split('-').next().and_then(|ms| ms.parse::<i64>().ok())?;
        Some((now_ms - added_ms).max(0))
    };
    Ok(StreamStatus::Up(Box::new(StreamView {
        stream: redis.keys.orders.to_string(),
        partition: redis.keys.partition.number(),
        length: stream::length(redis).await?,
        first_entry_id: stream::first_id(redis).await?,
        last_entry_id: stream::last_id(redis).await?,
        group: GROUP,
        backlog: ours.pending + lag,
        pending: ours.pending,
        lag,
        oldest_pending_ms: oldest.and_then(age_ms),
        oldest_unread_ms: unread.and_then(age_ms),
        consumers: stream::consumers(redis).await?,
        groups,
        fence: FenceView::Up { epoch: session.epoch.to_string() },
    })))
}

/// The number of order events that workers of all processes have acknowledged since the group was made; `None` if Redis
/// has stopped counting.
///
/// # Errors
/// If the fence is down or Redis does not answer.
pub async fn acknowledged(fence: &Fence) -> Result<Option<i64>, StoreError> {
    let session = fence.require_session()?;
    let groups = stream::groups(&session.redis).await?;
    let ours = groups.iter().find(|group| group.name == GROUP);
    Ok(ours.and_then(|group| Some(group.entries_read? - group.pending)))
}

/// Connections on which workers of all processes read order events; `None` if Redis does not allow to list them. A
/// consumer group does not show them: Redis 7.0 lists a consumer only after it has got an entry.
///
/// # Errors
/// If the fence is down or Redis does not answer.
pub async fn workers(fence: &Fence) -> Result<Option<u64>, StoreError> {
    Ok(health::workers(&fence.require_session()?.redis).await?)
}
