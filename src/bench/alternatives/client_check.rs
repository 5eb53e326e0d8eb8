//! Checks whether the buyers in this process are as fast as pgbench: both clients run the same statement, one client
//! after the other. If they are, the buyers do not limit the figures of the alternatives that pgbench cannot run.

use std::time::Duration;

use anyhow::Result;

use super::buyers::{Answer, Buyer, run_buyers};
use super::optimistic_lock::ONE_STATEMENT;
use super::pgbench::{Load, Pgbench};
use super::schema::{BenchSchema, claimed_at, is_refusal};
use super::{Figure, sold_rate};
use crate::bench::Rate;
use crate::config::{StoreAddresses, TOTAL_MAX_UNITS};
use crate::domain::Claim;
use crate::postgres::PgConnection;

/// The same statement as in `optimistic_lock/one_statement.sql`.
const SELL: &str = "
    with u as (update coupons set stock = stock - 1 where id = $1 and stock > 0 returning 1)
    insert into orders (id, coupon_id, user_id, status, claimed_at) select $2, $1, $3, 'confirmed', $4 from u";

/// The rates of both clients with the same number of connections.
#[derive(Clone, Copy, Debug)]
pub struct ClientCheck {
    pub pgbench: Figure,
    pub buyers: Figure,
}

/// Runs the two clients in turn, each twice for half of `run_for` and at least a second, so that a disk that gets
/// slower affects both.
///
/// # Errors
/// When Postgres fails, or stock and orders do not match.
pub async fn client_check(
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: usize,
    run_for: Duration,
) -> Result<ClientCheck> {
    let mut check = ClientCheck {
        pgbench: Figure { name: "pgbench", clients, rate: Rate::default() },
        buyers: Figure { name: "buyers in this process", clients, rate: Rate::default() },
    };
    let run_for = (run_for / 2).max(Duration::from_secs(1));
    for _ in 0..2 {
        check.pgbench.rate += by_pgbench(stores, pgbench, clients, run_for).await?;
        check.buyers.rate += by_buyers(stores, clients, run_for).await?;
    }
    Ok(check)
}

async fn by_pgbench(
    stores: &StoreAddresses,
    pgbench: &Pgbench,
    clients: usize,
    run_for: Duration,
) -> Result<Rate> {
    let mut schema = BenchSchema::create(&stores.database_url).await?;
    let summary =
        pgbench.run_buyers(&Load { script: ONE_STATEMENT.1, clients, variables: &[] }, run_for).await?;
    let sold = schema.orders().await?;
    schema.check_totals(sold, TOTAL_MAX_UNITS).await?;
    sold_rate(sold, &summary)
}

async fn by_buyers(stores: &StoreAddresses, clients: usize, run_for: Duration) -> Result<Rate> {
    let mut schema = BenchSchema::create(&stores.database_url).await?;
    let connector = schema.connector();
    let connect =
        async move |clients| Ok(connector.connect(clients).await?.into_iter().map(OneStatement).collect());
    let purchases = run_buyers(&schema.coupon, clients, run_for, connect).await?;
    schema.check_totals(purchases.units, TOTAL_MAX_UNITS).await?;
    Ok(purchases.rate)
}

struct OneStatement(PgConnection);

impl Buyer for OneStatement {
    async fn buy(&mut self, claim: &Claim) -> Result<Answer> {
        let done = sqlx::query(SELL)
            .bind(claim.coupon.as_str())
            .bind(claim.order.0)
            .bind(claim.user.as_str())
            .bind(claimed_at(claim)?)
            .execute(&mut self.0)
            .await;
        match done {
            Ok(done) if done.rows_affected() == 1 => Ok(Answer::Sold),
            Ok(_) => Ok(Answer::Refused),
            Err(error) if is_refusal(&error) => Ok(Answer::Refused),
            Err(error) => Err(error.into()),
        }
    }
}
