//! The rate of claims with and without thousands of open event streams, all of which show the claimed coupon. The bench
//! does not read the streams while it claims: what it measures is the server's work for them.

use std::sync::Arc;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fixture::Server;
use super::load::{self, Load, connect_all};
use super::measurements::Measurements;
use super::rate::Rate;
use super::report::format_count;
use super::scenarios::{Bench, CONNECTIONS, COUPON, MANY_UNITS};

const OPEN: &[u8] = b"GET /v1/events HTTP/1.1\r\nhost: bench\r\n\r\n";
/// Without and with streams in turn, so that a change of the machine's speed meets both.
const TURNS: [bool; 4] = [false, true, false, true];

impl Bench<'_> {
    pub async fn streams(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let server = self.fixture.start_empty_server(1).await?;
        server.create(COUPON, MANY_UNITS).await?;
        let users = self.users.count() / TURNS.len();
        let mut rates = [Vec::new(), Vec::new()];
        for (turn, with_streams) in TURNS.into_iter().enumerate() {
            let streams = if with_streams { self.open_streams(&server).await? } else { Vec::new() };
            let requests = self.users.claims(turn * users..(turn + 1) * users, |_| COUPON);
            let load = Load {
                address: server.address,
                connections: CONNECTIONS,
                duration: self.parameters.duration / 2,
                requests_per_second: None,
            };
            let answers = load::run(load, Arc::new(requests)).await?.only(&[202])?;
            rates[usize::from(with_streams)].push(answers.rate(202));
            drop(streams);
            self.fixture.wait_until_recorded().await?;
        }
        server.stop().await?;
        let [without, with] = rates.map(|rates| mean(&rates));
        let open = format_count(self.parameters.streams);
        results.add("streams", "claims without streams", without, "/s");
        results.add("streams", format!("claims with {open} open streams"), with, "/s");
        results.add("streams", format!("with {open} streams ÷ without"), with / without, "");
        Ok(())
    }

    /// Opens the streams and reads the first event of each.
    async fn open_streams(&self, server: &Server) -> anyhow::Result<Vec<TcpStream>> {
        let mut streams = Vec::with_capacity(self.parameters.streams);
        while streams.len() < self.parameters.streams {
            let more = (self.parameters.streams - streams.len()).min(CONNECTIONS);
            let mut opened = connect_all(server.address, more).await?;
            try_join_all(opened.iter_mut().map(open)).await?;
            streams.append(&mut opened);
        }
        Ok(streams)
    }
}

async fn open(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(OPEN).await?;
    let mut received = Vec::new();
    while !received.windows(5).any(|bytes| bytes == b"data:") {
        let read = stream.read_buf(&mut received).await?;
        ensure!(read > 0, "the server has closed a stream");
    }
    let head = std::str::from_utf8(&received).context("a stream is UTF-8")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "a stream was refused: {head}");
    Ok(())
}

fn mean(rates: &[Rate]) -> f64 {
    rates.iter().map(|rate| rate.per_second()).sum::<f64>() / super::to_f64(rates.len() as u64)
}
