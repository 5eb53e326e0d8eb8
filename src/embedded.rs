//! The program's own Redis and Postgres: it finds them on the machine, runs them on Unix sockets in the data directory,
//! restarts them when they end, and stops them cleanly. `app` decides when they stop, and other modules what they
//! store.

mod failure;
mod layout;
mod log_file;
mod postgres;
mod process;
mod programs;
mod redis;
mod scratch;
mod sockets;
mod starting;
mod stopping;
mod store;
mod supervise;
mod user;

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{self, StoreAddresses};
use crate::data_dir::{DataDir, DataDirLock};
use crate::disk;
use crate::tasks::Tasks;
use layout::{POSTGRES_FOLDER, POSTGRES_LOG, REDIS_FOLDER, REDIS_LOG};
use postgres::Postgres;
use programs::Programs;
pub use programs::pgbench;
use redis::Redis;
pub use scratch::commands_of_rdb;
use sockets::Sockets;
use supervise::Supervisor;
use user::{StoreFolder, StoreUser};

/// The processes of stores that a program leaves running for another; `None` for one that does not run now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftRunning {
    pub redis: Option<i32>,
    pub postgres: Option<i32>,
}

/// Both running stores. Dropping this value requests their stop, without waiting for it.
pub struct Embedded {
    addresses: StoreAddresses,
    redis: Supervisor,
    postgres: Supervisor,
    sockets: Sockets,
    // The last field, so that it is dropped last.
    lock: DataDirLock,
}

impl Embedded {
    /// Starts both stores in `dir` and returns when both are ready.
    ///
    /// # Errors
    /// When another process runs stores there, a program is not installed, or a store does not start.
    pub async fn start(dir: &DataDir) -> Result<Self> {
        let started = Self::start_unless_stopped(dir, &CancellationToken::new(), &Tasks::default()).await?;
        started.context("the start of the stores was stopped")
    }

    /// As [`start`](Self::start), with the supervisors in `tasks`; `None` when `stop` comes before both stores are
    /// ready. Then, and after an error, no process of a store is left.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn start_unless_stopped(
        dir: &DataDir,
        stop: &CancellationToken,
        tasks: &Tasks,
    ) -> Result<Option<Self>> {
        let Some(lock) = stop.run_until_cancelled(wait_for_lock(dir)).await else { return Ok(None) };
        let lock = lock?;
        let (redis, postgres, sockets) = prepare(dir, false)?;
        // A store that fails stops the start of the other.
        let both = stop.child_token();
        let (redis, postgres) = tokio::join!(
            async { Supervisor::start(redis, &both, tasks).await.inspect_err(|_| both.cancel()) },
            async {
                let initialised =
                    postgres.initialise(&both).await.context("Postgres could not be initialised");
                let started = match initialised {
                    Ok(()) => Supervisor::start(postgres, &both, tasks).await,
                    Err(error) => Err(error),
                };
                started.inspect_err(|_| both.cancel())
            }
        );
        match (redis, postgres) {
            (Ok(Some(redis)), Ok(Some(postgres))) => {
                Ok(Some(Self { addresses: sockets.addresses(), redis, postgres, sockets, lock }))
            }
            (redis, postgres) => {
                let by = Instant::now() + config::STORES_STOP_TIMEOUT;
                let stopped = tokio::join!(stop_started(redis, by), stop_started(postgres, by));
                sockets.remove();
                join_errors(stopped).map(|()| None)
            }
        }
    }

    /// Supervises the stores that another program has left running; starts those that do not run. `None` if that program
    /// has ended without leaving them.
    ///
    /// # Errors
    /// When a program is not installed, or a folder cannot be used.
    pub fn adopt(dir: &DataDir, lock: DataDirLock, left: Option<LeftRunning>, tasks: &Tasks) -> Result<Self> {
        // Its sockets' folder may be gone with it.
        let (redis, postgres, sockets) = prepare(dir, left.is_some())?;
        let left = left.unwrap_or_default();
        let redis = Supervisor::adopt(redis, left.redis, tasks);
        let postgres = Supervisor::adopt(postgres, left.postgres, tasks);
        Ok(Self { addresses: sockets.addresses(), redis, postgres, sockets, lock })
    }

    /// Leaves both stores running for another program, which has a copy of the lock.
    ///
    /// # Errors
    /// When a store's task has failed; then that store stops.
    pub async fn leave(self) -> Result<(LeftRunning, DataDirLock)> {
        let (redis, postgres) = tokio::join!(self.redis.leave(), self.postgres.leave());
        let left = LeftRunning { redis: redis?.map(Pid::as_raw), postgres: postgres?.map(Pid::as_raw) };
        Ok((left, self.lock))
    }

    /// A copy of the lock's descriptor, for another program.
    ///
    /// # Errors
    /// When no more files may be open.
    pub fn lock_descriptor(&self) -> std::io::Result<OwnedFd> {
        self.lock.descriptor()
    }

    /// The addresses of these stores.
    pub fn addresses(&self) -> StoreAddresses {
        self.addresses.clone()
    }

    /// The addresses of the stores that another process runs in `data_dir`, ready or not.
    ///
    /// # Errors
    /// When no process runs stores there, or the directory belongs to another user.
    pub fn locate(data_dir: &Path) -> Result<StoreAddresses> {
        let path = data_dir.canonicalize().map_err(|_| no_stores_in(data_dir))?;
        if !DataDirLock::is_held(&path)? {
            return Err(no_stores_in(data_dir));
        }
        Ok(Sockets::locate(&path)?.addresses())
    }

    /// As [`locate`](Self::locate), but first waits up to `STORE_JOIN_TIMEOUT` until both stores are ready.
    ///
    /// # Errors
    /// When no process runs stores there, the directory belongs to another user, or the stores do not become ready.
    pub async fn join(data_dir: &Path) -> Result<StoreAddresses> {
        let path = data_dir.canonicalize().map_err(|_| no_stores_in(data_dir))?;
        // The lock is held before the stores are ready.
        match timeout(config::STORE_JOIN_TIMEOUT, wait_until_ready(&path)).await {
            Ok(found) => found?.map(|sockets| sockets.addresses()).ok_or_else(|| no_stores_in(data_dir)),
            Err(_) => bail!(
                "the stores in {} do not answer: {}see {}/{} and {}/{} there",
                path.display(),
                disk::shortage(&path).map(|shortage| format!("{shortage}; ")).unwrap_or_default(),
                REDIS_FOLDER,
                REDIS_LOG,
                POSTGRES_FOLDER,
                POSTGRES_LOG
            ),
        }
    }

    /// Stops both stores at the same time, within `STORES_STOP_TIMEOUT`, and waits until all their processes have
    /// ended.
    ///
    /// # Errors
    /// When a store did not stop cleanly; acknowledged writes are on disk anyway.
    pub async fn stop(self) -> Result<()> {
        self.stop_by(Instant::now() + config::STORES_STOP_TIMEOUT).await
    }

    /// As [`stop`](Self::stop), but within a deadline; sends stronger signals before the deadline.
    ///
    /// # Errors
    /// As for [`stop`](Self::stop).
    pub async fn stop_by(self, deadline: Instant) -> Result<()> {
        let Self { redis, postgres, sockets, lock: _lock, .. } = self;
        let stopped = tokio::join!(redis.stop_by(deadline), postgres.stop_by(deadline));
        sockets.remove();
        join_errors(stopped)
    }
}

/// The folders and programs of both stores; starts nothing.
fn prepare(dir: &DataDir, are_running: bool) -> Result<(Redis, Postgres, Sockets)> {
    let programs = Programs::find(postgres::cluster_version(dir.path())?)?;
    let redis_folder = StoreFolder::prepare(dir.path().join(REDIS_FOLDER), StoreUser::for_redis()?)?;
    let postgres_folder = StoreFolder::prepare(dir.path().join(POSTGRES_FOLDER), StoreUser::for_postgres()?)?;
    let sockets = if are_running {
        Sockets::locate(dir.path())
    } else {
        Sockets::choose(dir.path(), &redis_folder, &postgres_folder)
    }?;
    let redis = Redis::new(programs.redis_server.clone(), redis_folder, sockets.redis.clone());
    let name = format!("seckill-{:016x}", sockets::path_hash(dir.path()));
    let postgres = Postgres::new(&programs, postgres_folder, sockets.postgres_dir.clone(), name);
    Ok((redis, postgres, sockets))
}

/// Stops the store if it was started; otherwise returns the error of its start.
async fn stop_started(started: Result<Option<Supervisor>>, deadline: Instant) -> Result<()> {
    match started? {
        Some(store) => store.stop_by(deadline).await,
        None => Ok(()),
    }
}

fn join_errors((redis, postgres): (Result<()>, Result<()>)) -> Result<()> {
    match (redis, postgres) {
        (Err(redis), Err(postgres)) => Err(anyhow!("{redis:#}; {postgres:#}")),
        (redis, postgres) => redis.and(postgres),
    }
}

fn no_stores_in(data_dir: &Path) -> anyhow::Error {
    anyhow!(
        "no stores are running in {}: start `seckill serve` there, or set SECKILL_DATA_DIR, \
         or REDIS_URL and DATABASE_URL",
        data_dir.display()
    )
}

/// The sockets of both stores once they are ready; `None` if no process runs stores.
async fn wait_until_ready(data_dir: &Path) -> Result<Option<Sockets>> {
    while DataDirLock::is_held(data_dir)? {
        let sockets = Sockets::locate(data_dir)?;
        if redis::is_ready(&sockets.redis).await?
            && postgres::readiness::is_ready(&sockets.postgres()).await?
        {
            return Ok(Some(sockets));
        }
        sleep(config::STORE_JOIN_POLL).await;
    }
    Ok(None)
}

/// Waits for the lock: a program that was just killed, or another process's `join`, may still hold it for a moment.
async fn wait_for_lock(dir: &DataDir) -> Result<DataDirLock> {
    let deadline = Instant::now() + config::DATA_DIR_LOCK_TIMEOUT;
    loop {
        match dir.lock() {
            Err(_) if Instant::now() < deadline => sleep(config::STORE_POLL).await,
            outcome => return outcome,
        }
    }
}
