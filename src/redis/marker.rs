//! The epoch marker: `ready:<epoch>` while claims may be accepted, `building:<epoch>` during a rebuild. Owns the
//! marker's text and the reads. The scripts of `rebuild.rs` write the marker.

use std::sync::Arc;

use super::{Redis, RedisError, text};
use crate::domain::Epoch;

const READY: &str = "ready:";
const BUILDING: &str = "building:";

/// The marker under which claims of this epoch are accepted.
#[must_use]
pub fn ready_marker(epoch: &Epoch) -> Arc<str> {
    format!("{READY}{epoch}").into()
}

/// The marker during the rebuild of this epoch.
#[must_use]
pub fn building_marker(epoch: &Epoch) -> String {
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
pub async fn ready_epoch(redis: &Redis) -> Result<Option<Epoch>, RedisError> {
    let marker = read(redis).await?;
    let text = marker.as_deref().and_then(|marker| marker.strip_prefix(READY));
    Ok(text.map(|text| Epoch::new(redis.keys.partition, text.to_owned())))
}
