//! The epoch marker: `ready:<epoch>` while claims may be accepted, `building:<epoch>` during a rebuild. Owns the
//! marker's text and the reads. The scripts of `rebuild.rs` write the marker.

use std::sync::Arc;

use super::{Redis, RedisError, text};

const READY: &str = "ready:";
const BUILDING: &str = "building:";

/// The marker under which claims of this epoch are accepted.
#[must_use]
pub fn ready_marker(epoch: &str) -> Arc<str> {
    format!("{READY}{epoch}").into()
}

/// The marker during the rebuild of this epoch.
#[must_use]
pub fn building_marker(epoch: &str) -> String {
    format!("{BUILDING}{epoch}")
}

/// The epoch in a marker of either kind.
#[must_use]
pub fn epoch_of(marker: &str) -> Option<&str> {
    marker.split_once(':').map(|(_, epoch)| epoch)
}

/// The marker's text; `None` if it is absent.
///
/// # Errors
/// `WrongType` if the key is not a string.
pub async fn read(redis: &Redis) -> Result<Option<String>, RedisError> {
    Ok(text(&redis.call("GET", vec![(&*redis.keys.epoch).into()]).await?))
}

/// The epoch in which claims are accepted; `None` while they are not.
pub async fn ready_epoch(redis: &Redis) -> Result<Option<String>, RedisError> {
    let marker = read(redis).await?;
    Ok(marker.as_deref().and_then(|marker| marker.strip_prefix(READY)).map(str::to_owned))
}
