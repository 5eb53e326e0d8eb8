//! The highest WAL position that Postgres was seen to have made durable, kept in Redis: an older copy of Postgres is
//! detected by it. The position of a commit reaches Redis before the effect of that commit does (a definition, a released
//! unit, the answer to a confirm); else the loss of the commit would go unnoticed.

use super::{Fence, Session, StoreError};
use crate::config;
use crate::domain::Epoch;
use crate::postgres::work::WorkConnection;
use crate::postgres::{self, Postgres, PostgresError};
use crate::redis::{Redis, wal_position as redis_position};

/// Reads the durable WAL position of Postgres, which covers all commits so far, and records it in Redis.
///
/// # Errors
/// If a store does not answer, this is not the Postgres of the session, or a script found another marker.
pub async fn record(fence: &Fence, session: &Session, postgres: &Postgres) -> Result<(), StoreError> {
    match postgres::fence::position_to_record(&postgres.pool, &session.epoch).await? {
        Some(lsn) => record_position(fence, session, &lsn).await,
        // The next probe finds the server that has taken the place.
        None => Err(StoreError::Fenced),
    }
}

/// Records this position in Redis.
///
/// # Errors
/// Where Redis does not answer, or the script found another marker.
pub async fn record_position(fence: &Fence, session: &Session, lsn: &str) -> Result<(), StoreError> {
    match redis_position::record(&session.redis, &session.ready, lsn).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            fence.marker_changed(session);
            Err(StoreError::Fenced)
        }
        Err(error) => {
            fence.redis_failed(&session.epoch, &error);
            Err(error.into())
        }
    }
}

/// The position in Redis, empty if none is recorded. To be read before the transaction that compares it: Postgres is
/// never behind a position that was recorded before, unless it has lost commits.
///
/// # Errors
/// If Redis does not answer.
pub async fn read_position(fence: &Fence, session: &Session) -> Result<String, StoreError> {
    match redis_position::read(&session.redis).await {
        Ok(position) => Ok(position.unwrap_or_default()),
        Err(error) => {
            fence.redis_failed(&session.epoch, &error);
            Err(error.into())
        }
    }
}

/// Borrows a connection for a transaction. If it was not checked for this partition yet, compares Postgres's WAL position
/// with the one in Redis first. If Postgres is behind that position, the fence goes down: an older copy of Postgres must
/// not be written to.
///
/// # Errors
/// If Postgres cannot be reached or is an older copy of itself.
pub async fn borrow_checked(
    fence: &Fence,
    postgres: &Postgres,
    redis: &Redis,
    epoch: &Epoch,
) -> Result<WorkConnection, PostgresError> {
    if let Some(connection) = postgres.work.borrow_checked(epoch.partition) {
        return Ok(connection);
    }
    // Read Redis first: Postgres is never behind a position that was recorded before, unless it has lost commits. Also no
    // connection is held while Redis does not answer.
    let noted = redis_position::read(redis).await;
    let noted =
        noted.map_err(|error| PostgresError::Transient(format!("Redis gives no WAL position: {error}")))?;
    let mut connection = postgres.work.borrow(epoch.partition).await?;
    if connection.is_checked() {
        return Ok(connection);
    }
    // The connection may be an idle one, to a server that hangs by now.
    let reading = postgres::fence::durable_lsn(&mut *connection);
    let now = tokio::time::timeout(config::POSTGRES_CONNECT_TIMEOUT, reading).await;
    let now = now.map_err(|_| PostgresError::Transient("it gives no answer".into()))??;
    if noted.is_some_and(|noted| now < noted) {
        let why = "Postgres is an older copy of itself";
        fence.report_postgres_loss(epoch, why);
        return Err(PostgresError::Transient(why.into()));
    }
    connection.set_checked();
    Ok(connection)
}
