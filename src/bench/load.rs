//! The HTTP load generator: keep-alive connections that send one request after the other, either as fast as the answers
//! arrive (closed loop) or by a fixed schedule (open loop).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::rate::{Rate, to_f64};
use super::requests::Requests;

/// Slower answers are counted as this slow.
const SLOWEST_US: u64 = 60_000_000;
/// Significant digits of a recorded latency.
const DIGITS: u8 = 3;
const MAX_HEADERS: usize = 32;

#[derive(Clone, Copy)]
pub struct Load {
    pub address: SocketAddr,
    pub connections: usize,
    /// How long after the start requests are sent.
    pub duration: Duration,
    /// The schedule of an open loop; `None` for a closed loop.
    pub requests_per_second: Option<f64>,
}

/// The answers of a run, by HTTP status.
pub struct Answers {
    /// In µs, from the time at which the request was due to the last byte of its answer, so that requests that had to wait
    /// count with their waiting time ("coordinated omission", <https://hdrhistogram.org>).
    pub latency: BTreeMap<u16, Histogram<u64>>,
    pub elapsed: Duration,
}

impl Answers {
    pub fn count(&self, status: u16) -> u64 {
        self.latency.get(&status).map_or(0, Histogram::len)
    }

    pub fn rate(&self, status: u16) -> Rate {
        Rate { operations: self.count(status), elapsed: self.elapsed }
    }

    /// Latency in ms at a quantile from 0 to 1; 0 without such answers.
    pub fn quantile_ms(&self, status: u16, quantile: f64) -> f64 {
        self.latency.get(&status).map_or(0.0, |all| quantile_ms(all, quantile))
    }

    /// # Errors
    /// When an answer has another status: the figure would then include other work.
    pub fn only(self, statuses: &[u16]) -> anyhow::Result<Self> {
        let others: Vec<(u16, u64)> = self
            .latency
            .iter()
            .filter(|(status, _)| !statuses.contains(status))
            .map(|(status, all)| (*status, all.len()))
            .collect();
        ensure!(others.is_empty(), "expected only the statuses {statuses:?}, and got {others:?}");
        Ok(self)
    }
}

/// Sends requests until none is left or the duration is over, and waits for every answer.
///
/// # Errors
/// When a connection fails.
pub async fn run(load: Load, requests: Arc<Requests>) -> anyhow::Result<Answers> {
    let streams = connect_all(load.address, load.connections).await?;
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for stream in streams {
        clients.spawn(client(stream, load, started, requests.clone()));
    }
    let mut latency: BTreeMap<u16, Histogram<u64>> = BTreeMap::new();
    while let Some(client) = clients.join_next().await {
        for (status, seen) in client?? {
            match latency.get_mut(&status) {
                Some(all) => all.add(seen)?,
                None => drop(latency.insert(status, seen)),
            }
        }
    }
    Ok(Answers { latency, elapsed: started.elapsed() })
}

/// Opens connections, and sends nothing.
pub async fn connect_all(address: SocketAddr, connections: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(connections);
    for _ in 0..connections {
        streams.push(connect(address).await?);
    }
    Ok(streams)
}

pub async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address).await.context("the server accepts no connection")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Latency in ms at a quantile from 0 to 1.
pub fn quantile_ms(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    to_f64(latencies.value_at_quantile(quantile)) / 1_000.0
}

/// A histogram of latencies in µs.
pub fn latencies() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, SLOWEST_US, DIGITS)?)
}

async fn client(
    mut stream: TcpStream,
    load: Load,
    started: Instant,
    requests: Arc<Requests>,
) -> anyhow::Result<BTreeMap<u16, Histogram<u64>>> {
    let mut latency = BTreeMap::new();
    let mut received = Vec::with_capacity(4_096);
    while let Some((number, request)) = requests.take() {
        let due = match load.requests_per_second {
            Some(requests_per_second) => {
                started + Duration::from_secs_f64(to_f64(number as u64) / requests_per_second)
            }
            None => Instant::now(),
        };
        if due.duration_since(started) >= load.duration {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        stream.write_all(request).await?;
        let status = answer(&mut stream, &mut received).await?;
        let histogram = match latency.entry(status) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => new.insert(latencies()?),
        };
        histogram.saturating_record(u64::try_from(due.elapsed().as_micros())?);
    }
    Ok(latency)
}

/// Reads one whole answer and returns its status. Bytes of the next answer stay in `received`.
pub async fn answer(stream: &mut TcpStream, received: &mut Vec<u8>) -> anyhow::Result<u16> {
    let whole = receive(stream, received).await?;
    received.drain(..whole.length);
    Ok(whole.status)
}

/// As [`answer`], and returns the body too.
pub async fn answer_with_body(
    stream: &mut TcpStream,
    received: &mut Vec<u8>,
) -> anyhow::Result<(u16, Vec<u8>)> {
    let whole = receive(stream, received).await?;
    let answer: Vec<u8> = received.drain(..whole.length).collect();
    Ok((whole.status, answer[whole.head..].to_vec()))
}

/// Where a whole answer ends in the received bytes.
#[derive(Debug, PartialEq, Eq)]
struct Whole {
    status: u16,
    /// Bytes up to the body, and with the body.
    head: usize,
    length: usize,
}

async fn receive(stream: &mut TcpStream, received: &mut Vec<u8>) -> anyhow::Result<Whole> {
    loop {
        if let Some(whole) = whole_answer(received)? {
            return Ok(whole);
        }
        if stream.read_buf(received).await? == 0 {
            bail!("the server closed a connection");
        }
    }
}

fn whole_answer(received: &[u8]) -> anyhow::Result<Option<Whole>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(received)? else { return Ok(None) };
    let status = response.code.context("an answer without a status")?;
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.context("an answer without a length")?;
    let body: usize = std::str::from_utf8(length.value)?.trim().parse()?;
    let whole = Whole { status, head, length: head + body };
    Ok((received.len() >= whole.length).then_some(whole))
}

#[cfg(test)]
mod tests {
    use super::{Whole, whole_answer};

    #[test]
    fn one_whole_answer_is_read_and_the_next_one_stays() {
        let one = b"HTTP/1.1 202 Accepted\r\ncontent-length: 5\r\n\r\nhello";
        let mut received = one.to_vec();
        received.extend_from_slice(b"HTTP/1.1 409 Conflict\r\n");
        let whole = Whole { status: 202, head: one.len() - 5, length: one.len() };
        assert_eq!(whole_answer(&received).ok().flatten(), Some(whole));
        for length in 0..one.len() {
            assert!(matches!(whole_answer(&one[..length]), Ok(None)), "{length} bytes");
        }
        assert!(whole_answer(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "its end is not known");
    }
}
