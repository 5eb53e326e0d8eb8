//! Whether the two stores agree with each other and with this machine's clock: the fence, the stock in Redis, the
//! clocks. `definitions.rs` compares the definitions.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use super::definitions;
use super::finding::{Finding, REPAIRED_BY_SERVER, pluralize};
use super::postgres::with_timeout;
use crate::config;
use crate::domain::{CouponId, Partition};
use crate::fence::promotion::Successor;
use crate::fence::{postgres_loss, probe};
use crate::postgres::fence::{self, FenceRow};
use crate::postgres::{PgConnection, PostgresError, coupons, health};
use crate::redis::probe::{self as redis_probe, RedisProbe};
use crate::redis::{Redis, RedisError, coupon_hash, server_info};

/// Compares the stores that answer, in each partition. A store that does not answer already has a finding. `redis` has a
/// connection for each partition.
pub async fn examine(redis: &[Redis], postgres: Option<PgConnection>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut postgres = postgres;
    for redis in redis {
        let mut of_partition = Vec::new();
        if let Some(postgres) = &mut postgres {
            of_partition.push(fence(redis, postgres).await);
        }
        of_partition.push(redis_stock(redis, postgres.as_mut()).await);
        if let Some(postgres) = &mut postgres {
            of_partition.push(definitions::examine(redis, postgres).await);
        }
        findings.extend(of_partition.into_iter().map(|finding| finding.of(redis.keys.partition)));
    }
    findings.extend(clocks(redis.first(), postgres.as_mut()).await);
    findings
}

async fn fence(redis: &Redis, postgres: &mut PgConnection) -> Finding {
    let probe = match redis_probe::probe(redis).await {
        Ok(probe) => probe,
        Err(error @ RedisError::NotAllowed(_)) => {
            let what_to_do = "see redis-permissions: claims continue once the user has that right";
            return Finding::red("fence", format!("down: {error}"), what_to_do);
        }
        Err(error) => return Finding::unreadable("fence", &error.to_string()),
    };
    // Redis is read first: an edit reaches Postgres before Redis.
    let in_redis = match coupon_hash::versions(redis).await {
        Ok(versions) => versions,
        Err(error) => return Finding::unreadable("fence", &error.to_string()),
    };
    let (row, in_postgres, successor) = match with_timeout(async {
        let row = fence::read_in(postgres, redis.keys.partition).await?;
        let versions = coupons::versions(&mut *postgres, redis.keys.partition).await?;
        let successor = Successor::find(postgres, &probe, &row).await?;
        Ok((row, versions, successor))
    })
    .await
    {
        Ok(read) => read,
        Err(error) => return Finding::unreadable("fence", &error.to_string()),
    };
    let sign = async {
        let compared = postgres_loss::Definitions::compare(redis, &in_redis, &in_postgres).await?;
        postgres_loss::by_postgres(redis, &probe, &row, None, &compared, &successor).await
    };
    match sign.await {
        Ok(sign) => fence_finding(&probe, &row, sign.map(|sign| sign.why)),
        Err(error) => Finding::unreadable("fence", &error.to_string()),
    }
}

fn fence_finding(redis: &RedisProbe, row: &FenceRow, postgres_loss: Option<String>) -> Finding {
    let check = "fence";
    if let Some(why) = postgres_loss {
        let what = format!(
            "down: Postgres has lost commits, or belongs to another Redis ({why}): claims wait for the operator"
        );
        return Finding::red(check, what, postgres_loss::WHAT_TO_DO);
    }
    let Err(difference) = probe::compare(redis, row) else {
        return Finding::green(check, format!("up: both stores are at epoch {}", row.epoch));
    };
    if redis.marker.as_deref().is_some_and(|marker| marker.starts_with("building:")) {
        let what = "down: Redis is being rebuilt from Postgres, or the process that rebuilt it has died";
        return Finding::red(check, what, REPAIRED_BY_SERVER);
    }
    if row.postgres_identity.is_empty() {
        return Finding::red(check, format!("down: {difference}"), "start `seckill serve`");
    }
    Finding::red(check, format!("down: {difference}"), REPAIRED_BY_SERVER)
}

/// Whether stock + claims = total in Redis, for every coupon of the partition in either store.
async fn redis_stock(redis: &Redis, postgres: Option<&mut PgConnection>) -> Finding {
    let check = "redis-stock";
    let mut coupons = BTreeSet::new();
    if let Some(postgres) = postgres
        && let Err(error) = add_published_ids(postgres, redis.keys.partition, &mut coupons).await
    {
        return Finding::unreadable(check, &error.to_string());
    }
    let wrong = match add_redis_ids(redis, &mut coupons).await {
        Ok(()) => {
            let coupons: Vec<CouponId> = coupons.iter().cloned().collect();
            coupon_hash::first_inconsistent(redis, &coupons).await.map(Option::<&CouponId>::cloned)
        }
        Err(error) => Err(error),
    };
    match wrong {
        Ok(None) => {
            let coupons = pluralize(coupons.len() as u64, "coupon", "coupons");
            Finding::green(check, format!("stock plus claims is the total, for {coupons}"))
        }
        Ok(Some(coupon)) => {
            let what = format!("coupon {coupon}: stock plus claims is not the total in Redis");
            Finding::red(check, what, REPAIRED_BY_SERVER)
        }
        Err(error @ RedisError::WrongType(_)) => Finding::red(check, error.to_string(), REPAIRED_BY_SERVER),
        Err(error) => Finding::unreadable(check, &error.to_string()),
    }
}

/// Adds the ids of published coupons: one that is missing in Redis is a finding too.
async fn add_published_ids(
    postgres: &mut PgConnection,
    partition: Partition,
    coupons: &mut BTreeSet<CouponId>,
) -> Result<(), PostgresError> {
    let mut after = String::new();
    loop {
        let page =
            with_timeout(health::published_ids(postgres, partition, &after, config::PAGE_MAX_ROWS)).await?;
        let Some(last) = page.last().cloned() else { return Ok(()) };
        coupons.extend(page.iter().filter_map(|id| id.parse().ok()));
        after = last;
    }
}

async fn add_redis_ids(redis: &Redis, coupons: &mut BTreeSet<CouponId>) -> Result<(), RedisError> {
    let mut cursor = "0".to_owned();
    loop {
        let (page, next) = coupon_hash::scan(redis, &cursor).await?;
        coupons.extend(page);
        if next == "0" {
            return Ok(());
        }
        cursor = next;
    }
}

/// Compares each store's clock with this machine's.
async fn clocks(redis: Option<&Redis>, postgres: Option<&mut PgConnection>) -> Option<Finding> {
    let mut ahead_ms = Vec::new();
    if let Some(redis) = redis {
        let sent_at = now_ms();
        if let Ok(store_ms) = server_info::now_ms(redis).await {
            ahead_ms.push(("Redis", store_ms - midpoint(sent_at, now_ms())));
        }
    }
    if let Some(postgres) = postgres {
        let sent_at = now_ms();
        if let Ok(store_ms) = with_timeout(health::now_ms(postgres)).await {
            ahead_ms.push(("Postgres", store_ms - midpoint(sent_at, now_ms())));
        }
    }
    clocks_finding(&ahead_ms)
}

/// `ahead_ms`: each store with the lead of its clock over this machine's, in ms. Sales open by Redis's clock,
/// reservations end by Postgres's, tokens expire by the server's. `None` if no store has answered.
fn clocks_finding(ahead_ms: &[(&str, i64)]) -> Option<Finding> {
    let check = "clocks";
    let (store, worst) = ahead_ms.iter().max_by_key(|(_, ms)| ms.abs())?;
    let tolerance = config::DOCTOR_CLOCK_YELLOW_MS;
    // The stores may also differ from each other: one clock ahead and one behind.
    let spread = ahead_ms.iter().map(|(_, ms)| ms).max().zip(ahead_ms.iter().map(|(_, ms)| ms).min());
    let spread = spread.map_or(0, |(highest, lowest)| highest - lowest);
    let difference = spread.max(worst.abs());
    if difference < tolerance {
        let stores = ahead_ms.iter().map(|(store, _)| *store).collect::<Vec<_>>().join(", ");
        return Some(Finding::green(
            check,
            format!("{stores} and this machine differ by less than {tolerance} ms"),
        ));
    }
    // If the stores agree with each other, this machine's clock is wrong.
    let is_this_machine = ahead_ms.len() > 1 && spread < tolerance;
    let what = if is_this_machine {
        let stores = ahead_ms.iter().map(|(store, _)| format!("{store}'s")).collect::<Vec<_>>().join(" and ");
        let direction = if *worst < 0 { "ahead of" } else { "behind" };
        format!("this machine's clock is {} ms {direction} {stores}{}", worst.abs(), token_effect(-worst))
    } else {
        let direction = if *worst < 0 { "behind" } else { "ahead of" };
        let sale_effect = match (*store, *worst < 0) {
            ("Redis", true) => "; sales open and end late by that much",
            ("Redis", false) => "; sales open and end early by that much",
            _ => "",
        };
        format!(
            "{store}'s clock is {} ms {direction} this machine's{sale_effect}{}",
            worst.abs(),
            token_effect(-worst)
        )
    };
    let what_to_do = "run a time service such as chrony on every machine: sales open by Redis's clock, user tokens expire \
                      by the clock of the machine that runs the server";
    Some(if difference < config::DOCTOR_CLOCK_RED_MS {
        Finding::yellow(check, what, what_to_do)
    } else {
        Finding::red(check, what, what_to_do)
    })
}

/// How a server on this machine treats user tokens if this machine's clock is `ahead_ms` ahead of the other machines'
/// clocks.
fn token_effect(ahead_ms: i64) -> String {
    let leeway = config::JWT_LEEWAY_SECONDS;
    let beyond = ahead_ms.unsigned_abs() / 1_000;
    if beyond <= leeway {
        return String::new();
    }
    let beyond = beyond - leeway;
    if ahead_ms > 0 {
        format!("; a server on this machine refuses user tokens as expired {beyond} s before they are")
    } else {
        format!("; a server on this machine accepts user tokens for {beyond} s after they have expired")
    }
}

fn now_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

fn midpoint(from: i64, to: i64) -> i64 {
    from + (to - from) / 2
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[rstest::rstest]
    #[case(&[("Redis", 3), ("Postgres", -2)], Level::Green, "less than")]
    #[case(&[("Redis", 999)], Level::Green, "less than")]
    #[case(&[("Redis", 1_000), ("Postgres", 0)], Level::Yellow, "Redis's clock is 1000 ms ahead of")]
    #[case(&[("Redis", 600), ("Postgres", -700)], Level::Yellow, "Postgres's clock is 700 ms behind")]
    #[case(&[("Redis", 0), ("Postgres", -30_000)], Level::Red, "Postgres's clock is 30000 ms behind")]
    #[case(&[("Redis", 5_000)], Level::Yellow, "sales open and end early")]
    #[case(&[("Redis", -5_000)], Level::Yellow, "sales open and end late")]
    #[case(&[("Redis", -600_000), ("Postgres", -600_010)], Level::Red, "this machine's clock is 600010 ms ahead of Redis's and Postgres's")]
    #[case(&[("Redis", -600_000), ("Postgres", -600_010)], Level::Red, "refuses user tokens as expired 540 s before they are")]
    #[case(&[("Redis", 600_000), ("Postgres", 600_010)], Level::Red, "this machine's clock is 600010 ms behind")]
    #[case(&[("Redis", 600_000), ("Postgres", 600_010)], Level::Red, "accepts user tokens for 540 s after")]
    #[case(&[("Redis", 2_000), ("Postgres", 2_010)], Level::Yellow, "this machine's clock is 2010 ms behind")]
    fn the_largest_difference_between_any_two_clocks_is_the_finding(
        #[case] ahead_ms: &[(&str, i64)],
        #[case] level: Level,
        #[case] what: &str,
    ) {
        let finding = clocks_finding(ahead_ms).unwrap();
        assert_eq!(finding.level, level, "{finding:?}");
        assert!(finding.what.contains(what), "{finding:?}");
    }
}
