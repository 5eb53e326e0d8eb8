//! Whether Postgres has lost commits that Redis still holds (a restored copy, an asynchronous failover).
//! Then a person must decide: rebuilding from such a Postgres would forget winners.

use super::{Loss, counter};
use crate::model::CouponId;
use crate::postgres::fence::FenceRow;
use crate::redis::info::{self, Look};
use crate::redis::script::marker_epoch;
use crate::redis::{Redis, RedisError};

/// What Postgres has lost, if it is not the one of the last agreement while Redis is whole.
pub async fn by_postgres(
    redis: &Redis,
    seen: &Look,
    row: &FenceRow,
    loss: Option<&Loss>,
    strangers: &[CouponId],
) -> Result<Option<String>, RedisError> {
    let Some(why) = change(seen, row, loss, strangers) else { return Ok(None) };
    Ok(is_whole(redis, seen, row).await?.then_some(why))
}

/// Known, and nothing has changed that would make a rebuild without a person right.
pub fn waits_for_a_person(seen: &Look, row: &FenceRow) -> bool {
    row.postgres_lost && seen.run_id == row.redis_run_id && seen.marker.is_some()
}

/// For the operator, at the first place where he looks.
pub fn sentence(why: &str) -> String {
    format!(
        "Postgres has lost commits ({why}), and Redis still holds their claims: claims wait for a person. \
         If this is the right database, `seckill reconcile --rebuild` makes the lost orders again"
    )
}

fn change(seen: &Look, row: &FenceRow, loss: Option<&Loss>, strangers: &[CouponId]) -> Option<String> {
    let is_older_copy =
        seen.postgres_lsn.as_ref().zip(row.lsn.as_ref()).is_some_and(|(noted, now)| now < noted);
    if row.postgres_lost {
        Some("noticed before".into())
    } else if let Some(stranger) = strangers.first() {
        Some(format!("it does not know coupon {stranger}"))
    } else if marker_counter(seen) > counter(&row.epoch) {
        Some("its epoch is older than the one in Redis".into())
    } else if is_older_copy || loss.is_some_and(|loss| loss.by_postgres) {
        Some("it is an older copy of itself".into())
    } else if row.this_postgres != row.postgres_identity && !row.postgres_identity.is_empty() {
        Some("another server or timeline has taken its place".into())
    } else {
        None
    }
}

/// The Redis of the last agreement, or of a later one than this Postgres remembers, with all its sums.
async fn is_whole(redis: &Redis, seen: &Look, row: &FenceRow) -> Result<bool, RedisError> {
    let marker = marker_counter(seen);
    let is_of_the_agreement = if marker > counter(&row.epoch) {
        seen.marker.as_ref().is_some_and(|marker| marker.starts_with("ready:"))
    } else {
        // A rebuild that died after its new epoch leaves the marker behind the row.
        seen.run_id == row.redis_run_id && seen.marker.is_some()
    };
    if !is_of_the_agreement || !seen.has_group {
        return Ok(false);
    }
    let mut cursor = "0".to_owned();
    loop {
        let (coupons, next) = info::scan_coupons(redis, &cursor).await?;
        match info::first_wrong_sum(redis, &coupons).await {
            Ok(None) => {}
            Ok(Some(_)) | Err(RedisError::WrongType(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        if next == "0" {
            return Ok(true);
        }
        cursor = next;
    }
}

fn marker_counter(seen: &Look) -> u64 {
    seen.marker.as_deref().and_then(marker_epoch).map_or(0, counter)
}
