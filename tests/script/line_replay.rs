//! The steps of a random history that change a waiting list, run through Redis and the oracle.

use proptest::test_runner::TestCaseError;
use seckill::domain::{JoinRefusal, OrderId, WaitingUser};
use seckill::redis::waitlist::{self, LineOutcome, Served, Standing};

use crate::history::{Join, SentMarker};
use crate::line_oracle::position_text;
use crate::oracle::{Refused, WrongType, coupon_id, key_name, marker_text, user_name};
use crate::replay::{Replay, assert_same};

/// Every reply of these steps that must occur in a history.
pub const ANSWERS: [&str; 32] = [
    "join: ended",
    "join: fenced",
    "join: forbidden",
    "join: held",
    "join: inconsistent",
    "join: joined",
    "join: key required",
    "join: limit reached",
    "join: no waitlist",
    "join: not sold out",
    "join: waits",
    "join: wrong type",
    "leave: fenced",
    "leave: forbidden",
    "leave: left",
    "leave: not in line",
    "leave: wrong type",
    "look: may join",
    "look: waits",
    "release: some units served, some back in stock",
    "release: units served",
    "serve: fenced",
    "serve: forbidden",
    "serve: inconsistent",
    "serve: nothing to give",
    "serve: stream full",
    "serve: units served",
    "serve: user in front may hold no more",
    "serve: wrong type",
    "claim: sold out while users wait",
    "join: at a stock above zero",
    "join: one user twice",
];

fn outcome_name<T>(
    outcome: &Result<LineOutcome<T>, Refused>,
    names: [&'static str; 4],
) -> Option<&'static str> {
    let [fenced, inconsistent, wrong_type, forbidden] = names;
    match outcome {
        Ok(LineOutcome::Done(_)) => None,
        Ok(LineOutcome::Fenced) => Some(fenced),
        Ok(LineOutcome::Inconsistent) => Some(inconsistent),
        Err(WrongType) => Some(wrong_type),
        Err(Refused::Forbidden) => Some(forbidden),
    }
}

impl Replay<'_> {
    pub fn join(&mut self, join: &Join, orders: &[OrderId]) -> Result<(), TestCaseError> {
        let users: Vec<WaitingUser> = join
            .users
            .iter()
            .zip(orders)
            .map(|(&(user, key), &order)| WaitingUser {
                user: user_name(user).parse().unwrap(),
                order,
                key: key.map(|key| key_name(key).parse().unwrap()),
            })
            .collect();
        let (redis, marker, id) = (&self.redis.redis, marker_text(join.marker), coupon_id(join.coupon));
        let reply = self.redis.runtime.block_on(async {
            match join.position {
                Some(position) => waitlist::join(redis, marker, &position_text(position), &id, &users).await,
                None => waitlist::look(redis, marker, &id, &users).await,
            }
        });
        let stock = self.oracle.coupons[join.coupon].number("stock");
        let expected = self.oracle.join(join, orders);
        let others = ["join: fenced", "join: inconsistent", "join: wrong type", "join: forbidden"];
        self.answers.extend(outcome_name(&expected, others));
        if let Ok(LineOutcome::Done(standings)) = &expected {
            for standing in &standings.users {
                self.answers.insert(match standing {
                    Standing::Joined(_) if join.position.is_none() => "look: may join",
                    Standing::Joined(_) if stock > 0 => "join: at a stock above zero",
                    Standing::Joined(_) => "join: joined",
                    Standing::Waits { order, .. } if join.position.is_some() && orders.contains(order) => {
                        "join: one user twice"
                    }
                    Standing::Waits { .. } if join.position.is_none() => "look: waits",
                    Standing::Waits { .. } => "join: waits",
                    Standing::Held(_) => "join: held",
                    Standing::Refused(JoinRefusal::NoWaitlist) => "join: no waitlist",
                    Standing::Refused(JoinRefusal::KeyRequired) => "join: key required",
                    Standing::Refused(JoinRefusal::LimitReached) => "join: limit reached",
                    Standing::Refused(JoinRefusal::Ended) => "join: ended",
                    Standing::Refused(JoinRefusal::NotSoldOut) => "join: not sold out",
                    Standing::Refused(JoinRefusal::Full) => "join: full",
                });
            }
        }
        assert_same("join", &expected, &reply)
    }

    pub fn leave(&mut self, coupon: usize, user: usize, marker: SentMarker) -> Result<(), TestCaseError> {
        let (id, name) = (coupon_id(coupon), user_name(user).parse().unwrap());
        let reply = waitlist::leave(&self.redis.redis, marker_text(marker), &id, &name);
        let reply = self.redis.runtime.block_on(reply);
        let expected = self.oracle.leave(coupon, user, marker);
        // This script does not compare sums.
        let others = ["leave: fenced", "leave: inconsistent", "leave: wrong type", "leave: forbidden"];
        self.answers.extend(outcome_name(&expected, others));
        if let Ok(LineOutcome::Done(order)) = &expected {
            self.answers.insert(if order.is_some() { "leave: left" } else { "leave: not in line" });
        }
        assert_same("leave", &expected, &reply)
    }

    pub fn serve(&mut self, coupon: usize, marker: SentMarker) -> Result<(), TestCaseError> {
        let id = coupon_id(coupon);
        let reply = waitlist::serve(&self.redis.redis, marker_text(marker), &id);
        let reply = self.redis.runtime.block_on(reply);
        let waiting = |replay: &Self| replay.oracle.coupons[coupon].waiting();
        let before = waiting(self);
        let expected = self.oracle.serve(coupon, marker);
        let others = ["serve: fenced", "serve: inconsistent", "serve: wrong type", "serve: forbidden"];
        self.answers.extend(outcome_name(&expected, others));
        if let Ok(LineOutcome::Done((Served { units, .. }, left))) = expected {
            let gone = before - waiting(self);
            self.answers.insert(if units > 0 { "serve: units served" } else { "serve: nothing to give" });
            if gone > units {
                self.answers.insert("serve: user in front may hold no more");
            }
            if self.oracle.room == Some(0) && left == 0 && waiting(self) > 0 {
                self.answers.insert("serve: stream full");
            }
        }
        assert_same("serve", &expected, &reply)
    }

    /// Names the units of a release that went to users in line.
    pub fn record_served(&mut self, served: i64, back: usize) {
        if served > 0 {
            self.answers.insert("release: units served");
        }
        if served > 0 && usize::try_from(served).unwrap() < back {
            self.answers.insert("release: some units served, some back in stock");
        }
    }
}
