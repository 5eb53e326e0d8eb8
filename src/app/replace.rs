//! `serve --replace`, both sides: a running server waits for a new process that takes over, and a new process takes over
//! from a running server. `handover` has the conversation of the two.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::data_dir::{DataDir, DataDirLock};
use crate::embedded::{Embedded, LeftRunning};
use crate::handover::{About, Control, Predecessor, Successor};
use crate::http::server::ServeStop;
use crate::partitions::Partitions;
use crate::stop::Stop;
use crate::tasks::Tasks;

/// What a running server gives to its successor.
pub struct Offer {
    pub address: SocketAddr,
    pub listener: OwnedFd,
    /// The data directory of embedded stores, and a copy of its lock.
    pub data_dir: Option<(PathBuf, OwnedFd)>,
}

/// The new process that has taken over, if there is one.
#[derive(Clone, Default)]
pub struct SuccessorSlot {
    successor: Arc<Mutex<Option<Successor>>>,
}

impl SuccessorSlot {
    /// Waits for a successor until the stop; then requests the stop, in which HTTP leaves its clients time to change.
    pub fn wait(&self, offer: Offer, http: ServeStop, stop: &Stop) {
        let (slot, stop) = (self.successor.clone(), stop.clone());
        tokio::spawn(async move {
            let Some(successor) = stop.unless_stopped(next_successor(offer)).await else { return };
            let pid = successor.pid.unwrap_or_default();
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(successor);
            http.hand_over();
            stop.request(&format!("process {pid} has taken over"));
        });
    }

    pub fn take(&self) -> Option<Successor> {
        self.successor.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

async fn next_successor(offer: Offer) -> Successor {
    let Offer { address, listener, data_dir } = offer;
    let control = bind_control(address).await;
    let (data_dir, lock) = data_dir.unzip();
    let about = About { version: env!("CARGO_PKG_VERSION").into(), pid: std::process::id(), data_dir };
    let descriptors: Vec<BorrowedFd<'_>> =
        [Some(listener.as_fd()), lock.as_ref().map(AsFd::as_fd)].into_iter().flatten().collect();
    control.successor(&about, &descriptors).await
}

/// The predecessor has the name until it ends.
async fn bind_control(address: SocketAddr) -> Control {
    let mut is_logged = false;
    loop {
        match Control::bind(address) {
            Ok(control) => return control,
            Err(error) if !is_logged => {
                tracing::debug!("serve --replace cannot reach this server yet: {error}");
                is_logged = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(config::STORE_JOIN_POLL).await;
    }
}

/// A server that this process is about to replace. Dropped before this process is ready: the old one continues.
pub struct Takeover {
    /// Tells the task below that this process is ready.
    ready: oneshot::Sender<()>,
    /// Cancelled when this process accepts connections.
    accepts: CancellationToken,
}

/// The task that takes over, with the stores once the old process has left them; `None` for external stores, or if the
/// old process continues.
pub type Adopting = JoinHandle<Result<Option<Embedded>>>;

impl Takeover {
    /// Takes over when [`complete`](Self::complete) says that this process is ready, or earlier if the old one ends.
    ///
    /// # Errors
    /// When the old server has other stores than this process would use.
    pub fn begin(
        predecessor: Predecessor,
        data_dir: Option<DataDir>,
        accepts: CancellationToken,
        tasks: &Tasks,
    ) -> Result<(Self, Adopting)> {
        let theirs = predecessor.about.data_dir.as_deref();
        let ours = data_dir.as_ref().map(DataDir::path);
        let shown = |dir: Option<&std::path::Path>| {
            dir.map_or_else(|| "external stores".to_owned(), |dir| format!("the stores in {}", dir.display()))
        };
        ensure!(
            theirs == ours,
            "the running server uses {}, this one would use {}: give both the same settings",
            shown(theirs),
            shown(ours)
        );
        let (ready, is_ready) = oneshot::channel();
        let adopting =
            tokio::spawn(take_over(predecessor, data_dir, is_ready, accepts.clone(), tasks.clone()));
        Ok((Self { ready, accepts }, adopting))
    }

    /// Returns once claims are accepted, and has this process take over.
    ///
    /// # Errors
    /// When claims are not accepted in time while the old server is there: then this process gives up.
    pub async fn complete(self, partitions: &Partitions) -> Result<()> {
        let Self { ready, accepts } = self;
        let all_up = tokio::time::timeout(config::HANDOVER_READY_TIMEOUT, partitions.wait_until_up());
        tokio::select! {
            up = all_up => {
                // A partition that waits for an operator must not keep the others from a new version.
                let is_ready = up.is_ok() || partitions.is_any_up();
                ensure!(is_ready, "claims were not accepted in time: the old server continues");
            }
            // The old server has ended: this one is a server like any other.
            () = accepts.cancelled() => return Ok(()),
        }
        // Refused if the old server has just ended, with the same effect.
        ready.send(()).unwrap_or_default();
        accepts.cancelled().await;
        Ok(())
    }
}

async fn take_over(
    mut predecessor: Predecessor,
    dir: Option<DataDir>,
    is_ready: oneshot::Receiver<()>,
    accepts: CancellationToken,
    tasks: Tasks,
) -> Result<Option<Embedded>> {
    let pid = predecessor.about.pid;
    tokio::select! {
        Ok(()) = predecessor.ended() => tracing::warn!("process {pid} has ended: this one takes over at once"),
        ready = is_ready => {
            if ready.is_err() {
                return Ok(None);
            }
            if let Err(error) = predecessor.tell_ready().await {
                tracing::warn!("process {pid} ends: {error:#}");
            }
        }
    }
    accepts.cancel();
    let Some(dir) = dir else {
        // The old process tells that it leaves, and takes an early end of the conversation for the end of this process.
        if let Err(error) = predecessor.left().await {
            tracing::debug!("process {pid}: {error:#}");
        }
        return Ok(None);
    };
    let adopted = adopt(predecessor, &dir, &tasks).await;
    adopted.map(Some).inspect_err(|error| tracing::error!("cannot take over the stores: {error:#}"))
}

async fn adopt(mut predecessor: Predecessor, dir: &DataDir, tasks: &Tasks) -> Result<Embedded> {
    let lock =
        predecessor.lock.take().context("the old server did not pass the lock of its data directory on")?;
    let pid = predecessor.about.pid;
    let left = predecessor.left().await?;
    if left.is_none() {
        tracing::warn!("process {pid} ended without leaving its stores: they start again");
    }
    let stores = Embedded::adopt(dir, DataDirLock::adopt(lock)?, left, tasks)?;
    tracing::info!("took over from process {pid}, with its stores");
    Ok(stores)
}

/// The listening socket of the old server.
///
/// # Errors
/// When it cannot be used here.
pub fn listener_of(predecessor: &Predecessor) -> Result<(TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::from(predecessor.listener.try_clone()?);
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((TcpListener::from_std(listener)?, address))
}

/// Leaves the stores to the successor; stops them if it has gone.
///
/// # Errors
/// When the successor has gone, or a store's task has failed.
pub async fn leave(
    stores: Option<(Embedded, &DataDir)>,
    successor: Successor,
    tasks: &Tasks,
    stop_by: Instant,
) -> Result<()> {
    let gone = "the new process has gone: start again without --replace";
    let Some((stores, dir)) = stores else {
        return successor.leave(LeftRunning::default()).await.context(gone);
    };
    let (left, lock) = stores.leave().await?;
    let Err(error) = successor.leave(left).await else { return Ok(()) };
    Embedded::adopt(dir, lock, Some(left), tasks)?.stop_by(stop_by).await?;
    Err(error.context(gone))
}
