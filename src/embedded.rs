//! The program's own Redis and Postgres: found on the machine, run on Unix sockets inside the data
//! directory, restarted when they die, stopped cleanly. What is stored in them, and in which order
//! they stop beside the rest of the program, is not decided here.

mod account;
mod log_file;
mod postgres;
mod programs;
mod redis;
mod sockets;
mod supervise;
mod takeover;

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{self, StoreAddresses};
use crate::data_dir::{DataDir, DataDirLock};
use crate::disk;
use crate::tasks::Tasks;
use account::{Account, StoreFolder};
use postgres::Postgres;
use programs::Programs;
pub use programs::pgbench;
use redis::Redis;
use sockets::Sockets;
use supervise::Supervised;

/// Both stores, running. Dropping it asks them to stop, without waiting for it.
pub struct Embedded {
    addresses: StoreAddresses,
    redis: Supervised,
    postgres: Supervised,
    sockets: Sockets,
    // Last, so that it is dropped last.
    _lock: DataDirLock,
}

impl Embedded {
    /// Starts both stores in `dir` and returns when both answer.
    ///
    /// # Errors
    /// When another process runs stores there, a program is not installed, or a store does not start.
    pub async fn start(dir: &DataDir) -> Result<Self> {
        let started = Self::start_unless(dir, &CancellationToken::new(), &Tasks::default()).await?;
        started.context("nothing stopped the stores' start")
    }

    /// The same, its tasks among these; `None` when told to stop before both answer. Then, and after an error, no
    /// process is left.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn start_unless(
        dir: &DataDir,
        stop: &CancellationToken,
        tasks: &Tasks,
    ) -> Result<Option<Self>> {
        let Some(lock) = stop.run_until_cancelled(lock_patiently(dir)).await else { return Ok(None) };
        let lock = lock?;
        let programs = Programs::find(postgres::version_in_use(dir.path())?)?;
        let redis_folder = StoreFolder::prepare(dir.path().join(redis::FOLDER), Account::for_redis()?)?;
        let postgres_folder =
            StoreFolder::prepare(dir.path().join(postgres::FOLDER), Account::for_postgres()?)?;
        let sockets = Sockets::choose(dir.path(), &redis_folder, &postgres_folder)?;

        let redis = Redis::new(programs.redis_server.clone(), redis_folder, sockets.redis.clone());
        let name = format!("seckill-{:016x}", sockets::path_hash(dir.path()));
        let postgres = Postgres::new(&programs, postgres_folder, sockets.postgres.clone(), name);
        // One that fails stops the other.
        let both = stop.child_token();
        let (redis, postgres) = tokio::join!(
            async { Supervised::start(redis, &both, tasks).await.inspect_err(|_| both.cancel()) },
            async {
                let initialised =
                    postgres.initialise(&both).await.context("Postgres could not be initialised");
                let started = match initialised {
                    Ok(()) => Supervised::start(postgres, &both, tasks).await,
                    Err(error) => Err(error),
                };
                started.inspect_err(|_| both.cancel())
            }
        );
        match (redis, postgres) {
            (Ok(Some(redis)), Ok(Some(postgres))) => {
                Ok(Some(Self { addresses: sockets.addresses(), redis, postgres, sockets, _lock: lock }))
            }
            (redis, postgres) => {
                let by = Instant::now() + config::STORES_STOP_TIMEOUT;
                let ended = tokio::join!(end(redis, by), end(postgres, by));
                sockets.remove();
                both_of(ended).map(|()| None)
            }
        }
    }

    pub fn addresses(&self) -> StoreAddresses {
        self.addresses.clone()
    }

    /// The addresses of the stores that another process runs in `data_dir`, whether they answer or not.
    ///
    /// # Errors
    /// When none runs there, or it belongs to another user.
    pub fn locate(data_dir: &Path) -> Result<StoreAddresses> {
        let path = data_dir.canonicalize().map_err(|_| none_runs(data_dir))?;
        if !DataDirLock::is_held(&path)? {
            return Err(none_runs(data_dir));
        }
        Ok(Sockets::locate(&path)?.addresses())
    }

    /// The addresses of the stores that another process runs in `data_dir`, once they answer.
    ///
    /// # Errors
    /// When none runs there, or it belongs to another user.
    pub async fn join(data_dir: &Path) -> Result<StoreAddresses> {
        let path = data_dir.canonicalize().map_err(|_| none_runs(data_dir))?;
        // The lock is held before the stores answer: wait for those that are only starting.
        match timeout(config::STORE_JOIN_TIMEOUT, running_in(&path)).await {
            Ok(found) => found?.map(|sockets| sockets.addresses()).ok_or_else(|| none_runs(data_dir)),
            Err(_) => bail!(
                "the stores in {} do not answer: {}see {}/{} and {}/{} there",
                path.display(),
                disk::shortage(&path).map(|shortage| format!("{shortage}; ")).unwrap_or_default(),
                redis::FOLDER,
                redis::LOG,
                postgres::FOLDER,
                postgres::LOG
            ),
        }
    }

    /// Stops both stores, at the same time, and waits until no process of theirs is left.
    ///
    /// # Errors
    /// When a store did not stop cleanly; what was acknowledged is safe all the same.
    pub async fn stop(self) -> Result<()> {
        self.stop_by(Instant::now() + config::STORES_STOP_TIMEOUT).await
    }

    /// The same, with signals that grow harsher as the deadline comes.
    ///
    /// # Errors
    /// As for [`stop`](Self::stop).
    pub async fn stop_by(self, deadline: Instant) -> Result<()> {
        let Self { redis, postgres, sockets, _lock, .. } = self;
        let ended = tokio::join!(redis.stop_by(deadline), postgres.stop_by(deadline));
        sockets.remove();
        both_of(ended)
    }
}

/// Stops what was started, or answers why it was not.
async fn end(started: Result<Option<Supervised>>, deadline: Instant) -> Result<()> {
    match started? {
        Some(store) => store.stop_by(deadline).await,
        None => Ok(()),
    }
}

fn both_of((redis, postgres): (Result<()>, Result<()>)) -> Result<()> {
    match (redis, postgres) {
        (Err(redis), Err(postgres)) => Err(anyhow!("{redis:#}; {postgres:#}")),
        (redis, postgres) => redis.and(postgres),
    }
}

fn none_runs(data_dir: &Path) -> anyhow::Error {
    anyhow!(
        "no stores are running in {}: start `seckill serve` there, or set SECKILL_DATA_DIR, \
         or REDIS_URL and DATABASE_URL",
        data_dir.display()
    )
}

/// The sockets of stores that answer, once they do; `None` when no program runs there.
async fn running_in(data_dir: &Path) -> Result<Option<Sockets>> {
    while DataDirLock::is_held(data_dir)? {
        let sockets = Sockets::locate(data_dir)?;
        if redis::is_ready(&sockets.redis).await? && postgres::is_ready(&sockets.postgres).await? {
            return Ok(Some(sockets));
        }
        sleep(config::STORE_JOIN_POLL).await;
    }
    Ok(None)
}

/// A program that was just killed, or a passing `join`, may hold the lock for a moment longer.
async fn lock_patiently(dir: &DataDir) -> Result<DataDirLock> {
    let deadline = Instant::now() + config::DATA_DIR_LOCK_TIMEOUT;
    loop {
        match dir.lock() {
            Err(_) if Instant::now() < deadline => sleep(config::STORE_POLL).await,
            outcome => return outcome,
        }
    }
}
