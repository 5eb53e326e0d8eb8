//! The statements of a rebuild. All of them run on the session that has the rebuild's lock: if the session ends, the
//! rebuild fails.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt;
use sqlx::{Connection, PgConnection, PgTransaction, Row};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::audit::{self, AuditEntry};
use super::dead_letters::{self, Letter, LetterOutcome};
use super::{Postgres, PostgresError, coupons, fence, orders, waitlist};
use crate::config;
use crate::domain::{
    CouponId, Definition, Epoch, IdempotencyKey, OrderEvent, OrderId, Origin, Partition, WaitingUser,
};
pub use coupons::LockedCoupon;
use waitlist::UnservedRow;

/// The session of the process that rebuilds.
pub struct RebuildSession {
    connection: PgConnection,
    partition: Partition,
    _permit: OwnedSemaphorePermit,
}

impl RebuildSession {
    /// Opens the session and takes the partition's lock; `None` if another process rebuilds the partition, or this one
    /// rebuilds another partition for long.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn open(postgres: &Postgres, partition: Partition) -> Result<Option<Self>, PostgresError> {
        let turn = postgres.rebuilds.clone().acquire_owned();
        let Ok(Ok(permit)) = tokio::time::timeout(config::REBUILD_TURN_TIMEOUT, turn).await else {
            return Ok(None);
        };
        let mut connection = postgres.dedicated().await?;
        let lock = config::REBUILD_LOCK_TIMEOUT.as_millis();
        // A rebuild of a million claims takes longer than any other work, and reads Redis during a transaction.
        // Sequential scans are allowed: the session is new, so its plans fit the tables' present sizes.
        let settings = format!(
            "set statement_timeout = '60s'; set lock_timeout = '{lock}ms'; \
             set idle_in_transaction_session_timeout = '60s'; set enable_seqscan = on"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(&mut connection).await?;
        Ok(fence::try_lock_rebuild(&mut connection, partition).await?.then_some(Self {
            connection,
            partition,
            _permit: permit,
        }))
    }

    /// The fence row.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn row(&mut self) -> Result<fence::FenceRow, PostgresError> {
        fence::read_in(&mut self.connection, self.partition).await
    }

    /// The version of every coupon of the partition.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn versions(&mut self) -> Result<HashMap<CouponId, i64>, PostgresError> {
        coupons::versions(&mut self.connection, self.partition).await
    }

    /// A position that covers every commit so far; `None` if this is not the Postgres of the epoch.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn position_to_record(&mut self, epoch: &Epoch) -> Result<Option<String>, PostgresError> {
        fence::position_to_record(&mut self.connection, epoch).await
    }

    /// Records that the stores have agreed in this epoch, on the Postgres that the row names.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn record_last_agreement(&mut self, epoch: &Epoch) -> Result<(), PostgresError> {
        fence::record_last_agreement(&mut self.connection, epoch).await
    }

    /// The session, for reads before the rebuild begins.
    pub const fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Records that this Postgres has lost commits, so that other processes know it too.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn flag_postgres_loss(&mut self) -> Result<(), PostgresError> {
        fence::flag_postgres_loss(&mut self.connection, self.partition).await
    }

    /// Records the end of the rebuild; see [`fence::record_agreement`].
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn record_agreement(
        &mut self,
        epoch: &Epoch,
        redis_run_id: &str,
        redis_replid: &str,
    ) -> Result<(), PostgresError> {
        fence::record_agreement(&mut self.connection, epoch, redis_run_id, redis_replid).await
    }

    /// Waits for every open transaction that writes orders, then starts a new epoch. If an operator has ordered the
    /// rebuild, writes `ordered` into the audit log.
    ///
    /// # Errors
    /// If Postgres cannot serve, or a transaction is open for longer than `REBUILD_LOCK_TIMEOUT`.
    pub async fn start_epoch(
        &mut self,
        epoch: &Epoch,
        redis_run_id: &str,
        redis_replid: &str,
        postgres_lost: bool,
        ordered: Option<&AuditEntry<'_>>,
    ) -> Result<(), PostgresError> {
        let mut transaction = self.connection.begin().await?;
        fence::lock_exclusive(&mut transaction, epoch.partition).await?;
        fence::write_epoch(&mut transaction, epoch, redis_run_id, redis_replid, postgres_lost).await?;
        if let Some(entry) = ordered {
            audit::record(&mut transaction, entry).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Begins the transaction in which the rebuild decides which order keeps its unit.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn decide(&mut self) -> Result<Decision<'_>, PostgresError> {
        let mut transaction = self.connection.begin().await?;
        fence::lock_shared(&mut transaction, self.partition).await?;
        Ok(Decision { transaction, partition: self.partition })
    }

    /// Records that Redis has these definitions.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn mark_published(
        &mut self,
        epoch: &Epoch,
        definitions: &[Definition],
    ) -> Result<(), PostgresError> {
        for chunk in definitions.chunks(config::REBUILD_CHUNK_FIELDS) {
            let ids: Vec<&str> = chunk.iter().map(|d| d.id.as_str()).collect();
            let versions: Vec<i64> = chunk.iter().map(|d| d.version).collect();
            coupons::mark_published(&mut self.connection, epoch, ids, versions).await?;
        }
        Ok(())
    }

    /// Ends the session, which releases the lock.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn close(self) -> Result<(), PostgresError> {
        let Self { connection, _permit: permit, .. } = self;
        connection.close().await?;
        drop(permit);
        Ok(())
    }
}

/// The transaction of the rebuild's decisions, under the fence's shared lock. Without `commit` it is rolled back. Each
/// method fails if Postgres cannot serve.
pub struct Decision<'c> {
    transaction: PgTransaction<'c>,
    partition: Partition,
}

impl Decision<'_> {
    /// All definitions of the partition, ordered by coupon id.
    pub async fn definitions(&mut self) -> Result<Vec<Definition>, PostgresError> {
        coupons::all_definitions(&mut self.transaction, self.partition).await
    }

    /// Calls `visit` with user, slot, id and Idempotency-Key of each live order of the coupon, at most one for each slot.
    pub async fn visit_live_orders(
        &mut self,
        coupon: &CouponId,
        mut visit: impl FnMut(&str, i16, OrderId, Option<IdempotencyKey>),
    ) -> Result<(), PostgresError> {
        // Row by row: a million rows in memory are several times larger than the values that the caller keeps.
        let mut rows = sqlx::query(
            "select user_id, slot::smallint, id, idempotency_key from orders
             where coupon_id = $1 and status in ('reserved', 'confirmed')",
        )
        .bind(coupon.as_str())
        .fetch(&mut *self.transaction);
        while let Some(row) = rows.try_next().await? {
            visit(row.try_get(0)?, row.try_get(1)?, OrderId(row.try_get(2)?), orders::read_key(&row)?);
        }
        Ok(())
    }

    /// Those of the given orders that have a row, live or ended.
    pub async fn recorded(&mut self, orders: &[OrderId]) -> Result<HashSet<OrderId>, PostgresError> {
        let mut found = HashSet::new();
        for chunk in orders.chunks(10 * config::REBUILD_CHUNK_FIELDS) {
            let ids: Vec<Uuid> = chunk.iter().map(|order| order.0).collect();
            let rows: Vec<Uuid> = sqlx::query_scalar("select id from orders where id = any($1)")
                .bind(ids)
                .fetch_all(&mut *self.transaction)
                .await?;
            found.extend(rows.into_iter().map(OrderId));
        }
        Ok(found)
    }

    /// Cancels live orders that Redis does not hold, and returns their units to Postgres's stock.
    pub async fn cancel(&mut self, coupon: &CouponId, orders: &[OrderId]) -> Result<(), PostgresError> {
        let ids: Vec<Uuid> = orders.iter().map(|order| order.0).collect();
        let cancelled = sqlx::query(
            "update orders set status = 'cancelled', ended_at = clock_timestamp(),
                reason = 'Postgres had lost the end of this order'
             where id = any($1) and status in ('reserved', 'confirmed')",
        )
        .bind(ids)
        .execute(&mut *self.transaction)
        .await?;
        let units = i64::try_from(cancelled.rows_affected()).unwrap_or(i64::MAX);
        sqlx::query("update coupons set stock = stock + $2, returned = returned + $2, has_ended_orders = true, changed_at = clock_timestamp() where id = $1")
            .bind(coupon.as_str())
            .bind(units)
            .execute(&mut *self.transaction)
            .await?;
        Ok(())
    }

    /// Restarts the time to pay of every reserved order of the partition, and returns the number of orders.
    pub async fn restart_deadlines(&mut self) -> Result<u64, PostgresError> {
        let restarted = sqlx::query(
            "update orders o set reserved_until = clock_timestamp() + make_interval(secs => c.reserve_seconds)
             from coupons c
             where c.id = o.coupon_id and o.partition = $1 and o.status = 'reserved' and c.reserve_seconds is not null",
        )
        .bind(self.partition.number())
        .execute(&mut *self.transaction)
        .await?;
        Ok(restarted.rows_affected())
    }

    /// The rows of a waiting list that were not served, in the order of joining.
    pub async fn unserved(&mut self, coupon: &CouponId) -> Result<Vec<UnservedRow>, PostgresError> {
        waitlist::unserved(&mut self.transaction, coupon).await
    }

    /// Sets the rows of a waiting list that were not served to these users.
    pub async fn replace_unserved(
        &mut self,
        coupon: &CouponId,
        users: &[WaitingUser],
    ) -> Result<(), PostgresError> {
        waitlist::replace_unserved(&mut self.transaction, coupon, users).await
    }

    /// Inserts a coupon that only Redis has, and returns its total. The orders that Redis holds are recorded later.
    pub async fn adopt(&mut self, definition: &Definition, origin: &Origin) -> Result<i64, PostgresError> {
        coupons::adopt(&mut self.transaction, definition, self.partition, origin).await
    }

    /// Locks a coupon's row and reads its live units and published version.
    pub async fn lock_coupon(&mut self, coupon: &CouponId) -> Result<LockedCoupon, PostgresError> {
        coupons::lock(&mut self.transaction, coupon).await
    }

    /// Replaces the definition if the row still has this version, and writes `entry` into the audit log; else `false`.
    pub async fn redefine(
        &mut self,
        version: i64,
        to: &Definition,
        entry: Option<&AuditEntry<'_>>,
    ) -> Result<bool, PostgresError> {
        if let Some(entry) = entry {
            audit::record(&mut self.transaction, entry).await?;
        }
        coupons::redefine(&mut self.transaction, version, to).await
    }

    /// Rejects a claim or event because another order of its user keeps the unit.
    pub async fn reject(
        &mut self,
        epoch: &Epoch,
        event: &OrderEvent,
        letter: &Letter<'_>,
    ) -> Result<LetterOutcome, PostgresError> {
        dead_letters::reject_in(&mut self.transaction, epoch, event, letter, true).await
    }

    /// Commits all decisions.
    pub async fn commit(self) -> Result<(), PostgresError> {
        Ok(self.transaction.commit().await?)
    }
}
