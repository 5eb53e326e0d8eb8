//! `serve --replace`, both sides: a running server waits for a new process that takes over, and a new process takes over
//! from a running server. `handover` has the conversation of the two.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
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

/// A server that this process is about to replace.
pub struct Takeover {
    predecessor: Predecessor,
    data_dir: Option<DataDir>,
    /// Cancelled when this process accepts connections.
    accepts: CancellationToken,
    adoption: AdoptionSlot,
}

/// The stores that this process has taken over, once the old one has left them.
pub type AdoptionSlot = Arc<Mutex<Option<JoinHandle<Result<Embedded>>>>>;

impl Takeover {
    /// # Errors
    /// When the old server has other stores than this process would use.
    pub fn new(
        predecessor: Predecessor,
        data_dir: Option<DataDir>,
        accepts: CancellationToken,
    ) -> Result<Self> {
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
        Ok(Self { predecessor, data_dir, accepts, adoption: AdoptionSlot::default() })
    }

    /// Where the stores will be.
    pub fn adoption(&self) -> AdoptionSlot {
        self.adoption.clone()
    }

    /// Once claims are accepted: tells the old server to end, and accepts connections. Then, in the background, waits
    /// until the old one has left the stores, and supervises them.
    ///
    /// # Errors
    /// When claims are not accepted in time, or the old server has gone: then this process gives up.
    pub async fn complete(mut self, partitions: &Partitions, tasks: &Tasks) -> Result<()> {
        let up = tokio::time::timeout(config::HANDOVER_READY_TIMEOUT, partitions.wait_until_up()).await;
        up.context("claims were not accepted in time: the old server continues")?;
        self.predecessor
            .tell_ready()
            .await
            .context("the old server has gone: start again without --replace")?;
        self.accepts.cancel();
        let tasks = tasks.clone();
        if let Some(dir) = self.data_dir {
            let predecessor = self.predecessor;
            let adopt = tokio::spawn(adopt(predecessor, dir, tasks));
            *self.adoption.lock().unwrap_or_else(PoisonError::into_inner) = Some(adopt);
        }
        Ok(())
    }
}

async fn adopt(mut predecessor: Predecessor, dir: DataDir, tasks: Tasks) -> Result<Embedded> {
    let lock =
        predecessor.lock.take().context("the old server did not pass the lock of its data directory on")?;
    let pid = predecessor.about.pid;
    let left = predecessor.left().await;
    if left.is_none() {
        tracing::warn!("process {pid} ended without leaving its stores: they start again");
    }
    let lock = DataDirLock::adopt(lock)?;
    let stores = Embedded::adopt(&dir, lock, left.unwrap_or_default(), &tasks)?;
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

/// Leaves the stores to the successor.
///
/// # Errors
/// When the successor has gone, or a store's task has failed.
pub async fn leave(stores: Option<Embedded>, successor: Successor) -> Result<()> {
    let left = match stores {
        Some(stores) => stores.leave().await?,
        None => LeftRunning::default(),
    };
    successor.leave(left).await.context("the new process has gone: start again without --replace")
}
