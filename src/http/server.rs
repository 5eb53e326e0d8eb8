//! The accept loop, the limits and timeouts of connections, and a stop that finishes all answers. warp's own server has
//! none of these.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::monitoring::{self, Monitoring};
use super::request::Arrival;
use super::socket::{Pace, PacedStream};
use super::{ApiSlot, Slot, routes};
use crate::config;

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Listens with a queue that is long enough for the second in which a sale opens: the kernel drops further connections,
/// and clients retry after a second.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(config::HTTP_LISTEN_QUEUE_CONNECTIONS)
}

/// The request to stop serving.
#[derive(Clone, Default)]
pub struct ServeStop {
    pub token: CancellationToken,
    /// Another process accepts on the same socket: no client may notice the end. Set before the token is cancelled.
    is_handed_over: Arc<AtomicBool>,
}

impl ServeStop {
    /// Stops together with something else.
    #[must_use]
    pub fn of(token: &CancellationToken) -> Self {
        Self { token: token.clone(), ..Self::default() }
    }

    /// Requests a stop in which every client has time to change to the other process.
    pub fn hand_over(&self) {
        self.is_handed_over.store(true, Ordering::SeqCst);
        self.token.cancel();
    }
}

/// Serves until `stop`, then finishes the requests in progress, for at most `SHUTDOWN_GRACE`.
pub async fn serve(listener: TcpListener, api: Arc<ApiSlot>, max_connections: usize, stop: ServeStop) {
    serve_with(warp::service(routes::service(api)), listener, max_connections, stop).await;
}

/// As `serve`, for a process without the API.
pub async fn serve_monitoring(listener: TcpListener, slot: Arc<Slot<Monitoring>>, stop: ServeStop) {
    let service = warp::service(monitoring::service(slot));
    serve_with(service, listener, config::MONITORING_MAX_CONNECTIONS, stop).await;
}

async fn serve_with<S: Answers>(service: S, listener: TcpListener, max_connections: usize, stop: ServeStop) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(max_connections));
    let phases = Phases { leaving: stop.token.clone(), closing: CancellationToken::new() };
    {
        let mut accepting = std::pin::pin!(async {
            loop {
                match accept(&listener, &slots).await {
                    Ok((stream, permit)) => {
                        let watcher = graceful.watcher();
                        tokio::spawn(connection(stream, service.clone(), watcher, permit, phases.clone()));
                    }
                    Err(error) => {
                        tracing::warn!("cannot accept a connection: {error:#}");
                        tokio::time::sleep(config::HTTP_ACCEPT_RETRY).await;
                    }
                }
            }
        });
        tokio::select! {
            () = &mut accepting => {}
            () = stop.token.cancelled() => {}
        }
        if stop.is_handed_over.load(Ordering::SeqCst) {
            drain(&slots, max_connections).await;
            phases.closing.cancel();
        } else {
            phases.closing.cancel();
            // Serves connections that the kernel accepted before the stop, instead of resetting them.
            tokio::time::timeout(config::SHUTDOWN_ACCEPT_GRACE, accepting).await.unwrap_or_default();
        }
    }
    drop(listener);
    if tokio::time::timeout(config::SHUTDOWN_GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests had not ended after {:?}", config::SHUTDOWN_GRACE);
    }
}

/// How far the stop is, for the connections.
#[derive(Clone)]
struct Phases {
    /// Each answer asks its client to connect anew.
    leaving: CancellationToken,
    /// Connections without a request are closed.
    closing: CancellationToken,
}

/// Waits until the clients have closed their connections, for at most `HANDOVER_DRAIN`.
async fn drain(slots: &Semaphore, max_connections: usize) {
    let closed = async {
        // One slot may belong to the accept loop, which waits for a connection.
        while slots.available_permits() + 1 < max_connections {
            tokio::time::sleep(config::HANDOVER_DRAIN_POLL).await;
        }
    };
    tokio::time::timeout(config::HANDOVER_DRAIN, closed).await.unwrap_or_default();
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> anyhow::Result<(TcpStream, OwnedSemaphorePermit)> {
    // The permit first, so that connections beyond the limit wait in the kernel's queue.
    let permit = slots.clone().acquire_owned().await.context("the limit is never closed")?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

/// Answers the requests of all connections.
trait Answers:
    Service<http::Request<Incoming>, Response = warp::reply::Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Answers for S where
    S: Service<http::Request<Incoming>, Response = warp::reply::Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

async fn connection<S: Answers>(
    stream: TcpStream,
    service: S,
    watcher: Watcher,
    _permit: OwnedSemaphorePermit,
    phases: Phases,
) {
    let Ok(peer) = stream.peer_addr() else { return };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY: {error}");
    }
    // Waits for the first byte before buffers are allocated. Peeks, because a new socket counts as readable until its
    // first read.
    let mut byte = [0];
    tokio::select! {
        peeked = tokio::time::timeout(config::HTTP_IDLE_TIMEOUT, stream.peek(&mut byte)) => {
            if !matches!(peeked, Ok(Ok(1))) {
                return;
            }
        }
        () = phases.closing.cancelled() => {
            // A request may have arrived before the stop.
            if !matches!(tokio::time::timeout(config::SHUTDOWN_ACCEPT_GRACE, stream.peek(&mut byte)).await, Ok(Ok(1))) {
                return;
            }
        }
    }
    // Boxed after the first byte, so that a silent connection costs only its socket.
    Box::pin(async move {
        let pace = Arc::new(Pace::default());
        let of_requests = pace.clone();
        let Phases { leaving, closing } = phases;
        let with_arrival = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
            let arrival = Arrival { peer, version: request.version() };
            request.extensions_mut().insert(arrival);
            if request.uri().path_and_query().is_none() {
                // CONNECT names only a host, and warp would panic: replaces the host by an address that does not exist.
                *request.uri_mut() = http::Uri::from_static("*");
            }
            let has_body = request.headers().contains_key(header::TRANSFER_ENCODING)
                || request.headers().get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
            let (pace, mut service) = (of_requests.clone(), service.clone());
            // Boxed: hyper reserves room for this future on each connection, also between requests.
            let leaving = leaving.clone();
            Box::pin(async move {
                let _answering = pace.begin(has_body).await;
                let mut response = service.call(request).await;
                if let (Ok(response), true) = (&mut response, leaving.is_cancelled()) {
                    response.headers_mut().insert(header::CONNECTION, CLOSE);
                }
                response
            })
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(config::HTTP_IDLE_TIMEOUT)
            .max_buf_size(config::HTTP_HEAD_MAX_BYTES)
            // Without this, hyper reads while a claim waits, and allocates 8 KiB for each read.
            .half_close(true)
            .writev(false)
            .serve_connection(TokioIo::new(PacedStream::new(stream, pace, closing)), with_arrival);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!("connection of {peer}: {error}");
        }
    })
    .await;
}
