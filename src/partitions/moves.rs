//! Moves units of a coupon between its shares: to a share that has none left and where users claim. A move is a take in Redis,
//! then a commit in Postgres, then a publication of both shares. Also decides whether the coupon is sold out as a whole.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::future::try_join_all;

use super::{PartitionFunctions, Partitions};
use crate::config;
use crate::coupons::publish::publish;
use crate::domain::{CouponId, Partition};
use crate::fence::{Session, StoreError};
use crate::metrics;
use crate::postgres::{Postgres, coupons, shares};
use crate::redis::coupon_hash::{self, CouponHash};
use crate::redis::scripts::take::{self, Taken};

/// What a share without units found at the other shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refilled {
    /// The share has got units: claim again.
    Moved,
    /// Units are on their way from one share to another: look again.
    InFlight,
    /// No share had a unit, and none was on its way.
    SoldOut,
}

/// The shares that claims wait for. A cheap handle.
#[derive(Clone, Default)]
pub struct Moves {
    waiting: Arc<Mutex<WaitingShares>>,
}

type WaitingShares = HashMap<(CouponId, Partition), Arc<WaitingShare>>;

/// The claims that wait for units of one share, and the result that they share.
#[derive(Default)]
struct WaitingShare {
    claims: AtomicI64,
    /// When the last look began and ended, and what it found. Locked during a look, so that all claims wait for one.
    last: tokio::sync::Mutex<Option<(Instant, Instant, Refilled)>>,
}

/// Counts a claim for as long as it waits.
struct WaitingClaim<'a>(&'a AtomicI64);

impl<'a> WaitingClaim<'a> {
    fn new(claims: &'a AtomicI64) -> Self {
        claims.fetch_add(1, Ordering::Relaxed);
        Self(claims)
    }
}

impl Drop for WaitingClaim<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Moves {
    /// Gets units for the share `home`, which had none at `refused`. Claims that wait at the same time share one move.
    ///
    /// # Errors
    /// If a partition of the coupon or Postgres does not answer: then it is not known whether the coupon is sold out.
    pub async fn refill(
        &self,
        partitions: &Partitions,
        coupon: &CouponId,
        home: Partition,
        refused: Instant,
    ) -> Result<Refilled, StoreError> {
        let share = self.share(coupon, home);
        let _waiting = WaitingClaim::new(&share.claims);
        let mut last = share.last.lock().await;
        if let Some((begun, ended, found)) = *last {
            let is_recent = match found {
                Refilled::SoldOut => begun.elapsed() < config::SOLD_OUT_MAX_AGE,
                Refilled::Moved => ended > refused,
                Refilled::InFlight => begun > refused,
            };
            if is_recent {
                return Ok(found);
            }
        }
        let begun = Instant::now();
        let (partitions, coupon) = (partitions.clone(), coupon.clone());
        let waiting = share.claims.load(Ordering::Relaxed);
        // To its end even if the client goes away: otherwise the units stay taken until the take counts as abandoned.
        let look = tokio::spawn(async move { look_and_move(&partitions, &coupon, home, waiting).await });
        let found = look.await.map_err(|error| StoreError::NotReady(error.to_string().into()))??;
        *last = Some((begun, Instant::now(), found));
        Ok(found)
    }

    fn share(&self, coupon: &CouponId, home: Partition) -> Arc<WaitingShare> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry((coupon.clone(), home)).or_default().clone()
    }
}

/// A share as Redis has it.
pub(super) struct SeenShare {
    pub functions: Arc<PartitionFunctions>,
    pub session: Arc<Session>,
    pub hash: CouponHash,
}

impl SeenShare {
    fn partition(&self) -> Partition {
        self.session.epoch.partition
    }
}

/// Reads all shares of the coupon.
pub(super) async fn look(partitions: &Partitions, coupon: &CouponId) -> Result<Vec<SeenShare>, StoreError> {
    let reads = partitions.shares(coupon).await?.into_iter().map(|functions| async move {
        let session = functions.fence.require_session()?;
        let hash = coupon_hash::read_hash(&session.redis, coupon).await.inspect_err(|error| {
            functions.fence.redis_failed(&session.epoch, error);
        })?;
        Ok::<_, StoreError>(SeenShare { functions, session, hash })
    });
    try_join_all(reads).await
}

async fn look_and_move(
    partitions: &Partitions,
    coupon: &CouponId,
    home: Partition,
    waiting: i64,
) -> Result<Refilled, StoreError> {
    let shares = look(partitions, coupon).await?;
    let Some(to) = shares.iter().find(|share| share.partition() == home) else {
        return Err(StoreError::NotReady(format!("partition {home} has no share of coupon {coupon}").into()));
    };
    if to.hash.stock() > 0 {
        return Ok(Refilled::Moved);
    }
    let richest = shares.iter().filter(|share| share.hash.stock() > 0).max_by_key(|share| share.hash.stock());
    if let Some(from) = richest {
        // Half of what is there: the other share goes on selling, and a few moves reach every unit.
        let wanted = waiting.max(from.hash.stock() - from.hash.stock() / 2);
        return move_units(&partitions.postgres, coupon, from, to, wanted).await;
    }
    let total: i64 = shares.iter().map(|share| share.hash.total()).sum();
    let is_whole = shares.iter().all(|share| share.hash.units_of_all_shares() == Some(total));
    Ok(if is_whole { Refilled::SoldOut } else { Refilled::InFlight })
}

async fn move_units(
    postgres: &Postgres,
    coupon: &CouponId,
    from: &SeenShare,
    to: &SeenShare,
    wanted: i64,
) -> Result<Refilled, StoreError> {
    let Some(take) = take_units(coupon, from, wanted).await? else { return Ok(Refilled::InFlight) };
    let is_moved = shares::commit_move(&postgres.pool, coupon, &take, to.partition()).await?;
    if is_moved {
        metrics::MOVES.add(1);
        metrics::MOVED_UNITS.add(take.units.unsigned_abs());
        tracing::debug!(
            %coupon,
            units = take.units,
            "moved {} units of coupon {coupon} from partition {} to {}",
            take.units,
            from.partition(),
            to.partition()
        );
        publish_current(postgres, coupon, to).await?;
    }
    // Also clears a take that no longer counts.
    publish_current(postgres, coupon, from).await?;
    Ok(if is_moved { Refilled::Moved } else { Refilled::InFlight })
}

/// Takes units from a share; `None` if it has none now, or another version.
pub(super) async fn take_units(
    coupon: &CouponId,
    from: &SeenShare,
    wanted: i64,
) -> Result<Option<shares::Take>, StoreError> {
    let SeenShare { functions, session, hash } = from;
    let fence = &functions.fence;
    let version = hash.version();
    let taken = take::take(&session.redis, &session.ready, coupon, version, wanted).await;
    let taken = taken.inspect_err(|error| fence.redis_failed(&session.epoch, error))?;
    if !fence.is_current(session) {
        return Err(StoreError::Fenced);
    }
    match taken {
        Taken::Units(0) | Taken::OtherVersion => Ok(None),
        Taken::Units(units) => Ok(Some(shares::Take { epoch: session.epoch.clone(), version, units })),
        Taken::Fenced => {
            fence.marker_changed(session);
            Err(StoreError::Fenced)
        }
        Taken::Inconsistent => {
            fence
                .invalidate(&session.epoch, &format!("coupon {coupon} is absent from Redis or inconsistent"));
            Err(StoreError::Fenced)
        }
    }
}

/// Publishes the share as Postgres has it now.
pub(super) async fn publish_current(
    postgres: &Postgres,
    coupon: &CouponId,
    share: &SeenShare,
) -> Result<(), StoreError> {
    match coupons::get(&postgres.pool, share.partition(), coupon).await? {
        Some(row) if row.published_version < row.definition.version => {
            publish(&share.functions.fence, &share.session, postgres, false, &row.definition).await
        }
        _ => Ok(()),
    }
}
