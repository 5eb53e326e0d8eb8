//! Rule 1: compares Redis with the fence row. Claims are accepted only if there is no difference.

use super::postgres_loss;
use crate::postgres::fence::FenceRow;
use crate::redis::marker::ready_marker;
use crate::redis::probe::RedisProbe;
use crate::redis::probe::{STREAM_IS_FULL, StreamState};

/// Why claims are not accepted.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct Difference {
    /// The label under which a rebuild is counted.
    pub cause: &'static str,
    /// For the operator.
    pub sentence: String,
    /// The difference is part of a normal start, or an operator ordered a rebuild: no data is known to be lost.
    pub is_normal: bool,
}

/// Compares Redis with the fence row.
///
/// # Errors
/// With the first difference.
pub fn compare(seen: &RedisProbe, row: &FenceRow) -> Result<(), Difference> {
    let difference =
        |cause, sentence: &str, is_normal| Err(Difference { cause, sentence: sentence.into(), is_normal });
    let differs = |cause, sentence: &str| difference(cause, sentence, false);
    if row.postgres_lost {
        let why = postgres_loss::noticed_before(seen, row, None);
        return differs("postgres", &postgres_loss::sentence(&why));
    }
    if !seen.is_master {
        return differs("redis", "Redis is a replica");
    }
    if row.postgres_identity.is_empty() {
        return difference("first", "this database has never agreed with a Redis", true);
    }
    if row.this_postgres != row.postgres_identity {
        let sentence = "Postgres is not the server of the last agreement (restored, promoted or new)";
        return differs("postgres", sentence);
    }
    if seen.postgres_lsn.as_ref().zip(row.lsn.as_ref()).is_some_and(|(noted, now)| now < noted) {
        return differs("postgres", "Postgres is an older copy of itself");
    }
    if seen.run_id != row.redis_run_id {
        return difference("redis", "Redis has restarted", true);
    }
    if seen.replid != row.redis_replid {
        return differs("redis", "Redis has failed over");
    }
    match &seen.marker {
        None => return differs("marker", "Redis has lost the epoch marker (flushed?)"),
        Some(marker) if **marker != *ready_marker(&row.epoch) => {
            let sentence =
                format!("the epoch marker in Redis is `{marker}`, Postgres is at epoch {}", row.epoch);
            return differs("marker", &sentence);
        }
        Some(_) => {}
    }
    if !seen.has_group {
        return differs("stream", "the order stream or its consumer group is gone from Redis");
    }
    match seen.stream {
        StreamState::Full => return differs("stream", STREAM_IS_FULL),
        StreamState::Passed => {
            return differs(
                "stream",
                "the consumer group in Redis is ahead of the last event: it would skip new events",
            );
        }
        StreamState::Usable | StreamState::Absent => {}
    }
    if !seen.knows_scripts {
        return differs("scripts", "Redis does not know the program's scripts");
    }
    Ok(())
}
