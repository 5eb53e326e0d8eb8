//! Buyers over HTTP who need more than one request for an order. Each connection serves one user after the other.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use hdrhistogram::Histogram;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::bench::load::{answer, answer_with_body, latencies, quantile_ms};
use crate::bench::rate::Rate;
use crate::bench::requests::Users;
use crate::domain::OrderId;

/// How long a refused buyer waits before the next claim.
const CLAIM_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// The claim is answered when its order is recorded.
const WAIT: &str = "prefer: wait=10\r\n";

/// What each buyer does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Claims, waits until the order is reserved, and confirms it.
    Confirm,
    /// Claims until a unit is left.
    ClaimUntilAccepted,
}

/// The latencies of one buyer. Not a histogram, which takes 150 kB: clearing and adding those of a thousand buyers would
/// take a tenth of a short run.
type Latencies = Vec<Duration>;

/// What all buyers did.
pub struct Purchases {
    pub rate: Rate,
    claims: Histogram<u64>,
    confirms: Histogram<u64>,
}

impl Purchases {
    /// Latency in ms at a quantile from 0 to 1, of the claims that were accepted.
    pub fn claim_ms(&self, quantile: f64) -> f64 {
        quantile_ms(&self.claims, quantile)
    }

    pub fn confirm_ms(&self, quantile: f64) -> f64 {
        quantile_ms(&self.confirms, quantile)
    }
}

/// The way, and the users who have not bought yet.
struct Sale {
    way: Way,
    coupon: &'static str,
    users: Arc<Users>,
    next: AtomicUsize,
    end: usize,
    deadline: Option<Instant>,
}

/// Runs one buyer for each stream until all users have bought, or for `run_for`.
///
/// # Errors
/// When a connection fails, or an answer is not the expected one.
pub async fn run(
    streams: Vec<TcpStream>,
    way: Way,
    coupon: &'static str,
    (users, range): (&Arc<Users>, Range<usize>),
    run_for: Option<Duration>,
) -> anyhow::Result<Purchases> {
    let started = Instant::now();
    let sale = Arc::new(Sale {
        way,
        coupon,
        users: users.clone(),
        next: AtomicUsize::new(range.start),
        end: range.end,
        deadline: run_for.map(|run_for| started + run_for),
    });
    let mut buyers = JoinSet::new();
    for stream in streams {
        let buyer = Buyer {
            stream,
            received: Vec::with_capacity(4_096),
            claims: Latencies::new(),
            confirms: Latencies::new(),
        };
        buyers.spawn(buyer.buy_all(sale.clone()));
    }
    let bought = buyers.join_all().await;
    let elapsed = started.elapsed();
    let (mut claims, mut confirms, mut operations) = (latencies()?, latencies()?, 0);
    for buyer in bought {
        let buyer = buyer?;
        operations += buyer.claims.len() as u64;
        record(&mut claims, &buyer.claims)?;
        record(&mut confirms, &buyer.confirms)?;
    }
    Ok(Purchases { rate: Rate { operations, elapsed }, claims, confirms })
}

struct Buyer {
    stream: TcpStream,
    received: Vec<u8>,
    claims: Latencies,
    confirms: Latencies,
}

impl Buyer {
    async fn buy_all(mut self, sale: Arc<Sale>) -> anyhow::Result<Self> {
        while sale.deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let user = sale.next.fetch_add(1, Ordering::Relaxed);
            if user >= sale.end {
                break;
            }
            match sale.way {
                Way::Confirm => self.claim_and_confirm(&sale, user).await?,
                Way::ClaimUntilAccepted => self.claim_until_accepted(&sale, user).await?,
            }
        }
        Ok(self)
    }

    async fn claim_and_confirm(&mut self, sale: &Sale, user: usize) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Claimed<'a> {
            order: OrderId,
            status: &'a str,
        }
        let claimed = Instant::now();
        self.stream.write_all(sale.users.claim(user, sale.coupon, WAIT).as_bytes()).await?;
        let (status, body) = answer_with_body(&mut self.stream, &mut self.received).await?;
        ensure!(status == 201, "a claim was answered {status}: {}", String::from_utf8_lossy(&body));
        let order: Claimed<'_> = serde_json::from_slice(&body)?;
        ensure!(order.status == "reserved", "an order is {}", order.status);
        let confirmed = Instant::now();
        self.stream.write_all(sale.users.confirm(user, order.order).as_bytes()).await?;
        let status = answer(&mut self.stream, &mut self.received).await?;
        ensure!(status == 200, "a confirm was answered {status}");
        self.claims.push(confirmed.duration_since(claimed));
        self.confirms.push(confirmed.elapsed());
        Ok(())
    }

    async fn claim_until_accepted(&mut self, sale: &Sale, user: usize) -> anyhow::Result<()> {
        loop {
            let claimed = Instant::now();
            self.stream.write_all(sale.users.claim(user, sale.coupon, "").as_bytes()).await?;
            match answer(&mut self.stream, &mut self.received).await? {
                202 => {
                    self.claims.push(claimed.elapsed());
                    return Ok(());
                }
                409 => tokio::time::sleep(CLAIM_AGAIN_AFTER).await,
                other => bail!("a claim was answered {other}"),
            }
        }
    }
}

fn record(all: &mut Histogram<u64>, latencies: &Latencies) -> anyhow::Result<()> {
    for latency in latencies {
        all.saturating_record(u64::try_from(latency.as_micros())?);
    }
    Ok(())
}
