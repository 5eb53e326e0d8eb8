//! Compares a coupon's waiting list in Redis with its rows in Postgres. A request to join commits its row first, so only
//! rows that are older than any running request count. Redis is read before and after Postgres: a user who joins, leaves
//! or is served between the reads is no difference.

use std::collections::HashSet;

use super::comparison::Comparison;
use super::error::ReconcileError;
use crate::config;
use crate::domain::{CouponId, OrderId, WaitingUser};
use crate::postgres::waitlist::{self as rows, UnservedRow};
use crate::redis::claims_hash;
use crate::redis::waitlist::{self as line, Line};

/// The kind of these differences in a report.
pub const KIND: &str = "waitlist";

/// What a waiting list has in only one store.
#[derive(Default)]
struct Found {
    /// Rows of requests that died, whose users have asked again since.
    outdated: Vec<WaitingUser>,
    /// Users with a row who neither wait in Redis nor hold the order.
    lost: Vec<WaitingUser>,
    /// Places without a row.
    without_row: Vec<WaitingUser>,
}

impl Comparison<'_> {
    /// Compares one waiting list. Removes outdated rows and adds missing ones; a rebuild restores lost places.
    pub(super) async fn waiting_list(&mut self, id: &CouponId) -> Result<(), ReconcileError> {
        let line = line::read(&self.session.redis, id).await?;
        if line.is_damaged {
            self.report.waitlist_drift += 1;
            self.name(KIND, id, None, None);
            self.take_fence_down(id, "its waiting list is damaged in Redis");
            return Ok(());
        }
        let found = self.find(id, line).await?;
        let all = || found.outdated.iter().chain(&found.lost).chain(&found.without_row);
        let differences = all().count();
        self.report.waitlist_drift += differences;
        for WaitingUser { user, order, .. } in all() {
            self.name(KIND, id, Some(user.clone()), Some(*order));
        }
        if differences == 0 || !self.level.repairs() {
            return Ok(());
        }
        self.put_on_record(KIND, id).await?;
        if !found.lost.is_empty() {
            self.take_fence_down(id, "users have lost their places in its waiting list");
            return Ok(());
        }
        let outdated: Vec<OrderId> = found.outdated.iter().map(|waiting| waiting.order).collect();
        rows::remove(&self.postgres.pool, &outdated).await?;
        let missing: Vec<(CouponId, WaitingUser)> =
            found.without_row.into_iter().map(|waiting| (id.clone(), waiting)).collect();
        if !missing.is_empty() && !rows::add(&self.postgres.pool, &self.session.epoch, &missing).await? {
            return Err(ReconcileError::marker_changed(self.fence, self.session));
        }
        self.report.fixed += differences;
        Ok(())
    }

    async fn find(&self, id: &CouponId, before: Line) -> Result<Found, ReconcileError> {
        let (redis, pool) = (&self.session.redis, &self.postgres.pool);
        let rows = rows::old_unserved(pool, id).await?;
        let orders: Vec<OrderId> = before.users.iter().map(|waiting| waiting.order).collect();
        let with_row = rows::existing(pool, &orders).await?;
        let mut found = Found::default();
        let places: HashSet<OrderId> = orders.into_iter().collect();
        let mut suspects: Vec<UnservedRow> = Vec::new();
        let most = if self.is_for_receipt { config::RECEIPT_MAX_NAMES } else { config::REPORT_MAX_NAMES };
        for row in rows.into_iter().filter(|row| !places.contains(&row.waiting.order)) {
            let WaitingUser { user, order, .. } = &row.waiting;
            // Served, and not recorded yet.
            if !claims_hash::held_by(redis, id, user).await?.contains(order) {
                suspects.push(row);
            }
            if suspects.len() >= most {
                break;
            }
        }
        let mut without_row: Vec<WaitingUser> = before.users;
        without_row.retain(|waiting| !with_row.contains(&waiting.order));
        if suspects.is_empty() && without_row.is_empty() {
            return Ok(found);
        }
        // Read again: a user may have left, or may have been served and recorded.
        let after = line::read(redis, id).await?;
        let places: HashSet<OrderId> = after.users.iter().map(|waiting| waiting.order).collect();
        without_row.retain(|waiting| places.contains(&waiting.order));
        found.without_row = without_row;
        let still: HashSet<OrderId> =
            rows::old_unserved(pool, id).await?.iter().map(|row| row.waiting.order).collect();
        for UnservedRow { waiting, is_newest, .. } in suspects {
            if still.contains(&waiting.order) && !places.contains(&waiting.order) {
                if is_newest { &mut found.lost } else { &mut found.outdated }.push(waiting);
            }
        }
        Ok(found)
    }
}
