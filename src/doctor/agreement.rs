//! Whether the two stores agree with each other and with this machine's clock: the fence, the sums of all
//! coupons, the clocks.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Finding, ask, counted, definitions};
use crate::config;
use crate::domain::CouponId;
use crate::fence::{postgres_loss, probe};
use crate::postgres::fence::{self, FenceRow};
use crate::postgres::{PgConnection, coupons, health};
use crate::redis::info;
use crate::redis::probe::{self as redis_probe, RedisProbe};
use crate::redis::{Redis, RedisError, stored};

/// Compares what answers; a store that does not has its own finding already.
pub async fn examine(redis: Option<&Redis>, postgres: Option<PgConnection>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut postgres = postgres;
    if let (Some(redis), Some(postgres)) = (redis, &mut postgres) {
        findings.push(fence(redis, postgres).await);
    }
    if let Some(redis) = redis {
        findings.push(sums(redis, postgres.as_mut()).await);
    }
    if let (Some(redis), Some(postgres)) = (redis, &mut postgres) {
        findings.push(definitions::examine(redis, postgres).await);
    }
    findings.extend(clocks(redis, postgres.as_mut()).await);
    findings
}

async fn fence(redis: &Redis, postgres: &mut PgConnection) -> Finding {
    let seen = match redis_probe::probe(redis).await {
        Ok(seen) => seen,
        Err(error @ RedisError::NotAllowed(_)) => {
            let what_to_do = "see redis-permissions: claims go on once the user has that right";
            return Finding::red("fence", format!("down: {error}"), what_to_do);
        }
        Err(error) => return Finding::unreadable("fence", &error.to_string()),
    };
    // Redis first: an edit reaches Postgres before it.
    let in_redis = match stored::versions(redis).await {
        Ok(versions) => versions,
        Err(error) => return Finding::unreadable("fence", &error.to_string()),
    };
    let (row, in_postgres) =
        match ask(async { Ok((fence::read_in(postgres).await?, coupons::versions(&mut *postgres).await?)) })
            .await
        {
            Ok(read) => read,
            Err(error) => return Finding::unreadable("fence", &error.to_string()),
        };
    let sign = async {
        let compared = postgres_loss::Definitions::compare(redis, &in_redis, &in_postgres).await?;
        postgres_loss::by_postgres(redis, &seen, &row, None, &compared).await
    };
    match sign.await {
        Ok(sign) => judge_fence(&seen, &row, sign.map(|sign| sign.why)),
        Err(error) => Finding::unreadable("fence", &error.to_string()),
    }
}

fn judge_fence(seen: &RedisProbe, row: &FenceRow, lost: Option<String>) -> Finding {
    let check = "fence";
    if let Some(why) = lost {
        let what = format!(
            "down: Postgres has lost commits, or belongs to another Redis ({why}): claims wait for a person"
        );
        return Finding::red(check, what, postgres_loss::WHAT_TO_DO);
    }
    let Err(difference) = probe::compare(seen, row) else {
        return Finding::green(check, format!("up: both stores are at epoch {}", row.epoch));
    };
    if seen.marker.as_deref().is_some_and(|marker| marker.starts_with("building:")) {
        let what = "down: Redis is being rebuilt from Postgres, or whoever did it has died";
        return Finding::red(check, what, super::redis::MENDS_ITSELF);
    }
    if row.postgres_identity.is_empty() {
        return Finding::red(check, format!("down: {difference}"), "start `seckill serve`");
    }
    Finding::red(check, format!("down: {difference}"), super::redis::MENDS_ITSELF)
}

/// stock + claims = total in Redis, for every coupon that either store has.
async fn sums(redis: &Redis, postgres: Option<&mut PgConnection>) -> Finding {
    let check = "redis-stock";
    let mut coupons = BTreeSet::new();
    if let Some(postgres) = postgres
        && let Err(error) = add_published(postgres, &mut coupons).await
    {
        return Finding::unreadable(check, &error.to_string());
    }
    let wrong = match add_found(redis, &mut coupons).await {
        Ok(()) => {
            let coupons: Vec<CouponId> = coupons.iter().cloned().collect();
            info::first_wrong_sum(redis, &coupons).await.map(Option::<&CouponId>::cloned)
        }
        Err(error) => Err(error),
    };
    match wrong {
        Ok(None) => {
            let coupons = counted(coupons.len() as u64, "coupon", "coupons");
            Finding::green(check, format!("stock and claims add up to the total, for {coupons}"))
        }
        Ok(Some(coupon)) => {
            let what = format!("coupon {coupon}: stock and claims do not add up to its total in Redis");
            Finding::red(check, what, super::redis::MENDS_ITSELF)
        }
        Err(error @ RedisError::WrongType(_)) => {
            Finding::red(check, error.to_string(), super::redis::MENDS_ITSELF)
        }
        Err(error) => Finding::unreadable(check, &error.to_string()),
    }
}

/// What Postgres has published must be in Redis: a coupon that is gone from there does not add up.
async fn add_published(
    postgres: &mut PgConnection,
    coupons: &mut BTreeSet<CouponId>,
) -> Result<(), crate::postgres::PostgresError> {
    let mut after = String::new();
    loop {
        let page = ask(health::published_ids(postgres, &after, config::PAGE_MAX_ROWS)).await?;
        let Some(last) = page.last().cloned() else { return Ok(()) };
        coupons.extend(page.iter().filter_map(|id| id.parse().ok()));
        after = last;
    }
}

async fn add_found(redis: &Redis, coupons: &mut BTreeSet<CouponId>) -> Result<(), RedisError> {
    let mut cursor = "0".to_owned();
    loop {
        let (page, next) = info::scan_coupons(redis, &cursor).await?;
        coupons.extend(page);
        if next == "0" {
            return Ok(());
        }
        cursor = next;
    }
}

/// How far each store's clock is from this machine's, in ms.
async fn clocks(redis: Option<&Redis>, postgres: Option<&mut PgConnection>) -> Option<Finding> {
    let mut found = Vec::new();
    if let Some(redis) = redis {
        let asked_at = now_ms();
        if let Ok(theirs) = info::now_ms(redis).await {
            found.push(("Redis", theirs - middle(asked_at, now_ms())));
        }
    }
    if let Some(postgres) = postgres {
        let asked_at = now_ms();
        if let Ok(theirs) = ask(health::now_ms(postgres)).await {
            found.push(("Postgres", theirs - middle(asked_at, now_ms())));
        }
    }
    judge_clocks(&found)
}

/// What a wrong clock does: sales open by Redis's, reservations end by Postgres's, tokens are judged by the
/// server's. `None` where no store tells its time.
fn judge_clocks(ahead_ms: &[(&str, i64)]) -> Option<Finding> {
    let check = "clocks";
    let (store, worst) = ahead_ms.iter().max_by_key(|(_, ms)| ms.abs())?;
    let least = config::DOCTOR_CLOCK_YELLOW_MS;
    // The stores' from each other as well: one may be ahead and one behind.
    let spread = ahead_ms.iter().map(|(_, ms)| ms).max().zip(ahead_ms.iter().map(|(_, ms)| ms).min());
    let spread = spread.map_or(0, |(most, least)| most - least);
    let difference = spread.max(worst.abs());
    if difference < least {
        let stores = ahead_ms.iter().map(|(store, _)| *store).collect::<Vec<_>>().join(", ");
        return Some(Finding::green(
            check,
            format!("{stores} and this machine differ by less than {least} ms"),
        ));
    }
    // Where the stores agree with each other, it is this machine that is wrong.
    let is_ours = ahead_ms.len() > 1 && spread < least;
    let what = if is_ours {
        let stores = ahead_ms.iter().map(|(store, _)| format!("{store}'s")).collect::<Vec<_>>().join(" and ");
        let direction = if *worst < 0 { "ahead of" } else { "behind" };
        format!("this machine's clock is {} ms {direction} {stores}{}", worst.abs(), tokens(-worst))
    } else {
        let direction = if *worst < 0 { "behind" } else { "ahead of" };
        let opening = match (*store, *worst < 0) {
            ("Redis", true) => "; sales open and end late by that much",
            ("Redis", false) => "; sales open and end early by that much",
            _ => "",
        };
        format!("{store}'s is {} ms {direction} this machine's{opening}{}", worst.abs(), tokens(-worst))
    };
    let what_to_do = "let every machine run a time service such as chrony: sales open by Redis's clock, user \
                      tokens are judged by the clock of the machine that runs the server";
    Some(if difference < config::DOCTOR_CLOCK_RED_MS {
        Finding::yellow(check, what, what_to_do)
    } else {
        Finding::red(check, what, what_to_do)
    })
}

/// What a server on this machine makes of user tokens while its clock is so far ahead of the others'.
fn tokens(ahead_ms: i64) -> String {
    let leeway = config::JWT_LEEWAY_SECONDS;
    let beyond = ahead_ms.unsigned_abs() / 1_000;
    if beyond <= leeway {
        return String::new();
    }
    let beyond = beyond - leeway;
    if ahead_ms > 0 {
        format!("; a server on this machine refuses user tokens as expired {beyond} s before they are")
    } else {
        format!("; a server on this machine takes user tokens for {beyond} s after they have expired")
    }
}

fn now_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

fn middle(from: i64, to: i64) -> i64 {
    from + (to - from) / 2
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[rstest::rstest]
    #[case(&[("Redis", 3), ("Postgres", -2)], Level::Green, "less than")]
    #[case(&[("Redis", 999)], Level::Green, "less than")]
    #[case(&[("Redis", 1_000), ("Postgres", 0)], Level::Yellow, "Redis's is 1000 ms ahead of")]
    #[case(&[("Redis", 600), ("Postgres", -700)], Level::Yellow, "Postgres's is 700 ms behind")]
    #[case(&[("Redis", 0), ("Postgres", -30_000)], Level::Red, "Postgres's is 30000 ms behind")]
    #[case(&[("Redis", 5_000)], Level::Yellow, "sales open and end early")]
    #[case(&[("Redis", -5_000)], Level::Yellow, "sales open and end late")]
    #[case(&[("Redis", -600_000), ("Postgres", -600_010)], Level::Red, "this machine's clock is 600010 ms ahead of Redis's and Postgres's")]
    #[case(&[("Redis", -600_000), ("Postgres", -600_010)], Level::Red, "refuses user tokens as expired 540 s before they are")]
    #[case(&[("Redis", 600_000), ("Postgres", 600_010)], Level::Red, "this machine's clock is 600010 ms behind")]
    #[case(&[("Redis", 600_000), ("Postgres", 600_010)], Level::Red, "takes user tokens for 540 s after")]
    #[case(&[("Redis", 2_000), ("Postgres", 2_010)], Level::Yellow, "this machine's clock is 2010 ms behind")]
    fn clocks_are_judged_by_the_largest_difference_between_any_two(
        #[case] ahead_ms: &[(&str, i64)],
        #[case] level: Level,
        #[case] what: &str,
    ) {
        let finding = judge_clocks(ahead_ms).unwrap();
        assert_eq!(finding.level, level, "{finding:?}");
        assert!(finding.what.contains(what), "{finding:?}");
    }
}
