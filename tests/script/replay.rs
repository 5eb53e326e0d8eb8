//! Random histories: after every step, the scripts' replies and the whole content of Redis must be those of the oracle.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use seckill::domain::{Claim, ClaimOutcome, CouponId, Definition, OrderId, Refusal};
use seckill::redis::RedisError;
use seckill::redis::scripts::claim::{self, BatchOutcome};
use seckill::redis::scripts::release::{self, EndedUnit, ReleaseOutcome, Released};
use seckill::redis::scripts::{self, Published};

use crate::harness::{NEVER_MS, TestRedis, open_coupon, reset};
use crate::history::{Batch, COUPONS, Edit, Join, SentMarker, Step, WhichOrder, WhichUnit, any_history};
use crate::line_replay;
use crate::oracle::{
    Expected, ExpectedClaim, Oracle, PAST_SECONDS, Refused, WrongType, coupon_id, key_name, marker_text,
    moment, now_ms, user_name,
};

/// The least number of histories; `PROPTEST_CASES` raises it.
const HISTORIES: u32 = 1_000;

/// One history, run through Redis and the oracle.
pub struct Replay<'a> {
    pub redis: &'a mut TestRedis,
    pub oracle: Oracle,
    batches: Vec<(Batch, Vec<OrderId>)>,
    joins: Vec<(Join, Vec<OrderId>)>,
    /// Names of the replies that have occurred.
    pub answers: &'a mut BTreeSet<&'static str>,
}

impl Replay<'_> {
    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Claim(batch) => {
                let orders: Vec<OrderId> = batch.claims.iter().map(|_| OrderId::mint()).collect();
                self.claim(batch, &orders)?;
                self.batches.push((batch.clone(), orders));
            }
            Step::ClaimAgain(which) if !self.batches.is_empty() => {
                let (batch, orders) = which.get(&self.batches).clone();
                self.claim(&batch, &orders)?;
            }
            Step::Publish(edit) => self.publish(edit)?,
            Step::Release { coupon, units, marker } => self.release(*coupon, units, *marker)?,
            Step::Join(join) => {
                let orders: Vec<OrderId> = join.users.iter().map(|_| OrderId::mint()).collect();
                self.join(join, &orders)?;
                self.joins.push((join.clone(), orders));
            }
            Step::JoinAgain(which) if !self.joins.is_empty() => {
                let (join, orders) = which.get(&self.joins).clone();
                self.join(&join, &orders)?;
            }
            Step::ClaimAgain(_) | Step::JoinAgain(_) => {}
            Step::Leave { coupon, user, marker } => self.leave(*coupon, *user, *marker)?,
            Step::Serve { coupon, marker } => self.serve(*coupon, *marker)?,
            Step::During(disturbance, steps) => {
                let before = self.oracle.clone();
                self.oracle.disturb(disturbance);
                self.oracle.write(&before, &self.redis.redis, &mut self.redis.raw);
                for step in steps {
                    self.step(step)?;
                }
                let disturbed = self.oracle.clone();
                self.oracle.mend(disturbance, &before);
                self.oracle.write(&disturbed, &self.redis.redis, &mut self.redis.raw);
            }
        }
        let actual = Oracle::read(&self.redis.redis, &mut self.redis.raw);
        let Oracle { room, forbidden, .. } = self.oracle;
        let actual = Oracle { room, forbidden, ..actual };
        prop_assert_eq!(actual, self.oracle.clone(), "Redis (left) and oracle (right) after {:?}", step);
        Ok(())
    }

    fn claim(&mut self, batch: &Batch, orders: &[OrderId]) -> Result<(), TestCaseError> {
        let claims: Vec<Claim> = batch
            .claims
            .iter()
            .zip(orders)
            .map(|(&(coupon, user, key), &order)| Claim {
                coupon: coupon_id(coupon),
                user: user_name(user).parse().unwrap(),
                order,
                key: key.map(|key| key_name(key).parse().unwrap()),
            })
            .collect();
        let deadline_ms = if batch.deadline_passed { PAST_SECONDS * 1_000 } else { NEVER_MS };
        let is_published =
            |id: &CouponId| (0..COUPONS).any(|number| batch.published[number] && coupon_id(number) == *id);
        let marker = marker_text(batch.marker);
        let earliest = now_ms();
        let reply = claim::claim_batch(&self.redis.redis, marker, deadline_ms, &claims, is_published);
        let reply = self.redis.runtime.block_on(reply);
        let latest = now_ms();

        let reply = match (self.oracle.claim(batch, orders), reply) {
            (Err(WrongType), Err(RedisError::WrongType(_))) => {
                self.answers.insert("claim: wrong type");
                return Ok(());
            }
            (Err(Refused::Forbidden), Err(RedisError::Refused(_))) => {
                self.answers.insert("claim: forbidden");
                return Ok(());
            }
            (expected, Ok(reply)) => {
                let now_ms = reply.now_ms;
                prop_assert!((earliest..=latest).contains(&now_ms), "{earliest} {now_ms} {latest}");
                (expected, reply)
            }
            (expected, reply) => {
                return Err(TestCaseError::fail(format!("claim: {reply:?} instead of {expected:?}")));
            }
        };
        let (expected, reply) = reply;
        let answered = match &reply.outcome {
            BatchOutcome::Fenced => Expected::Fenced,
            BatchOutcome::Late => Expected::Late,
            BatchOutcome::Full => Expected::Full,
            BatchOutcome::Inconsistent(text) => {
                let named = (0..COUPONS).find(|&n| text.starts_with(&format!("coupon {}:", coupon_id(n))));
                named.map_or(Expected::NoStream, Expected::InconsistentCoupon)
            }
            BatchOutcome::Done(outcomes) => Expected::Done(
                outcomes
                    .iter()
                    .map(|outcome| match outcome {
                        ClaimOutcome::Refused(Refusal::NotStarted { starts_at_ms, now_ms })
                            if *now_ms == reply.now_ms =>
                        {
                            ExpectedClaim::NotStarted { starts_at_ms: *starts_at_ms }
                        }
                        other => ExpectedClaim::Outcome(other.clone()),
                    })
                    .collect(),
            ),
        };
        record_claim(&answered, self.answers);
        self.record_sold_out(batch, &answered);
        prop_assert_eq!(Ok(answered), expected, "claim (left: the script) of {:?}", batch);
        Ok(())
    }

    fn record_sold_out(&mut self, batch: &Batch, answered: &Expected) {
        let Expected::Done(outcomes) = answered else { return };
        for (outcome, (coupon, ..)) in outcomes.iter().zip(&batch.claims) {
            if *outcome == ExpectedClaim::Outcome(ClaimOutcome::Refused(Refusal::SoldOut)) {
                let stock = self.oracle.coupons[*coupon].number("stock");
                self.answers.extend((stock < 0).then_some("claim: sold out below zero"));
                self.answers.extend((stock > 0).then_some("claim: sold out while users wait"));
            }
        }
    }

    fn publish(&mut self, edit: &Edit) -> Result<(), TestCaseError> {
        let version = self.oracle.coupons[edit.coupon].number("version") + edit.version_step;
        let definition = Definition {
            title: format!("version {version}"),
            starts_at: moment(edit.starts),
            ends_at: moment(edit.ends),
            paused: edit.paused,
            per_user_limit: edit.per_user_limit,
            waitlist: edit.waitlist,
            version: version.max(1),
            ..open_coupon(&coupon_id(edit.coupon), edit.total)
        };
        let marker = marker_text(edit.marker);
        let reply = scripts::publish(&self.redis.redis, marker, edit.just_inserted, &definition);
        let reply = self.redis.runtime.block_on(reply);
        let expected = self.oracle.publish(edit, &definition);
        self.answers.insert(match &expected {
            Ok(Published::Applied) => "publish: applied",
            Ok(Published::Current) => "publish: current",
            Ok(Published::Fenced) => "publish: fenced",
            Ok(Published::Inconsistent) => "publish: inconsistent",
            Err(WrongType) => "publish: wrong type",
            Err(Refused::Forbidden) => "publish: forbidden",
        });
        if self.oracle.coupons[edit.coupon].number("stock") < 0 {
            self.answers.insert("publish: stock below zero");
        }
        assert_same("publish", &expected, &reply)
    }

    fn release(
        &mut self,
        coupon: usize,
        units: &[WhichUnit],
        marker: SentMarker,
    ) -> Result<(), TestCaseError> {
        let units: Vec<EndedUnit> = units.iter().map(|which| self.unit(coupon, *which)).collect();
        let id = coupon_id(coupon);
        let reply = release::release(&self.redis.redis, marker_text(marker), &id, &units);
        let reply = self.redis.runtime.block_on(reply);
        let expected = self.oracle.release(coupon, &units, marker);
        self.answers.extend(match &expected {
            Ok(ReleaseOutcome::Done { units: released, .. }) => released
                .iter()
                .map(|released| match released {
                    Released::Released => "release: released",
                    Released::NotHeld => "release: not held",
                    Released::TooEarly => "release: too early",
                })
                .collect(),
            Ok(ReleaseOutcome::Fenced) => vec!["release: fenced"],
            Ok(ReleaseOutcome::Inconsistent) => vec!["release: inconsistent"],
            Err(WrongType) => vec!["release: wrong type"],
            Err(Refused::Forbidden) => vec!["release: forbidden"],
        });
        if let Ok(ReleaseOutcome::Done { units: released, served }) = &expected {
            let back: Vec<&str> = units
                .iter()
                .zip(released)
                .filter(|(_, released)| **released == Released::Released)
                .map(|(unit, _)| unit.field.as_str())
                .collect();
            let fields: BTreeSet<&str> = back.iter().copied().collect();
            if fields.len() > 1 {
                self.answers.insert("release: several at once");
            }
            if back.len() > fields.len() {
                self.answers.insert("release: one unit given twice");
            }
            let fields = fields.len();
            self.record_served(served.units, fields);
        }
        assert_same("release", &expected, &reply)
    }

    fn unit(&self, coupon: usize, which: WhichUnit) -> EndedUnit {
        let earlier: Vec<OrderId> = self.batches.iter().flat_map(|(_, orders)| orders.clone()).collect();
        let user = user_name(which.user);
        let holds = self.oracle.coupons[coupon].held_order(user);
        let (field, order) = match which.order {
            WhichOrder::Held if holds.is_none() => self.oracle.coupons[coupon].any_holder(),
            WhichOrder::Held => holds.map(|order| (user.to_owned(), order)),
            WhichOrder::Earlier(which) if !earlier.is_empty() => {
                Some((user.to_owned(), *which.get(&earlier)))
            }
            WhichOrder::Earlier(_) | WhichOrder::Unknown => None,
        }
        .unwrap_or_else(|| (user.to_owned(), OrderId::mint()));
        let version = self.oracle.coupons[coupon].number("version");
        let after_version = which.after_version.map(|step| (version + step).max(0));
        EndedUnit { field, order, after_version }
    }
}

pub fn assert_same<T: PartialEq + std::fmt::Debug>(
    script: &str,
    expected: &Result<T, Refused>,
    reply: &Result<T, RedisError>,
) -> Result<(), TestCaseError> {
    let same = match (expected, reply) {
        (Ok(expected), Ok(reply)) => expected == reply,
        (Err(WrongType), Err(RedisError::WrongType(_)))
        | (Err(Refused::Forbidden), Err(RedisError::Refused(_))) => true,
        _ => false,
    };
    prop_assert!(same, "{script}: {reply:?} instead of {expected:?}");
    Ok(())
}

fn record_claim(answered: &Expected, answers: &mut BTreeSet<&'static str>) {
    let outcomes = match answered {
        Expected::Done(outcomes) => outcomes.as_slice(),
        _ => &[],
    };
    answers.extend(outcomes.iter().map(|outcome| match outcome {
        ExpectedClaim::NotStarted { .. } => "claim: not started",
        ExpectedClaim::Outcome(outcome) => match outcome {
            ClaimOutcome::Accepted { .. } => "claim: accepted",
            ClaimOutcome::Held { .. } => "claim: held",
            ClaimOutcome::Refused(Refusal::KeyRequired) => "claim: key required",
            ClaimOutcome::Refused(Refusal::LimitReached) => "claim: limit reached",
            ClaimOutcome::Refused(Refusal::UnknownCoupon) => "claim: unknown coupon",
            ClaimOutcome::Refused(Refusal::Ended) => "claim: ended",
            ClaimOutcome::Refused(Refusal::Paused) => "claim: paused",
            ClaimOutcome::Refused(Refusal::SoldOut) => "claim: sold out",
            ClaimOutcome::Refused(Refusal::NotStarted { .. }) => "claim: another time than the reply's",
        },
    }));
    answers.insert(match answered {
        Expected::Done(_) => "claim: done",
        Expected::Fenced => "claim: fenced",
        Expected::Late => "claim: late",
        Expected::NoStream => "claim: no stream",
        Expected::Full => "claim: full",
        Expected::InconsistentCoupon(_) => "claim: inconsistent coupon",
    });
}

/// Every reply that must occur in a history; else the comparison proves little.
const ANSWERS: [&str; 34] = [
    "claim: accepted",
    "claim: done",
    "claim: ended",
    "claim: fenced",
    "claim: forbidden",
    "claim: full",
    "claim: held",
    "claim: key required",
    "claim: late",
    "claim: limit reached",
    "claim: inconsistent coupon",
    "claim: no stream",
    "claim: not started",
    "claim: paused",
    "claim: sold out",
    "claim: sold out below zero",
    "claim: unknown coupon",
    "claim: wrong type",
    "publish: applied",
    "publish: current",
    "publish: fenced",
    "publish: forbidden",
    "publish: inconsistent",
    "publish: stock below zero",
    "publish: wrong type",
    "release: fenced",
    "release: forbidden",
    "release: inconsistent",
    "release: not held",
    "release: one unit given twice",
    "release: released",
    "release: several at once",
    "release: too early",
    "release: wrong type",
];

#[test]
fn the_scripts_answer_and_write_what_the_oracle_does() {
    let redis = RefCell::new(TestRedis::start());
    let answers = RefCell::new(BTreeSet::new());
    let config = Config::default();
    let config = Config { cases: config.cases.max(HISTORIES), failure_persistence: None, ..config };
    // The same histories in every run: a rare answer is in one of them, or never. More cases are random.
    let is_usual = config.cases == HISTORIES;
    let mut runner = if is_usual {
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        TestRunner::new_with_rng(config, rng)
    } else {
        TestRunner::new(config)
    };
    let outcome = runner.run(&any_history(), |history| {
        let (mut redis, mut answers) = (redis.borrow_mut(), answers.borrow_mut());
        let TestRedis { redis: connection, raw, .. } = &mut *redis;
        reset(raw, connection);
        let mut replay = Replay {
            redis: &mut redis,
            oracle: Oracle::new(),
            batches: Vec::new(),
            joins: Vec::new(),
            answers: &mut answers,
        };
        history.iter().try_for_each(|step| replay.step(step))
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    let answers = answers.into_inner();
    let missing: Vec<&&str> =
        ANSWERS.iter().chain(&line_replay::ANSWERS).filter(|answer| !answers.contains(**answer)).collect();
    assert!(missing.is_empty(), "no history has {missing:?}");
}
