//! Whether Postgres answers, and since when it does not. That is no reason to take the fence down.

use std::sync::{Mutex, PoisonError};

use time::OffsetDateTime;

use crate::metrics;
use crate::postgres::PostgresError;

/// Postgres does not answer: claims go on, and the stream holds them.
#[derive(Clone, Debug)]
pub struct PostgresOutage {
    /// By this machine's clock.
    pub since: OffsetDateTime,
    pub why: String,
}

#[derive(Default)]
pub struct OutageWatch {
    away: Mutex<Option<PostgresOutage>>,
}

impl OutageWatch {
    pub fn get(&self) -> Option<PostgresOutage> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note of a question's end; of a row of failures the first time stands.
    pub fn note(&self, error: Option<&PostgresError>) {
        metrics::POSTGRES_UP.set_bool(error.is_none());
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        *away = error.map(|error| {
            let since = away.as_ref().map_or_else(OffsetDateTime::now_utc, |away| away.since);
            PostgresOutage { since, why: error.to_string() }
        });
    }
}
