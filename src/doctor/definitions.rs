//! Whether every coupon is in force in Redis as Postgres has it, field by field. Edits on their way have a finding of
//! their own, as have coupons that are gone from Redis.

use super::{Finding, ask, counted};
use crate::config;
use crate::coupons::in_force::{Standing, describe};
use crate::domain::{CouponId, FieldDifference};
use crate::postgres::coupons::{self, CouponRow};
use crate::postgres::{PgConnection, PostgresError};
use crate::redis::coupon_hash::{self, KeptDefinition};
use crate::redis::{Redis, RedisError};

const CHECK: &str = "definitions";

/// What was found so far.
#[derive(Default)]
struct Found {
    coupons: u64,
    differing: u64,
    first: Option<(CouponId, Vec<FieldDifference>)>,
    /// Redis has a higher version of one than Postgres.
    has_newer: bool,
}

#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

pub async fn examine(redis: &Redis, postgres: &mut PgConnection) -> Finding {
    match compare(redis, postgres).await {
        Ok(found) => judge(&found),
        Err(Unread::Redis(error @ RedisError::WrongType(_))) => {
            Finding::red(CHECK, error.to_string(), super::redis::MENDS_ITSELF)
        }
        Err(error) => Finding::unreadable(CHECK, &error.to_string()),
    }
}

async fn compare(redis: &Redis, postgres: &mut PgConnection) -> Result<Found, Unread> {
    let mut found = Found::default();
    let mut after = None;
    loop {
        let page = ask(coupons::page(&mut *postgres, after.as_ref(), config::PAGE_MAX_ROWS)).await?;
        let Some(last) = page.last().map(|row| row.definition.id.clone()) else { return Ok(found) };
        let ids: Vec<CouponId> = page.iter().map(|row| row.definition.id.clone()).collect();
        for (row, kept) in page.iter().zip(coupon_hash::read(redis, &ids).await?) {
            found.coupons += 1;
            found.take(postgres, row, kept.as_ref()).await?;
        }
        after = Some(last);
    }
}

impl Found {
    async fn take(
        &mut self,
        postgres: &mut PgConnection,
        row: &CouponRow,
        kept: Option<&KeptDefinition>,
    ) -> Result<(), PostgresError> {
        let standing = Standing::of(row, kept);
        if matches!(standing, Standing::InForce | Standing::Unpublished(_) | Standing::Absent) {
            return Ok(());
        }
        // Edited beside the look: what was read of it says nothing.
        let again = ask(coupons::get(&mut *postgres, &row.definition.id)).await?;
        if again.is_none_or(|again| again.definition != row.definition) {
            return Ok(());
        }
        self.differing += 1;
        self.has_newer |= matches!(standing, Standing::Newer(_));
        self.first.get_or_insert_with(|| (row.definition.id.clone(), standing.differences()));
        Ok(())
    }
}

fn judge(found: &Found) -> Finding {
    let Some((coupon, fields)) = &found.first else {
        let coupons = counted(found.coupons, "coupon", "coupons");
        return Finding::green(CHECK, format!("the same in both stores, for {coupons}"));
    };
    let differ = counted(found.differing, "coupon differs", "coupons differ");
    let what = format!("{differ} between the stores, the first is {coupon}: {}", describe(fields));
    let what_to_do = if found.has_newer {
        "Postgres has lost an edit: if this is the right database, `seckill reconcile --rebuild`"
    } else {
        "`seckill reconcile --fix` brings into force what Postgres has; a running server does so by itself"
    };
    Finding::red(CHECK, what, what_to_do)
}
