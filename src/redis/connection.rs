//! One connection of fred to one server. It never reconnects by itself, and follows no redirect.

use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::{Config, ConnectionConfig, PerformanceConfig, TcpConfig};
use fred::types::{CustomCommand, Value};
use tokio_util::sync::CancellationToken;

use super::{RedisError, classify};
use crate::config;

const CLOSED: &str = "the connection is closed";

/// Clones share the connection. A drop of the last clone closes it.
#[derive(Clone)]
pub(super) struct Connection {
    client: Client,
    /// Cancelled when the connection has ended: without this, fred would keep a command until its deadline.
    closed: CancellationToken,
}

impl Connection {
    /// Connects within `REDIS_CONNECT_TIMEOUT` to the server of this configuration.
    pub(super) async fn open(config: Config, command_timeout: Duration) -> Result<Self, RedisError> {
        let performance =
            PerformanceConfig { default_command_timeout: command_timeout, ..PerformanceConfig::default() };
        let connection = ConnectionConfig {
            connection_timeout: config::REDIS_CONNECT_TIMEOUT,
            internal_command_timeout: config::REDIS_CONNECT_TIMEOUT,
            max_command_attempts: 1,
            tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
            ..ConnectionConfig::default()
        };
        let client = Client::new(config, Some(performance), Some(connection), None);
        let connection = tokio::time::timeout(config::REDIS_CONNECT_TIMEOUT, client.init())
            .await
            .map_err(|_| RedisError::Unknown("connecting took too long".into()))?
            .map_err(|error| classify(&error))?;
        let closed = CancellationToken::new();
        let end = closed.clone().drop_guard();
        tokio::spawn(async move {
            if let Ok(Err(error)) = connection.await {
                tracing::debug!("a connection to Redis has ended: {error}");
            }
            drop(end);
        });
        Ok(Self { client, closed })
    }

    /// Sends one command, with the connection's timeout.
    pub(super) async fn call(&self, command: &'static str, args: Vec<Value>) -> Result<Value, RedisError> {
        if self.closed.is_cancelled() {
            return Err(RedisError::Busy(CLOSED.into()));
        }
        let command = CustomCommand::new_static(command, None::<u16>, false);
        // Boxed: fred's futures are large, and the future of each caller holds this one.
        let reply = Box::pin(self.client.custom(command, args));
        match self.closed.run_until_cancelled(reply).await {
            Some(reply) => reply.map_err(|error| classify(&error)),
            None => Err(RedisError::Unknown(CLOSED.into())),
        }
    }

    /// Sends two commands in one write, with the connection's timeout for both; returns the reply of each.
    pub(super) async fn call_both(
        &self,
        commands: [(&'static str, Vec<Value>); 2],
    ) -> Result<[Result<Value, RedisError>; 2], RedisError> {
        if self.closed.is_cancelled() {
            return Err(RedisError::Busy(CLOSED.into()));
        }
        let pipeline = self.client.pipeline();
        for (command, args) in commands {
            let command = CustomCommand::new_static(command, None::<u16>, false);
            // Only queues the command.
            let () = pipeline.custom(command, args).await.map_err(|error| classify(&error))?;
        }
        let replies = Box::pin(pipeline.try_all::<Value>());
        let Some(replies) = self.closed.run_until_cancelled(replies).await else {
            return Err(RedisError::Unknown(CLOSED.into()));
        };
        let mut replies = replies.into_iter().map(|reply| reply.map_err(|error| classify(&error)));
        match (replies.next(), replies.next()) {
            (Some(first), Some(second)) => Ok([first, second]),
            // One error for both.
            (Some(Err(error)), None) => Err(error),
            _ => Err(RedisError::Reply("a reply is missing".into())),
        }
    }
}
