//! Reports the durability of answered claims: with any setting but `appendfsync always`, a Redis that is killed forgets
//! claims that were answered. Logged once for each session, and again when the setting changes.

use crate::metrics;
use crate::redis::Redis;
use crate::redis::health::{self, Durability};

/// The state that was logged last.
#[derive(Default)]
pub struct DurabilityWatch {
    logged: Option<Durability>,
}

impl DurabilityWatch {
    pub async fn check(&mut self, redis: &Redis) {
        // The probe handles a Redis that does not answer.
        let Ok(durability) = health::durability(redis).await else { return };
        metrics::APPENDFSYNC_ALWAYS.set_bool(durability == Durability::Always);
        if self.logged.as_ref() == Some(&durability) {
            return;
        }
        match &durability {
            Durability::Always if self.logged.is_some() => {
                tracing::info!("Redis makes claims durable again before they are answered");
            }
            Durability::Always => {}
            Durability::Weaker(setting) => tracing::warn!(
                "Redis runs with {setting}: claims that were answered may be lost when it is killed. \
                 Set appendonly yes and appendfsync always"
            ),
            Durability::Unreadable => tracing::warn!(
                "Redis does not show its appendfsync: unless it is `always`, claims that were answered may be \
                 lost when it is killed"
            ),
        }
        self.logged = Some(durability);
    }
}
