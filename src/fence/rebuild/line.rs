//! Decides the waiting list of one coupon: step 5 of a rebuild. The rows in Postgres that were not served are the line;
//! Redis knows its order. After Postgres has lost commits, the places that only Redis has get their rows back.

use std::collections::HashSet;

use crate::domain::{CouponId, OrderId, UserId, WaitingUser};
use crate::postgres::PostgresError;
use crate::postgres::rebuild::Decision;
use crate::redis::waitlist::Line;

/// The users who shall wait, in order. `None` if Redis has this line already.
pub async fn decide_line(
    decision: &mut Decision<'_>,
    coupon: &CouponId,
    stored: Line,
    after_loss: bool,
) -> Result<Option<Vec<WaitingUser>>, PostgresError> {
    let rows = decision.unserved(coupon).await?;
    let with_row: HashSet<OrderId> = rows.iter().map(|waiting| waiting.order).collect();
    let is_served = match after_loss {
        true => {
            decision.recorded(&stored.users.iter().map(|waiting| waiting.order).collect::<Vec<_>>()).await?
        }
        false => HashSet::new(),
    };
    let stays = |waiting: &&WaitingUser| {
        with_row.contains(&waiting.order) || after_loss && !is_served.contains(&waiting.order)
    };
    let mut users: HashSet<UserId> = HashSet::new();
    let line: Vec<WaitingUser> = stored
        .users
        .iter()
        .filter(stays)
        .chain(&rows)
        .filter(|waiting| users.insert(waiting.user.clone()))
        .cloned()
        .collect();
    if line.len() != rows.len() || line.iter().any(|waiting| !with_row.contains(&waiting.order)) {
        decision.replace_unserved(coupon, &line).await?;
    }
    Ok((stored.is_damaged || line != stored.users).then_some(line))
}
