//! Decides the waiting list of one coupon: step 5 of a rebuild. The rows in Postgres that were not served are the line;
//! Redis knows its order, and a user without a place gets the place of the time of the request. After Postgres has lost
//! commits, the places that only Redis has get their rows back.

use std::collections::{HashMap, HashSet};

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
    let with_row: HashMap<OrderId, i64> = rows.iter().map(|row| (row.waiting.order, row.number)).collect();
    let is_served = if after_loss {
        let orders: Vec<OrderId> = stored.users.iter().map(|waiting| waiting.order).collect();
        decision.recorded(&orders).await?
    } else {
        HashSet::new()
    };
    let stays = |waiting: &&WaitingUser| {
        with_row.contains_key(&waiting.order) || after_loss && !is_served.contains(&waiting.order)
    };
    let mut users: HashSet<UserId> = HashSet::new();
    let mut is_first = |waiting: &&WaitingUser| users.insert(waiting.user.clone());
    let kept = stored.users.iter().filter(stays).filter(&mut is_first);
    let kept: Vec<_> = kept.map(|waiting| (waiting, with_row.get(&waiting.order).copied())).collect();
    let newest = rows.iter().filter(|row| row.is_newest && is_first(&&row.waiting));
    let missing: Vec<_> = newest.map(|row| (&row.waiting, row.number)).collect();
    let line = merge(&kept, &missing);
    if line.len() != rows.len() || line.iter().any(|waiting| !with_row.contains_key(&waiting.order)) {
        decision.replace_unserved(coupon, &line).await?;
    }
    Ok((stored.is_damaged || line != stored.users).then_some(line))
}

/// The users of `kept` in their order, and each user of `missing` before those whose rows have a higher number.
fn merge(kept: &[(&WaitingUser, Option<i64>)], missing: &[(&WaitingUser, i64)]) -> Vec<WaitingUser> {
    let mut line = Vec::with_capacity(kept.len() + missing.len());
    let mut missing = missing.iter().peekable();
    for (waiting, number) in kept {
        while let Some((earlier, _)) = missing.next_if(|(_, missing)| Some(*missing) < *number) {
            line.push((*earlier).clone());
        }
        line.push((*waiting).clone());
    }
    line.extend(missing.map(|(waiting, _)| (*waiting).clone()));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_users_come_before_those_who_joined_later_and_the_others_keep_their_order() {
        let users: Vec<WaitingUser> = (0..6)
            .map(|number| WaitingUser {
                user: format!("user-{number}").parse().unwrap(),
                order: OrderId::mint(),
                key: None,
            })
            .collect();
        let user = |number: i64| &users[usize::try_from(number).unwrap()];
        for (kept, missing, expected) in [
            (&[][..], &[0, 1][..], &[0, 1][..]),
            (&[2, 1], &[], &[2, 1]),
            (&[2, 1, 4], &[0, 3, 5], &[0, 2, 1, 3, 4, 5]),
        ] {
            let kept: Vec<_> = kept.iter().map(|&n| (user(n), Some(n))).collect();
            let missing: Vec<_> = missing.iter().map(|&n| (user(n), n)).collect();
            let expected: Vec<WaitingUser> = expected.iter().map(|&n| user(n).clone()).collect();
            assert_eq!(merge(&kept, &missing), expected);
        }
        // A place that an older copy of Postgres lacks has no number.
        let line = merge(&[(user(5), None), (user(1), Some(1))], &[(user(0), 0)]);
        assert_eq!(line, [user(5), user(0), user(1)].map(Clone::clone));
    }
}
