//! The load generator for alternatives that pgbench cannot run: each buyer sends its next claim as soon as the last one
//! is answered, until the time is over. Each alternative implements the sale of a unit. There is one thread per core,
//! each with its own event loop as in pgbench, so that an answer wakes only the thread that waits for it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bench::Rate;
use crate::domain::{Claim, CouponId, OrderId, UserId};

/// The result of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The user has the unit, durably.
    Sold,
    /// No unit is left, or the user has one already.
    Refused,
}

/// One client with its own connections.
pub trait Buyer: Send + 'static {
    /// # Errors
    /// When it is unknown whether the unit was sold; the measurement then fails.
    fn buy(&mut self, claim: &Claim) -> impl Future<Output = Result<Answer>> + Send;
}

/// The purchases of all buyers.
pub struct Purchases<B> {
    pub rate: Rate,
    /// All units sold, including those before and after the measured time.
    pub units: i64,
    /// An additional buyer, for checks after the measurement.
    pub buyer: B,
}

/// Runs `clients` buyers for `run_for`, then checks that a user's second order is refused. `connect` makes the buyers
/// of a thread, and runs on this thread.
///
/// # Errors
/// When a buyer fails or is refused, or the second order is not refused.
pub async fn run_buyers<B: Buyer>(
    coupon: &CouponId,
    clients: usize,
    run_for: Duration,
    connect: impl AsyncFn(usize) -> Result<Vec<B>> + Send + Sync + 'static,
) -> Result<Purchases<B>> {
    let connect = Arc::new(connect);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(clients).max(1);
    let (ready, mut all_ready) = mpsc::channel(threads);
    let (start, started) = watch::channel(None);
    let mut threads_running = JoinSet::new();
    for thread in 0..threads {
        let share = clients / threads + usize::from(thread < clients % threads);
        let buyer_thread =
            BuyerThread { coupon: coupon.clone(), ready: ready.clone(), started: started.clone(), run_for };
        let connect = connect.clone();
        threads_running.spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { buyer_thread.buy(connect(share).await?).await })
        });
    }
    drop((ready, started));

    let mut are_ready = 0;
    while all_ready.recv().await.is_some() {
        are_ready += 1;
    }
    let begun = Instant::now();
    if are_ready == threads {
        start.send(Some(begun))?;
    }
    drop(start);
    let (mut operations, mut ended) = (0, begun);
    while let Some(result) = threads_running.join_next().await {
        let (bought, at) = result??;
        (operations, ended) = (operations + bought, ended.max(at));
    }
    ensure!(operations > 0, "nothing was sold in {run_for:?}");

    let mut buyer = connect(1).await?.pop().context("no buyer was made")?;
    let winner = buy_one(&mut buyer, coupon).await?;
    let again = Claim { order: OrderId::mint(), ..winner };
    check_refused(&mut buyer, &again, "a user's second order").await?;
    let units = i64::try_from(operations)? + i64::try_from(clients)? + 1;
    Ok(Purchases { rate: Rate { operations, elapsed: ended - begun }, units, buyer })
}

/// The buyers of one thread.
struct BuyerThread {
    coupon: CouponId,
    ready: mpsc::Sender<()>,
    /// The start of the measurement. Closed without a value if another thread has failed.
    started: watch::Receiver<Option<Instant>>,
    run_for: Duration,
}

impl BuyerThread {
    /// The number of units bought within the time, and the time of the last one.
    async fn buy<B: Buyer>(self, mut buyers: Vec<B>) -> Result<(u64, Instant)> {
        let Self { coupon, ready, mut started, run_for } = self;
        // Each buyer buys once before the measurement starts, so that its statements are prepared.
        for buyer in &mut buyers {
            buy_one(buyer, &coupon).await?;
        }
        ready.send(()).await?;
        drop(ready);
        let Some(begun) = started.wait_for(Option::is_some).await.ok().and_then(|at| *at) else {
            return Ok((0, Instant::now()));
        };
        let mut tasks = JoinSet::new();
        for buyer in buyers {
            tasks.spawn(buy_until(buyer, coupon.clone(), begun + run_for));
        }
        let mut operations = 0;
        while let Some(bought) = tasks.join_next().await {
            operations += bought??;
        }
        Ok((operations, Instant::now()))
    }
}

async fn buy_until<B: Buyer>(mut buyer: B, coupon: CouponId, deadline: Instant) -> Result<u64> {
    let mut bought = 0;
    loop {
        buy_one(&mut buyer, &coupon).await?;
        bought += 1;
        if Instant::now() >= deadline {
            return Ok(bought);
        }
    }
}

async fn buy_one<B: Buyer>(buyer: &mut B, coupon: &CouponId) -> Result<Claim> {
    let claim = new_claim(coupon);
    let answer = buyer.buy(&claim).await?;
    ensure!(answer == Answer::Sold, "a new user was refused though units are left");
    Ok(claim)
}

/// # Errors
/// When the claim is not refused.
pub async fn check_refused<B: Buyer>(buyer: &mut B, claim: &Claim, what: &str) -> Result<()> {
    ensure!(buyer.buy(claim).await? == Answer::Refused, "{what} was not refused");
    Ok(())
}

/// A claim of a new user. User ids are random, so that inserts are spread over the whole index.
pub fn new_claim(coupon: &CouponId) -> Claim {
    let user: UserId = format!("user-{:016x}", rand::random::<u64>()).parse().expect("hex digits are an id");
    Claim { coupon: coupon.clone(), user, order: OrderId::mint(), key: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    /// Gives the same answer to every claim.
    struct Always(Answer);

    impl Buyer for Always {
        async fn buy(&mut self, _: &Claim) -> Result<Answer> {
            tokio::task::yield_now().await;
            Ok(self.0)
        }
    }

    async fn error_of(connect: impl AsyncFn(usize) -> Result<Vec<Always>> + Send + Sync + 'static) -> String {
        let bought = run_buyers(&"mug".parse().unwrap(), 8, MOMENT, connect).await;
        bought.err().expect("the measurement fails").to_string()
    }

    fn always(clients: usize, answer: Answer) -> Vec<Always> {
        (0..clients).map(|_| Always(answer)).collect()
    }

    #[tokio::test]
    async fn a_seller_of_two_units_to_a_user_fails() {
        let error = error_of(async |clients| Ok(always(clients, Answer::Sold))).await;
        assert_eq!(error, "a user's second order was not refused");
    }

    #[tokio::test]
    async fn a_seller_that_refuses_a_new_user_fails() {
        let error = error_of(async |clients| Ok(always(clients, Answer::Refused))).await;
        assert_eq!(error, "a new user was refused though units are left");
    }

    #[tokio::test]
    async fn a_thread_that_cannot_connect_fails_the_measurement_and_ends_the_others() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let calls = AtomicUsize::new(0);
        let error = error_of(async move |clients| {
            ensure!(calls.fetch_add(1, Ordering::Relaxed) > 0, "no more connections");
            Ok(always(clients, Answer::Sold))
        });
        assert_eq!(error.await, "no more connections");
    }
}
