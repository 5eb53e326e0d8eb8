//! Notices: which orders a process has just recorded, for the other processes whose clients wait for them (LISTEN and
//! NOTIFY). A notice may be lost, and names orders that may concern no listener.
//!
//! The statement that sends notices is not the recording transaction: Postgres lets only one transaction with a notice
//! commit at a time, so recordings would wait for each other's fsync. Alone it writes nothing that needs an fsync.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use tokio::time::Instant;
use uuid::Uuid;

use super::PostgresError;
use crate::config;
use crate::domain::{Epoch, OrderId};

/// The name of the session that listens.
pub const SESSION_NAME: &str = "seckill notices";

/// Of one schema. Its number, because a schema's name may be too long for the name of a channel.
const CHANNEL: &str =
    "select 'seckill_recorded_' || to_hex(hashtextextended(current_schema() || '/recorded', 0))";
/// Each session that listens has this lock.
const LOCK_SHARED: &str =
    "select pg_advisory_lock_shared(hashtextextended(current_schema() || '/recorded', 0))";
/// Sends nothing if no session has the lock. Two senders at the same time may take each other for such a session.
macro_rules! notify {
    () => {
        "case when not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '/recorded', 0)) then
            (select count(pg_notify(
                'seckill_recorded_' || to_hex(hashtextextended(current_schema() || '/recorded', 0)), notice))
             from unnest($1::text[]) as notice)
        end"
    };
}

const SEND: &str = concat!("select ", notify!());
/// Also reads the position that goes to Redis, in one statement: unless commits wait for a standby, because then reading the
/// position writes a message, and the notices of others would wait for its commit.
const SEND_AND_READ: &str = concat!(
    "select durable_lsn(), current_setting('synchronous_standby_names') <> '' as waits,
        case when current_setting('synchronous_standby_names') = '' then ",
    notify!(),
    " end from fence where partition = $2 and epoch = $3 and postgres_identity = postgres_identity()"
);

const ORDER_BYTES: usize = size_of::<Uuid>();

/// Opens sessions that listen. A cheap handle.
#[derive(Clone)]
pub struct Notices {
    // Shared: it is large, and every future that has a `Postgres` would hold it.
    options: Arc<PgConnectOptions>,
}

/// A session that listens. A drop closes it.
pub struct Listener {
    listener: PgListener,
    ping_at: Instant,
}

impl Notices {
    /// Opens no session.
    pub(super) fn new(options: PgConnectOptions) -> Self {
        let idle = config::NOTICES_SESSION_IDLE_TIMEOUT.as_millis();
        let options =
            options.application_name(SESSION_NAME).options([("idle_session_timeout", format!("{idle}ms"))]);
        Self { options: Arc::new(options) }
    }

    /// Opens a session: every notice that is sent from now on arrives while the session lives.
    ///
    /// # Errors
    /// If Postgres cannot be reached within `POSTGRES_CONNECT_TIMEOUT`, or does not serve.
    pub async fn listen(&self) -> Result<Listener, PostgresError> {
        // `PgListener` needs a pool. Each has its own: a connection that hangs must not keep the next one waiting.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(config::POSTGRES_CONNECT_TIMEOUT)
            .connect_lazy_with((*self.options).clone());
        let listening = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            let channel: String = sqlx::query_scalar(CHANNEL).fetch_one(&mut listener).await?;
            listener.listen(&channel).await?;
            sqlx::query(LOCK_SHARED).execute(&mut listener).await?;
            Ok(Listener { listener, ping_at: Instant::now() + config::NOTICES_SESSION_PING })
        };
        in_time(listening).await
    }
}

impl Listener {
    /// The orders of the next notice. May be dropped half-way.
    ///
    /// # Errors
    /// If the session has ended: notices may be lost from now on.
    pub async fn next(&mut self) -> Result<Vec<OrderId>, PostgresError> {
        loop {
            // Also in a stream of notices without a gap: for Postgres, a session that only hears is idle.
            if self.ping_at <= Instant::now() {
                let ping = sqlx::query("select 1").execute(&mut self.listener);
                in_time(async { Ok(ping.await?) }).await?;
                self.ping_at = Instant::now() + config::NOTICES_SESSION_PING;
            }
            match tokio::time::timeout_at(self.ping_at, self.listener.try_recv()).await {
                Ok(Ok(Some(notice))) => return Ok(decode(notice.payload())),
                Ok(Ok(None)) => return Err(PostgresError::Transient("the session has ended".into())),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => {}
            }
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, PostgresError>>) -> Result<T, PostgresError> {
    let done = tokio::time::timeout(config::POSTGRES_STATEMENT_TIMEOUT, work).await;
    done.unwrap_or_else(|_| Err(PostgresError::Transient("it gives no answer".into())))
}

/// Sends notices of orders that are committed. Returns the WAL position that goes to Redis, as
/// `fence::position_to_record`.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn send(
    connection: &mut PgConnection,
    epoch: &Epoch,
    orders: &[OrderId],
) -> Result<Option<String>, PostgresError> {
    let notices: Vec<String> = orders.chunks(config::NOTICE_MAX_ORDERS).map(encode).collect();
    let sent = sqlx::query_as(SEND_AND_READ)
        .bind(&notices)
        .bind(epoch.partition.number())
        .bind(epoch.as_str())
        .fetch_optional(&mut *connection)
        .await;
    match sent.map_err(PostgresError::from) {
        Ok(Some((_, true, _))) => {
            if let Err(error) = sqlx::query(SEND).bind(&notices).execute(&mut *connection).await {
                unsent(orders, PostgresError::from(error))?;
            }
        }
        Ok(read) => return Ok(read.map(|(position, _, _): (String, bool, Option<i64>)| position)),
        Err(error) => unsent(orders, error)?,
    }
    super::fence::position_to_record(connection, epoch).await
}

/// Postgres cannot send notices, such as for a full queue of notices: no reason to record nothing.
fn unsent(orders: &[OrderId], error: PostgresError) -> Result<(), PostgresError> {
    match error {
        PostgresError::Row(why) | PostgresError::Statement(why) => {
            tracing::debug!("no notice of {} recorded orders: {why}", orders.len());
            Ok(())
        }
        error @ PostgresError::Transient(_) => Err(error),
    }
}

fn encode(orders: &[OrderId]) -> String {
    let bytes: Vec<u8> = orders.iter().flat_map(|order| *order.0.as_bytes()).collect();
    STANDARD_NO_PAD.encode(bytes)
}

/// Another program may send anything.
fn decode(notice: &str) -> Vec<OrderId> {
    let bytes = STANDARD_NO_PAD.decode(notice).unwrap_or_default();
    let (orders, _) = bytes.as_chunks::<ORDER_BYTES>();
    orders.iter().map(|order| OrderId(Uuid::from_bytes(*order))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_shorter_than_the_limit_of_postgres_and_names_its_orders() {
        let orders: Vec<OrderId> = (0..config::NOTICE_MAX_ORDERS).map(|_| OrderId::mint()).collect();
        let notice = encode(&orders);
        assert!(notice.len() < 8_000, "{}", notice.len());
        assert_eq!(decode(&notice), orders);
        for foreign in ["", "hello, world", "AAAA"] {
            assert_eq!(decode(foreign), []);
        }
    }
}
