//! Decides the waiting list of one coupon: step 5 of a rebuild. The rows in Postgres that were not served are the line;
//! Redis knows its order, and a user without a place gets the place of the time of the request. After Postgres has lost commits, the places that only Redis has get their rows back.

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
    let with_row: HashSet<OrderId> = rows.iter().map(|row| row.waiting.order).collect();
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
    let mut is_first = |waiting: &&WaitingUser| users.insert(waiting.user.clone());
    let kept: Vec<&WaitingUser> = stored.users.iter().filter(stays).filter(&mut is_first).collect();
    let newest = rows.iter().filter(|row| row.is_newest).map(|row| &row.waiting);
    let missing: Vec<&WaitingUser> = newest.filter(is_first).collect();
    let line = merge(&kept, &missing);
    if line.len() != rows.len() || line.iter().any(|waiting| !with_row.contains(&waiting.order)) {
        decision.replace_unserved(coupon, &line).await?;
    }
    Ok((stored.is_damaged || line != stored.users).then_some(line))
}

/// The users of `kept` in their order, and each user of `missing` before those who asked later.
fn merge(kept: &[&WaitingUser], missing: &[&WaitingUser]) -> Vec<WaitingUser> {
    let mut line = Vec::with_capacity(kept.len() + missing.len());
    let mut missing = missing.iter().copied().peekable();
    for &waiting in kept {
        while let Some(earlier) = missing.next_if(|missing| missing.order < waiting.order) {
            line.push(earlier.clone());
        }
        line.push(waiting.clone());
    }
    line.extend(missing.cloned());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_users_come_before_those_who_asked_later_and_the_others_keep_their_order() {
        let asked: Vec<WaitingUser> = (0..6)
            .map(|number| WaitingUser {
                user: format!("user-{number}").parse().unwrap(),
                order: OrderId(uuid::Uuid::from_u128(number)),
                key: None,
            })
            .collect();
        let of = |numbers: &[usize]| -> Vec<&WaitingUser> { numbers.iter().map(|&n| &asked[n]).collect() };
        for (kept, missing, expected) in [
            (&[][..], &[0, 1][..], &[0, 1][..]),
            (&[2, 1], &[], &[2, 1]),
            (&[2, 1, 4], &[0, 3, 5], &[0, 2, 1, 3, 4, 5]),
        ] {
            let expected: Vec<WaitingUser> = of(expected).into_iter().cloned().collect();
            assert_eq!(merge(&of(kept), &of(missing)), expected);
        }
    }
}
