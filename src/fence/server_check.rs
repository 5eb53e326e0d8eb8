//! Finds out whether the open connections to Postgres lead to a server that another has replaced: a dead machine ends no
//! connection, and a stopped one that wakes up still answers.

use std::sync::{Mutex, PoisonError};

use tokio::task::JoinHandle;

use crate::config;
use crate::domain::Partition;
use crate::postgres::{Postgres, PostgresError, fence};

/// One attempt at a time.
#[derive(Default)]
pub struct ServerCheck(Mutex<Option<JoinHandle<()>>>);

impl ServerCheck {
    /// Asks on a new connection which server there is. If it is not `known`, the open connections are not used again. Does
    /// not wait: the next probe has the result.
    pub fn start(&self, postgres: &Postgres, partition: Partition, known: String) {
        let mut attempt = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if attempt.as_ref().is_some_and(|attempt| !attempt.is_finished()) {
            return;
        }
        let postgres = postgres.clone();
        *attempt = Some(tokio::spawn(async move {
            let asking =
                tokio::time::timeout(config::POSTGRES_STATEMENT_TIMEOUT, identity(&postgres, partition));
            if let Ok(Ok(found)) = asking.await
                && found != known
            {
                tracing::warn!("another Postgres has taken the place of {known}: {found}");
                postgres.renew_connections();
            }
        }));
    }
}

async fn identity(postgres: &Postgres, partition: Partition) -> Result<String, PostgresError> {
    let mut connection = postgres.dedicated().await?;
    Ok(fence::read_in(&mut connection, partition).await?.this_postgres)
}
