//! What a rebuild does to Postgres, all of it on the one session that holds the rebuild's lock: if that
//! session dies, so does the rebuild.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt;
use sqlx::{Connection, PgConnection, PgTransaction, Row};
use uuid::Uuid;

use super::dead_letters::{self, Ended, Letter};
use super::{Postgres, PostgresError, coupons, fence};
use crate::config;
use crate::domain::{CouponId, Definition, OrderEvent, OrderId};
pub use coupons::Standing;

/// The session of the process that rebuilds.
pub struct RebuildSession {
    connection: PgConnection,
}

impl RebuildSession {
    /// Opens the session and takes the lock; `None` where another process rebuilds.
    pub async fn open(postgres: &Postgres) -> Result<Option<Self>, PostgresError> {
        let mut connection = postgres.dedicated().await?;
        let lock = config::REBUILD_LOCK_TIMEOUT.as_millis();
        // A rebuild of a million claims is longer than any other work, and reads Redis in between. Its session is new
        // and plans for what is there.
        let settings = format!(
            "set statement_timeout = '60s'; set lock_timeout = '{lock}ms'; \
             set idle_in_transaction_session_timeout = '60s'; set enable_seqscan = on"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(&mut connection).await?;
        Ok(fence::try_lock_rebuild(&mut connection).await?.then_some(Self { connection }))
    }

    pub async fn row(&mut self) -> Result<fence::FenceRow, PostgresError> {
        fence::read_in(&mut self.connection).await
    }

    pub async fn versions(&mut self) -> Result<HashMap<CouponId, i64>, PostgresError> {
        coupons::versions(&mut self.connection).await
    }

    pub async fn durable_lsn(&mut self) -> Result<String, PostgresError> {
        fence::durable_lsn(&mut self.connection).await
    }

    /// Keeps the knowledge that this Postgres has lost commits, whichever process dies.
    pub async fn flag_lost(&mut self) -> Result<(), PostgresError> {
        fence::flag_lost(&mut self.connection).await
    }

    pub async fn settle(
        &mut self,
        epoch: &str,
        redis_run_id: &str,
        redis_replid: &str,
    ) -> Result<(), PostgresError> {
        fence::settle(&mut self.connection, epoch, redis_run_id, redis_replid).await
    }

    /// Waits out every transaction that records or rejects, then starts a new epoch.
    pub async fn start_epoch(
        &mut self,
        epoch: &str,
        redis_run_id: &str,
        redis_replid: &str,
        postgres_lost: bool,
    ) -> Result<(), PostgresError> {
        let mut transaction = self.connection.begin().await?;
        fence::lock_exclusive(&mut transaction).await?;
        fence::write_epoch(&mut transaction, epoch, redis_run_id, redis_replid, postgres_lost).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The transaction in which the rebuild decides who keeps what.
    pub async fn decide(&mut self) -> Result<Decision<'_>, PostgresError> {
        let mut transaction = self.connection.begin().await?;
        fence::lock_shared(&mut transaction).await?;
        Ok(Decision { transaction })
    }

    pub async fn mark_published(
        &mut self,
        epoch: &str,
        definitions: &[Definition],
    ) -> Result<(), PostgresError> {
        for chunk in definitions.chunks(config::REBUILD_CHUNK_FIELDS) {
            let ids: Vec<&str> = chunk.iter().map(|d| d.id.as_str()).collect();
            let versions: Vec<i64> = chunk.iter().map(|d| d.version).collect();
            coupons::mark_published(&mut self.connection, epoch, ids, versions).await?;
        }
        Ok(())
    }

    /// Gives the lock back.
    pub async fn close(self) -> Result<(), PostgresError> {
        Ok(self.connection.close().await?)
    }
}

pub struct Decision<'c> {
    transaction: PgTransaction<'c>,
}

impl Decision<'_> {
    pub async fn definitions(&mut self) -> Result<Vec<Definition>, PostgresError> {
        coupons::all_definitions(&mut self.transaction).await
    }

    /// Shows the coupon's live orders, at most one of each user.
    pub async fn visit_live_orders(
        &mut self,
        coupon: &CouponId,
        mut visit: impl FnMut(&str, OrderId),
    ) -> Result<(), PostgresError> {
        // One by one: a million rows at once would be several times as large as what is kept of them.
        let mut rows = sqlx::query(
            "select user_id, id from orders
             where coupon_id = $1 and slot = 1 and status in ('reserved', 'confirmed')",
        )
        .bind(coupon.as_str())
        .fetch(&mut *self.transaction);
        while let Some(row) = rows.try_next().await? {
            visit(row.try_get(0)?, OrderId(row.try_get(1)?));
        }
        Ok(())
    }

    /// Those of the given orders that have a row, dead or alive.
    pub async fn with_row(&mut self, orders: &[OrderId]) -> Result<HashSet<OrderId>, PostgresError> {
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

    /// Cancels live orders that Redis does not hold, and gives their units back to Postgres's stock.
    pub async fn cancel(&mut self, coupon: &CouponId, orders: &[OrderId]) -> Result<(), PostgresError> {
        let ids: Vec<Uuid> = orders.iter().map(|order| order.0).collect();
        let cancelled = sqlx::query(
            "update orders set status = 'cancelled' where id = any($1) and status in ('reserved', 'confirmed')",
        )
        .bind(ids)
        .execute(&mut *self.transaction)
        .await?;
        let units = i64::try_from(cancelled.rows_affected()).unwrap_or(i64::MAX);
        sqlx::query("update coupons set stock = stock + $2 where id = $1")
            .bind(coupon.as_str())
            .bind(units)
            .execute(&mut *self.transaction)
            .await?;
        Ok(())
    }

    /// Takes over a coupon that only Redis still knows, with what is live of it: the orders that Redis holds follow.
    pub async fn adopt(&mut self, definition: &Definition) -> Result<i64, PostgresError> {
        coupons::adopt(&mut self.transaction, definition).await
    }

    /// What is live of a coupon, and the version that Redis is known to have had.
    pub async fn standing(&mut self, coupon: &CouponId) -> Result<Standing, PostgresError> {
        coupons::standing(&mut self.transaction, coupon).await
    }

    /// Replaces a definition of this version; `false` where it has another version by now.
    pub async fn redefine(&mut self, version: i64, to: &Definition) -> Result<bool, PostgresError> {
        coupons::redefine(&mut self.transaction, version, to).await
    }

    /// Ends a claim or event that loses to another order of its user.
    pub async fn reject(
        &mut self,
        epoch: &str,
        event: &OrderEvent,
        letter: &Letter<'_>,
    ) -> Result<Ended, PostgresError> {
        dead_letters::reject_in(&mut self.transaction, epoch, event, letter, true).await
    }

    pub async fn commit(self) -> Result<(), PostgresError> {
        Ok(self.transaction.commit().await?)
    }
}
