//! Whether Redis has the same definition of every coupon as Postgres, field by field. `publications` covers edits that
//! are not published yet, `redis-stock` coupons that Redis does not have.

use super::finding::{Finding, REPAIRED_BY_SERVER, pluralize};
use super::postgres::with_timeout;
use crate::config;
use crate::coupons::in_force::{Standing, describe};
use crate::domain::{CouponId, FieldDifference};
use crate::postgres::coupons::{self, CouponRow};
use crate::postgres::{PgConnection, PostgresError};
use crate::redis::coupon_hash::{self, CouponHash};
use crate::redis::{Redis, RedisError};

const CHECK: &str = "definitions";

/// The differences of all coupons that were compared.
#[derive(Default)]
struct Comparison {
    coupons: u64,
    differing: u64,
    first_differing: Option<(CouponId, Vec<FieldDifference>)>,
    /// Redis has a higher version of a coupon than Postgres.
    redis_is_newer: bool,
}

#[derive(Debug, thiserror::Error)]
enum CompareError {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

pub async fn examine(redis: &Redis, postgres: &mut PgConnection) -> Finding {
    match compare(redis, postgres).await {
        Ok(comparison) => finding(&comparison),
        Err(CompareError::Redis(error @ RedisError::WrongType(_))) => {
            Finding::red(CHECK, error.to_string(), REPAIRED_BY_SERVER)
        }
        Err(error) => Finding::unreadable(CHECK, &error.to_string()),
    }
}

async fn compare(redis: &Redis, postgres: &mut PgConnection) -> Result<Comparison, CompareError> {
    let mut comparison = Comparison::default();
    let mut after = None;
    loop {
        let partition = redis.keys.partition;
        let page = coupons::page(&mut *postgres, partition, after.as_ref(), config::PAGE_MAX_ROWS);
        let page = with_timeout(page).await?;
        let Some(last) = page.last().map(|row| row.definition.id.clone()) else { return Ok(comparison) };
        let ids: Vec<CouponId> = page.iter().map(|row| row.definition.id.clone()).collect();
        for (row, kept) in page.iter().zip(coupon_hash::read(redis, &ids).await?) {
            comparison.coupons += 1;
            comparison.add(postgres, row, kept.as_ref()).await?;
        }
        after = Some(last);
    }
}

impl Comparison {
    async fn add(
        &mut self,
        postgres: &mut PgConnection,
        row: &CouponRow,
        kept: Option<&CouponHash>,
    ) -> Result<(), PostgresError> {
        let standing = Standing::of(row, kept);
        if matches!(standing, Standing::InForce | Standing::Unpublished(_) | Standing::Absent) {
            return Ok(());
        }
        // Reads the row again: an edit between the two reads is not a difference of the stores.
        let again = with_timeout(coupons::get(&mut *postgres, row.partition, &row.definition.id)).await?;
        if again.is_none_or(|again| again.definition != row.definition) {
            return Ok(());
        }
        self.differing += 1;
        self.redis_is_newer |= matches!(standing, Standing::Newer(_));
        self.first_differing.get_or_insert_with(|| (row.definition.id.clone(), standing.differences()));
        Ok(())
    }
}

fn finding(comparison: &Comparison) -> Finding {
    let Some((coupon, fields)) = &comparison.first_differing else {
        let coupons = pluralize(comparison.coupons, "coupon", "coupons");
        return Finding::green(CHECK, format!("the same in both stores, for {coupons}"));
    };
    let differ = pluralize(comparison.differing, "coupon differs", "coupons differ");
    let what = format!("{differ} between the stores, the first is {coupon}: {}", describe(fields));
    let what_to_do = if comparison.redis_is_newer {
        "Postgres has lost an edit: if this is the right database, `seckill reconcile --rebuild`"
    } else {
        "`seckill reconcile --fix` publishes the definition of Postgres; a running server does so by itself"
    };
    Finding::red(CHECK, what, what_to_do)
}
