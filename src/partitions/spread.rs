//! Coupons with shares in several partitions, as one coupon: creation, edits, reads, and claims that get units from other shares.
//! A coupon of one partition takes the same way with one share.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use super::moves::{self, Refilled, SeenShare};
use super::{PartitionFunctions, Partitions};
use crate::claims::batcher::Unavailable;
use crate::claims::claim::{ClaimError, Claimed};
use crate::config;
use crate::coupons::definitions::{AdminCoupon, CouponError, Created, ExpectedVersion};
use crate::domain::{
    CouponId, CouponPatch, CouponSnapshot, Definition, IdempotencyKey, NewCoupon, OrderId, Origin, Partition,
    Refusal, Spread, UserId,
};
use crate::fence::StoreError;
use crate::orders::unrecorded::NotFound;
use crate::postgres::coupons::{self, Edited};
use crate::postgres::shares::{self, ShareEdit};

impl Partitions {
    /// Claims one unit for the user; see [`Claims::claim`](crate::claims::claim::Claims::claim). If the user's share has no
    /// unit left, the claim waits until it gets units of another share, or all shares are sold out.
    ///
    /// # Errors
    /// As `Claims::claim`; also if it is not known in time whether another share has units.
    pub async fn claim(
        &self,
        coupon: &CouponId,
        user: &UserId,
        key: Option<IdempotencyKey>,
        wait: Duration,
    ) -> Result<Claimed, ClaimError> {
        let deadline = Instant::now() + config::CLAIM_DEADLINE;
        let home = self.home(coupon, user).await?;
        loop {
            let claimed = home.claims.claim(coupon, user, key.clone(), wait).await?;
            if !self.catalogue.is_spread(coupon) {
                return Ok(claimed);
            }
            if claimed != Claimed::Refused(Refusal::SoldOut) {
                return Ok(self.with_stock_of_whole(coupon, claimed).await);
            }
            let refused = Instant::now();
            match self.moves.refill(self, coupon, home.fence.partition(), refused).await? {
                Refilled::SoldOut => return Ok(claimed),
                Refilled::Moved => {}
                Refilled::InFlight => tokio::time::sleep(config::MOVE_POLL).await,
            }
            if Instant::now() >= deadline {
                return Err(Unavailable::Late.into());
            }
        }
    }

    /// The answer with the stock of all shares, at most `SNAPSHOT_MAX_AGE` old; with that of the user's share if another
    /// partition is down.
    async fn with_stock_of_whole(&self, coupon: &CouponId, claimed: Claimed) -> Claimed {
        let Ok(Some(whole)) = self.snapshot(coupon).await else { return claimed };
        let stock = whole.stock;
        match claimed {
            Claimed::Accepted { order, .. } => Claimed::Accepted { order, stock },
            Claimed::Held { order, .. } => Claimed::Held { order, stock },
            other => other,
        }
    }

    /// The partition of a claim of the coupon: the user's, or for an admin the order's.
    ///
    /// # Errors
    /// As [`shares`](Self::shares) and [`of_order`](Self::of_order).
    pub async fn of_claim(
        &self,
        coupon: &CouponId,
        order: OrderId,
        user: Option<&UserId>,
    ) -> Result<Arc<PartitionFunctions>, NotFound> {
        match user {
            Some(user) => Ok(self.home(coupon, user).await?),
            None if self.catalogue.is_spread(coupon) => self.of_order(order, None).await,
            None => Ok(self.of(coupon).await?),
        }
    }

    /// Creates a coupon and returns when it is in force in every partition that has a share of it.
    ///
    /// # Errors
    /// As [`Coupons::create`](crate::coupons::definitions::Coupons::create); also if there are fewer partitions than shares.
    pub async fn create(&self, new: NewCoupon, origin: &Origin) -> Result<Created, CouponError> {
        let id = new.id.clone();
        if new.spread.is_none_or(|spread| spread == 1) {
            let existing = coupons::shares(&self.postgres.pool, &id).await?;
            if existing.len() > 1 {
                return Err(CouponError::Exists(id));
            }
            return self.of_new(&id).await?.coupons.create(new, origin).await;
        }
        let named = new.durability;
        let mut whole = new.define()?;
        let shares = self.shares_of_new(&whole).await?;
        whole.durability = shares[0].coupons.durability_of_new(named).await?;
        let parts = even_parts(whole.total, shares.len());
        let rows: Vec<(Partition, Definition)> = shares
            .iter()
            .zip(parts)
            .map(|(share, total)| (share.fence.partition(), Definition { total, ..whole.clone() }))
            .collect();
        let is_new = coupons::insert_shares(&self.postgres.pool, &whole, &rows, origin).await?;
        if !is_new {
            let coupon = self.coupon(&id).await?;
            let is_same = Definition { version: coupon.definition.version, ..whole } == coupon.definition;
            return if is_same { Ok(Created::Same(coupon)) } else { Err(CouponError::Exists(id)) };
        }
        let published = shares.iter().zip(&rows).map(|(share, (_, row))| share.coupons.publish_new(row));
        try_join_all(published).await?;
        let coupon = self.in_force(&id).await?;
        tracing::info!(coupon = %id, total = whole.total, "created coupon {id} with {} shares", rows.len());
        Ok(Created::New(coupon))
    }

    /// The partitions for a new coupon with several shares: those that have one already, else those with the fewest coupons.
    async fn shares_of_new(&self, new: &Definition) -> Result<Vec<Arc<PartitionFunctions>>, CouponError> {
        let existing = coupons::shares(&self.postgres.pool, &new.id).await?;
        if !existing.is_empty() {
            let get = |row: &coupons::CouponRow| self.get(row.partition).map_err(CouponError::from);
            return existing.iter().map(get).collect();
        }
        let spread = new.spread.map_or(1, |spread| usize::try_from(spread.shares).unwrap_or(1));
        let counts = self.catalogue.count_by_partition();
        let mut up = self.all();
        let found = up.len();
        if found < spread {
            return Err(CouponError::TooFewPartitions { spread, found });
        }
        up.retain(|functions| functions.fence.session().is_ok());
        up.sort_by_key(|functions| counts.get(&functions.fence.partition()).copied().unwrap_or(0));
        up.truncate(spread);
        if up.len() < spread {
            return Err(StoreError::NotReady("too few partitions accept claims".into()).into());
        }
        up.sort_by_key(|functions| functions.fence.partition());
        Ok(up)
    }

    /// A coupon as it is now, in force or not.
    ///
    /// # Errors
    /// If there is none, or a store of one of its partitions does not answer.
    pub async fn coupon(&self, id: &CouponId) -> Result<AdminCoupon, CouponError> {
        let shares = self.shares(id).await?;
        let views = try_join_all(shares.iter().map(|share| share.coupons.get(id))).await?;
        merge(views).ok_or_else(|| CouponError::Unknown(id.clone()))
    }

    /// A coupon as buyers see it, at most `SNAPSHOT_MAX_AGE` old; `None` if Redis has none of that id.
    ///
    /// # Errors
    /// If the fence of one of its partitions is down, or Redis does not answer.
    pub async fn snapshot(&self, id: &CouponId) -> Result<Option<Arc<CouponSnapshot>>, StoreError> {
        let shares = self.shares(id).await?;
        let read = try_join_all(shares.iter().map(|share| share.snapshots.get(id))).await?;
        Ok(read.into_iter().flatten().reduce(|a, b| Arc::new(CouponSnapshot::merge(&a, &b))))
    }

    /// Edits a coupon and returns when the edit is in force in all of its partitions. A higher total goes to the shares with
    /// the fewest units left; a lower one is taken from those with the most.
    ///
    /// # Errors
    /// As [`Coupons::edit`](crate::coupons::definitions::Coupons::edit).
    pub async fn edit(
        &self,
        id: &CouponId,
        patch: &CouponPatch,
        expected: &ExpectedVersion,
        origin: &Origin,
    ) -> Result<AdminCoupon, CouponError> {
        if !self.catalogue.is_spread(id) {
            return self.of(id).await?.coupons.edit(id, patch, expected, origin).await;
        }
        let deadline = Instant::now() + config::COUPON_EDIT_TIMEOUT;
        while Instant::now() < deadline {
            let rows = coupons::shares(&self.postgres.pool, id).await?;
            let old = whole_of(rows.iter().map(|row| &row.definition))
                .ok_or_else(|| CouponError::Unknown(id.clone()))?;
            expected.check(old.version)?;
            let edited = patch.apply(&old)?;
            if edited == old {
                return self.in_force(id).await;
            }
            let seen = moves::look(self, id).await?;
            if seen.iter().zip(&rows).any(|(share, row)| share.hash.version() != row.definition.version) {
                // Another edit or a move is on its way to Redis.
                self.publish_all(id, &seen).await?;
                continue;
            }
            let change = Change { old: &old, edited: &edited };
            let (shares, is_enough) = change.divide(&rows, &seen).await?;
            let result = if is_enough {
                shares::edit(&self.postgres.pool, &shares, (&old, &edited), origin).await?
            } else {
                Edited::TotalTooLow
            };
            match result {
                Edited::Done => {
                    self.publish_all(id, &seen).await?;
                    tracing::info!(coupon = %id, "edited coupon {id}");
                    return self.in_force(id).await;
                }
                Edited::TotalTooLow => {
                    self.cancel_takes(&shares, &seen).await?;
                    let held = seen.iter().map(|share| share.hash.total() - share.hash.stock()).sum();
                    return Err(CouponError::TotalTooLow { coupon: id.clone(), held });
                }
                Edited::Stale => self.cancel_takes(&shares, &seen).await?,
            }
        }
        Err(CouponError::Contended)
    }

    /// Waits until every share is in force.
    async fn in_force(&self, id: &CouponId) -> Result<AdminCoupon, CouponError> {
        self.catalogue.refresh_briefly(Duration::ZERO).await;
        let shares = self.shares(id).await?;
        let views = try_join_all(shares.iter().map(|share| share.coupons.view_in_force(id))).await?;
        merge(views).ok_or_else(|| CouponError::Unknown(id.clone()))
    }

    async fn publish_all(&self, id: &CouponId, seen: &[SeenShare]) -> Result<(), CouponError> {
        let publish = seen.iter().map(|share| moves::publish_current(&self.postgres, id, share));
        try_join_all(publish).await.map(drop).map_err(CouponError::NotPublished)
    }

    /// Gives taken units back: a new version of the share cancels the take.
    async fn cancel_takes(&self, shares: &[ShareEdit], seen: &[SeenShare]) -> Result<(), CouponError> {
        for (edit, share) in shares.iter().zip(seen).filter(|(edit, _)| edit.taken_in.is_some()) {
            let (id, version) = (&edit.old.id, edit.old.version);
            coupons::renew(&self.postgres.pool, edit.partition, id, version, false).await?;
            moves::publish_current(&self.postgres, id, share).await?;
        }
        Ok(())
    }
}

/// An edit of the whole, before it is divided among the shares.
struct Change<'a> {
    old: &'a Definition,
    edited: &'a Definition,
}

impl Change<'_> {
    /// The edit of each share; `false` if the shares have too few free units for the lower total.
    async fn divide(
        &self,
        rows: &[coupons::CouponRow],
        seen: &[SeenShare],
    ) -> Result<(Vec<ShareEdit>, bool), CouponError> {
        let Self { old, edited } = self;
        let more = edited.total - old.total;
        let stocks: Vec<i64> = seen.iter().map(|share| share.hash.stock()).collect();
        let mut changes = if more >= 0 { level_up(&stocks, more) } else { vec![0; stocks.len()] };
        let mut taken_in = vec![None; stocks.len()];
        let mut lacking = -more.min(0);
        let mut richest: Vec<usize> = (0..stocks.len()).collect();
        richest.sort_by_key(|&index| Reverse(stocks[index]));
        for index in richest {
            if lacking == 0 {
                break;
            }
            if let Some(take) = moves::take_units(&old.id, &seen[index], lacking).await? {
                // An abandoned take may have taken more: the rest stays in the share's total.
                let units = take.units.min(lacking);
                changes[index] = -units;
                lacking -= units;
                taken_in[index] = Some(take.epoch);
            }
        }
        let shares = rows.iter().zip(changes).zip(taken_in).map(|((row, change), taken_in)| ShareEdit {
            partition: row.partition,
            old: row.definition.clone(),
            edited: Definition {
                total: row.definition.total + change,
                version: row.definition.version,
                spread: edited.spread.map(|spread| Spread { whole: edited.total, ..spread }),
                ..(*edited).clone()
            },
            taken_in,
        });
        Ok((shares.collect(), lacking == 0))
    }
}

/// Divides units evenly; the first parts get the rest.
fn even_parts(units: i64, parts: usize) -> Vec<i64> {
    let parts = i64::try_from(parts).unwrap_or(i64::MAX).max(1);
    (0..parts).map(|part| units / parts + i64::from(part < units % parts)).collect()
}

/// Divides `more` units so that the lowest of the resulting stocks is as high as possible.
fn level_up(stocks: &[i64], more: i64) -> Vec<i64> {
    let mut lowest: Vec<usize> = (0..stocks.len()).collect();
    lowest.sort_by_key(|&index| stocks[index]);
    let mut changes = vec![0; stocks.len()];
    for count in (1..=lowest.len()).rev() {
        let group = &lowest[..count];
        let sum: i64 = group.iter().map(|&index| stocks[index]).sum::<i64>() + more;
        if sum / i64::try_from(count).unwrap_or(1) < stocks[group[count - 1]] {
            continue;
        }
        for (&index, level) in group.iter().zip(even_parts(sum, count)) {
            changes[index] = level - stocks[index];
        }
        break;
    }
    changes
}

/// The definition of the whole coupon: the total of all shares, and a version that grows with each of theirs.
fn whole_of<'a>(shares: impl Iterator<Item = &'a Definition>) -> Option<Definition> {
    shares.cloned().reduce(|a, b| Definition {
        total: a.total + b.total,
        version: a.version + b.version,
        ..a
    })
}

pub(super) fn merge(shares: Vec<AdminCoupon>) -> Option<AdminCoupon> {
    let definition = whole_of(shares.iter().map(|share| &share.definition))?;
    shares.into_iter().reduce(AdminCoupon::merge).map(|coupon| AdminCoupon { definition, ..coupon })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_divided_evenly_and_none_is_lost() {
        assert_eq!(even_parts(10, 4), [3, 3, 2, 2]);
        assert_eq!(even_parts(2, 4), [1, 1, 0, 0]);
    }

    proptest::proptest! {
        #[test]
        fn more_units_raise_the_lowest_stocks(stocks in proptest::collection::vec(-5_i64..50, 1..8), more in 0_i64..200) {
            let changes = level_up(&stocks, more);
            let after: Vec<i64> = stocks.iter().zip(&changes).map(|(stock, change)| stock + change).collect();
            let raised = after.iter().zip(&changes).filter(|(_, change)| **change > 0).map(|(after, _)| *after).max();
            proptest::prop_assert_eq!(changes.iter().sum::<i64>(), more);
            proptest::prop_assert!(changes.iter().all(|change| *change >= 0));
            if let Some(raised) = raised {
                proptest::prop_assert!(after.iter().all(|after| raised <= after + 1), "{:?} {:?}", stocks, changes);
            }
        }
    }
}
