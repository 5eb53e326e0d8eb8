//! Since when Postgres does not answer. An outage of Postgres does not take the fence down.

use std::sync::{Mutex, PoisonError};

use time::OffsetDateTime;

use crate::metrics;
use crate::postgres::PostgresError;

/// Postgres does not answer. Claims continue, and the stream keeps their events.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub struct PostgresOutage {
    /// By this machine's clock.
    pub since: OffsetDateTime,
    pub why: String,
}

#[derive(Default)]
pub struct OutageWatch {
    outage: Mutex<Option<PostgresOutage>>,
}

impl OutageWatch {
    pub fn get(&self) -> Option<PostgresOutage> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records the result of a query; keeps the time of the first failure in a row.
    pub fn record(&self, error: Option<&PostgresError>) {
        metrics::POSTGRES_UP.set_bool(error.is_none());
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        *outage = error.map(|error| {
            let since = outage.as_ref().map_or_else(OffsetDateTime::now_utc, |outage| outage.since);
            PostgresOutage { since, why: error.to_string() }
        });
    }
}
