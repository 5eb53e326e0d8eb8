//! The connections for transactions outside the pool. All partitions of the process share them: a caller borrows one for
//! one transaction and gives it back after a success. A connection that is dropped instead is closed, because a failed
//! transaction may hold locks.

use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Error};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{PostgresError, connect_with};
use crate::config;
use crate::domain::Partition;

/// A cheap handle.
#[derive(Clone)]
pub struct WorkConnections(Arc<Shared>);

struct Shared {
    options: PgConnectOptions,
    max: usize,
    /// Waits are answered in the order in which they began.
    permits: Arc<Semaphore>,
    /// A partition whose transactions wait for locks leaves connections to the others.
    of_each_partition: Mutex<HashMap<Partition, Arc<Semaphore>>>,
    /// At most as many as there are permits left: a connection is opened only while there is none. The last one was
    /// used last.
    idle: Mutex<Vec<Open>>,
}

struct Open {
    connection: PgConnection,
    /// The partitions whose recorded WAL position was compared with this connection's server.
    checked: HashSet<Partition>,
    /// Another connection has failed since this one was used.
    is_suspect: bool,
    used_at: Instant,
}

impl Open {
    /// Whether it probably answers. Without a check, a transaction on a server that hangs would wait for its own timeout,
    /// which is much longer than that of a connect.
    fn is_trusted(&self) -> bool {
        !self.is_suspect && self.used_at.elapsed() < config::POSTGRES_WORK_MAX_IDLE
    }
}

/// A borrowed connection. Closed when it is dropped.
pub struct WorkConnection {
    // Dropped before the permits.
    open: Open,
    loan: Loan,
}

struct Loan {
    partition: Partition,
    is_reused: bool,
    is_returned: bool,
    home: Arc<Shared>,
    _permits: Permits,
}

type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl WorkConnections {
    /// Opens no connection.
    pub(super) fn new(options: PgConnectOptions, max: usize) -> Self {
        Self(Arc::new(Shared {
            options,
            max,
            permits: Arc::new(Semaphore::new(max)),
            of_each_partition: Mutex::default(),
            idle: Mutex::default(),
        }))
    }

    /// Borrows an idle connection, or opens one.
    ///
    /// # Errors
    /// If none is free within `POSTGRES_WORK_TIMEOUT`, or Postgres cannot be reached.
    pub async fn borrow(&self, partition: Partition) -> Result<WorkConnection, PostgresError> {
        let permits = self.wait_for_permits(partition).await?;
        while let Some(mut open) = self.take_idle(partition) {
            if !open.is_trusted() && !answers(&mut open.connection).await {
                continue;
            }
            open.is_suspect = false;
            return Ok(self.lend(partition, open, true, permits));
        }
        let open = Open {
            connection: connect_with(&self.0.options).await?,
            checked: HashSet::new(),
            is_suspect: false,
            used_at: Instant::now(),
        };
        Ok(self.lend(partition, open, false, permits))
    }

    /// Borrows an idle connection that is checked for the partition, if there is one. Does not wait.
    #[must_use]
    pub fn borrow_checked(&self, partition: Partition) -> Option<WorkConnection> {
        let own = self.of(partition).try_acquire_owned().ok()?;
        let permits = (own, self.0.permits.clone().try_acquire_owned().ok()?);
        let mut idle = self.0.idle();
        let at = idle.iter().rposition(|open| open.is_trusted() && open.checked.contains(&partition))?;
        let open = idle.remove(at);
        Some(self.lend(partition, open, true, permits))
    }

    /// Closes the idle connections.
    pub(super) fn renew(&self) {
        let idle = std::mem::take(&mut *self.0.idle());
        drop(idle);
    }

    /// Opens a connection and closes it: its error says why Postgres does not serve.
    ///
    /// # Errors
    /// As [`borrow`](Self::borrow).
    pub async fn try_connecting(&self, partition: Partition) -> Result<(), PostgresError> {
        let permits = self.wait_for_permits(partition).await?;
        drop(self.take_idle(partition));
        drop(connect_with(&self.0.options).await?);
        drop(permits);
        Ok(())
    }

    async fn wait_for_permits(&self, partition: Partition) -> Result<Permits, PostgresError> {
        let acquiring = async {
            let own = self.of(partition).acquire_owned().await?;
            Ok((own, self.0.permits.clone().acquire_owned().await?))
        };
        let acquired = tokio::time::timeout(config::POSTGRES_WORK_TIMEOUT, acquiring).await;
        let all_busy = || {
            let max = self.0.max;
            PostgresError::Transient(format!(
                "the {max} connections for work are busy (SECKILL_POSTGRES_CONNECTIONS)"
            ))
        };
        let acquired = acquired.map_err(|_| all_busy())?;
        acquired.map_err(|_: tokio::sync::AcquireError| Error::PoolClosed.into())
    }

    /// The one that was used last, if possible one that is checked for the partition.
    fn take_idle(&self, partition: Partition) -> Option<Open> {
        let mut idle = self.0.idle();
        let at = idle.iter().rposition(|open| open.checked.contains(&partition));
        match at {
            Some(at) => Some(idle.remove(at)),
            None => idle.pop(),
        }
    }

    fn of(&self, partition: Partition) -> Arc<Semaphore> {
        let most = (self.0.max * config::POSTGRES_WORK_PARTITION_PERCENT / 100).max(1);
        let mut all = self.0.of_each_partition.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(partition).or_insert_with(|| Arc::new(Semaphore::new(most))).clone()
    }

    fn lend(&self, partition: Partition, open: Open, is_reused: bool, permits: Permits) -> WorkConnection {
        let loan = Loan { partition, is_reused, is_returned: false, home: self.0.clone(), _permits: permits };
        WorkConnection { open, loan }
    }
}

async fn answers(connection: &mut PgConnection) -> bool {
    let ping = tokio::time::timeout(config::POSTGRES_CONNECT_TIMEOUT, connection.ping()).await;
    matches!(ping, Ok(Ok(())))
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Open>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkConnection {
    /// After a success only: no transaction may be open.
    pub fn give_back(self) {
        let Self { mut open, mut loan } = self;
        open.used_at = Instant::now();
        loan.is_returned = true;
        loan.home.idle().push(open);
        // After the connection is back: the next one that gets them finds it.
        drop(loan);
    }

    /// Sends the rollback of a failed transaction, which would otherwise wait for the next statement.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn settle(&mut self) -> Result<(), PostgresError> {
        Ok(self.open.connection.ping().await?)
    }

    /// Whether an earlier caller has used the connection: it may have broken since.
    #[must_use]
    pub const fn is_reused(&self) -> bool {
        self.loan.is_reused
    }

    /// Whether the recorded WAL position of its partition was compared with its server.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.open.checked.contains(&self.loan.partition)
    }

    pub fn set_checked(&mut self) {
        self.open.checked.insert(self.loan.partition);
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if !self.is_returned {
            // What broke this connection, such as a restart of Postgres, may have broken the idle ones too.
            self.home.idle().iter_mut().for_each(|open| open.is_suspect = true);
        }
    }
}

impl Deref for WorkConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.open.connection
    }
}

impl DerefMut for WorkConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.open.connection
    }
}
