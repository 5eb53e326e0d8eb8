//! Connections that start at the same time and record, by one clock, when each request was sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::bench::load::{answer, connect};

/// A request that is answered without a claim.
const FIRST_REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nhost: bench\r\n\r\n";

/// One user's claim.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub connection: usize,
    /// Right before the request was written.
    pub sent: Instant,
    /// Right after the answer was read.
    pub answered: Instant,
    pub status: u16,
}

/// Sends the requests of each connection one after the other, but those of the pipeliner all at once.
///
/// # Errors
/// When a connection fails.
pub async fn send_simultaneously(
    address: SocketAddr,
    requests: Vec<Vec<String>>,
    pipeliner: Option<usize>,
) -> anyhow::Result<Vec<Attempt>> {
    let start = Arc::new(Barrier::new(requests.len()));
    let mut clients = JoinSet::new();
    for (connection, requests) in requests.into_iter().enumerate() {
        let stream = open_accepted(address).await?;
        let requests = if pipeliner == Some(connection) { vec![requests] } else { one_by_one(requests) };
        clients.spawn(run(stream, connection, requests, start.clone()));
    }
    let mut attempts = Vec::new();
    while let Some(client) = clients.join_next().await {
        attempts.extend(client??);
    }
    Ok(attempts)
}

/// Opens a connection and waits until the server has accepted it, so that the order of acceptance has no effect.
async fn open_accepted(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = connect(address).await?;
    stream.write_all(FIRST_REQUEST).await?;
    let status = answer(&mut stream, &mut Vec::new()).await?;
    ensure!(status == 200, "/livez was answered {status}");
    Ok(stream)
}

fn one_by_one(requests: Vec<String>) -> Vec<Vec<String>> {
    requests.into_iter().map(|request| vec![request]).collect()
}

/// Writes each group of requests at once, and reads its answers before the next group.
async fn run(
    mut stream: TcpStream,
    connection: usize,
    requests: Vec<Vec<String>>,
    start: Arc<Barrier>,
) -> anyhow::Result<Vec<Attempt>> {
    let (mut received, mut attempts) = (Vec::new(), Vec::new());
    start.wait().await;
    for group in requests {
        let bytes = group.concat();
        let sent = Instant::now();
        stream.write_all(bytes.as_bytes()).await?;
        for _ in group {
            let status = answer(&mut stream, &mut received).await?;
            attempts.push(Attempt { connection, sent, answered: Instant::now(), status });
        }
    }
    Ok(attempts)
}
