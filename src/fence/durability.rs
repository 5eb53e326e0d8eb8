//! Says what an answered claim is worth: with anything but `appendfsync always` a killed Redis forgets claims
//! that somebody was told of. Told once for each session, and again when the setting changes.

use crate::metrics;
use crate::redis::Redis;
use crate::redis::health::{self, Durability};

/// What was told last.
#[derive(Default)]
pub struct Watch {
    told: Option<Durability>,
}

impl Watch {
    pub async fn look(&mut self, redis: &Redis) {
        let durability = health::durability(redis).await.unwrap_or(Durability::Unreadable);
        metrics::APPENDFSYNC_ALWAYS.set_bool(durability == Durability::Always);
        if self.told.as_ref() == Some(&durability) {
            return;
        }
        match &durability {
            Durability::Always if self.told.is_some() => {
                tracing::info!("Redis makes claims durable again before they are answered");
            }
            Durability::Always => {}
            Durability::Weaker(setting) => tracing::warn!(
                "Redis runs with {setting}: claims that were answered may be lost when it is killed. \
                 Set appendonly yes and appendfsync always"
            ),
            Durability::Unreadable => tracing::warn!(
                "Redis does not tell its appendfsync: unless it is `always`, claims that were answered may be \
                 lost when it is killed"
            ),
        }
        self.told = Some(durability);
    }
}
