//! Connections on which a batch of claims waits for a replica. WAIT blocks its connection, and the connection of the
//! session must stay free for everything else.

use std::sync::{Mutex, PoisonError};

use crate::redis::{Redis, RedisError, RedisServer, server_info};

/// The idle connections of a session. All lead to the server process that the fence has probed.
pub struct Carriers {
    server: RedisServer,
    run_id: String,
    idle: Mutex<Vec<Redis>>,
}

impl Carriers {
    pub(super) fn new(server: &RedisServer, run_id: &str) -> Self {
        Self { server: server.clone(), run_id: run_id.to_owned(), idle: Mutex::default() }
    }

    /// A connection for one batch; the caller gives it back unless it has failed.
    ///
    /// # Errors
    /// If Redis cannot be reached, or another server process answers: that one was not probed.
    pub async fn take(&self) -> Result<Redis, RedisError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(redis) = idle {
            return Ok(redis);
        }
        let redis = self.server.connect().await?;
        if server_info::run_id(&redis).await? != self.run_id {
            return Err(RedisError::Busy("another server than the one that was probed answers".into()));
        }
        Ok(redis)
    }

    pub fn give_back(&self, redis: Redis) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(redis);
    }
}
