//! Rule 1: what must be the same in Redis and in the fence row for claims to be accepted.

use super::lost;
use crate::postgres::fence::FenceRow;
use crate::redis::info::Look;
use crate::redis::script::ready_marker;

/// The first difference, as a sentence for the operator.
pub fn compare(seen: &Look, row: &FenceRow) -> Result<(), String> {
    if row.postgres_lost {
        return Err(lost::sentence("noticed before"));
    }
    if !seen.is_master {
        return Err("Redis is a replica".into());
    }
    if row.postgres_identity.is_empty() {
        return Err("this database has never agreed with a Redis".into());
    }
    if row.this_postgres != row.postgres_identity {
        return Err("Postgres is not the server of the last agreement (restored, promoted or new)".into());
    }
    if seen.postgres_lsn.as_ref().zip(row.lsn.as_ref()).is_some_and(|(noted, now)| now < noted) {
        return Err("Postgres is an older copy of itself".into());
    }
    if seen.run_id != row.redis_run_id {
        return Err("Redis has restarted".into());
    }
    if seen.replid != row.redis_replid {
        return Err("Redis has failed over".into());
    }
    match &seen.marker {
        None => return Err("Redis has lost the epoch marker (flushed?)".into()),
        Some(marker) if **marker != *ready_marker(&row.epoch) => {
            return Err(format!("the epoch marker is `{marker}`, Postgres is at epoch {}", row.epoch));
        }
        Some(_) => {}
    }
    if !seen.has_group {
        return Err("the order stream or its consumer group is gone".into());
    }
    if !seen.knows_scripts {
        return Err("Redis does not know our scripts".into());
    }
    Ok(())
}
