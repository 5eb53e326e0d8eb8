//! Buyers who buy as fast as they are answered, until time is up. How a unit is sold is each alternative's own.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bench::Rate;
use crate::model::{Claim, CouponId, OrderId, UserId};

/// What a buyer was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The unit is his, durably.
    Sold,
    /// None is left, or he has one already.
    Refused,
}

/// One client with connections of its own.
pub trait Buyer: Send + 'static {
    /// # Errors
    /// When it is not known whether the unit was sold; the round then counts for nothing.
    fn buy(&mut self, claim: &Claim) -> impl Future<Output = Result<Answer>> + Send;
}

/// What a crowd has bought.
pub struct Purchases<B> {
    pub rate: Rate,
    /// All units sold, those before the clock started too.
    pub units: i64,
    /// One of the crowd, for what is to be tried afterwards.
    pub buyer: B,
}

/// Lets all buyers buy for so long, then one of them once more for a user who has a unit already.
///
/// # Errors
/// When a buyer fails or is refused, or the second order is not.
pub async fn sell<B: Buyer>(
    coupon: &CouponId,
    mut buyers: Vec<B>,
    run_for: Duration,
) -> Result<Purchases<B>> {
    // Before the clock starts, so that no round pays for preparing its statements.
    let mut units = 0;
    for buyer in &mut buyers {
        buy_one(buyer, coupon).await?;
        units += 1;
    }
    let started = Instant::now();
    let deadline = started + run_for;
    let mut crowd = JoinSet::new();
    for buyer in buyers {
        crowd.spawn(buy_until(buyer, coupon.clone(), deadline));
    }
    let mut operations = 0;
    let mut last = None;
    while let Some(joined) = crowd.join_next().await {
        let (buyer, bought) = joined??;
        operations += bought;
        last = Some(buyer);
    }
    let rate = Rate { operations, elapsed: started.elapsed() };
    let mut buyer = last.context("a crowd of nobody")?;
    ensure!(operations > 0, "nothing was sold in {run_for:?}");

    let winner = buy_one(&mut buyer, coupon).await?;
    units += i64::try_from(operations)? + 1;
    let again = Claim { order: OrderId::mint(), ..winner };
    must_refuse(&mut buyer, &again, "a user's second order").await?;
    Ok(Purchases { rate, units, buyer })
}

async fn buy_until<B: Buyer>(mut buyer: B, coupon: CouponId, deadline: Instant) -> Result<(B, u64)> {
    let mut bought = 0;
    while Instant::now() < deadline {
        buy_one(&mut buyer, &coupon).await?;
        bought += 1;
    }
    Ok((buyer, bought))
}

async fn buy_one<B: Buyer>(buyer: &mut B, coupon: &CouponId) -> Result<Claim> {
    let claim = new_claim(coupon);
    let answer = buyer.buy(&claim).await?;
    ensure!(answer == Answer::Sold, "a new user was refused though units are left");
    Ok(claim)
}

/// # Errors
/// When the claim is sold a unit.
pub async fn must_refuse<B: Buyer>(buyer: &mut B, claim: &Claim, what: &str) -> Result<()> {
    ensure!(buyer.buy(claim).await? == Answer::Refused, "{what} was not refused");
    Ok(())
}

/// A claim by somebody who has never claimed. Users are by chance: indexes on them are met all over.
pub fn new_claim(coupon: &CouponId) -> Claim {
    let user: UserId = format!("user-{:016x}", rand::random::<u64>()).parse().expect("hex digits are an id");
    Claim { coupon: coupon.clone(), user, order: OrderId::mint() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    /// Sells to everybody, or to nobody.
    struct Always(Answer);

    impl Buyer for Always {
        async fn buy(&mut self, _: &Claim) -> Result<Answer> {
            tokio::task::yield_now().await;
            Ok(self.0)
        }
    }

    async fn error_of(answer: Answer) -> String {
        let bought = sell(&"mug".parse().unwrap(), vec![Always(answer), Always(answer)], MOMENT).await;
        bought.err().expect("the round counts for nothing").to_string()
    }

    #[tokio::test]
    async fn whoever_sells_twice_to_a_user_fails() {
        assert_eq!(error_of(Answer::Sold).await, "a user's second order was not refused");
    }

    #[tokio::test]
    async fn whoever_turns_a_buyer_away_fails() {
        assert_eq!(error_of(Answer::Refused).await, "a new user was refused though units are left");
    }
}
