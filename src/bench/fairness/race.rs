//! Connections that start together and remember of each request when it was sent, by this process's one clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::bench::load::{answer, connect};

/// Answered like a claim, and claims nothing.
const GREETING: &[u8] = b"GET /livez HTTP/1.1\r\nhost: bench\r\n\r\n";

/// One user's claim.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub connection: usize,
    /// Right before it was written.
    pub sent: Instant,
    pub status: u16,
}

/// Sends each connection's requests, one after the other, those of the pipeliner all at once.
pub async fn race(
    address: SocketAddr,
    requests: Vec<Vec<String>>,
    pipeliner: Option<usize>,
) -> anyhow::Result<Vec<Attempt>> {
    let start = Arc::new(Barrier::new(requests.len()));
    let mut runners = JoinSet::new();
    for (connection, requests) in requests.into_iter().enumerate() {
        let stream = greet(address).await?;
        let requests = if pipeliner == Some(connection) { vec![requests] } else { one_by_one(requests) };
        runners.spawn(run(stream, connection, requests, start.clone()));
    }
    let mut attempts = Vec::new();
    while let Some(runner) = runners.join_next().await {
        attempts.extend(runner??);
    }
    Ok(attempts)
}

/// A connection that the server has accepted: the race is not about whom it accepts first.
async fn greet(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = connect(address).await?;
    stream.write_all(GREETING).await?;
    let status = answer(&mut stream, &mut Vec::new()).await?;
    ensure!(status == 200, "the server greets with {status}");
    Ok(stream)
}

fn one_by_one(requests: Vec<String>) -> Vec<Vec<String>> {
    requests.into_iter().map(|request| vec![request]).collect()
}

/// Writes what belongs together at once, and reads its answers before it goes on.
async fn run(
    mut stream: TcpStream,
    connection: usize,
    requests: Vec<Vec<String>>,
    start: Arc<Barrier>,
) -> anyhow::Result<Vec<Attempt>> {
    let (mut received, mut attempts) = (Vec::new(), Vec::new());
    start.wait().await;
    for together in requests {
        let bytes = together.concat();
        let sent = Instant::now();
        stream.write_all(bytes.as_bytes()).await?;
        for _ in together {
            let status = answer(&mut stream, &mut received).await?;
            attempts.push(Attempt { connection, sent, status });
        }
    }
    Ok(attempts)
}
