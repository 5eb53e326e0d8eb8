//! Random histories of moves between two shares, beside claims, returned units and edits, against a plain ledger: no unit is
//! lost, none is sold twice, and the ledger and Redis agree when everything is published. The ledger stands for Postgres: it
//! commits a move only at the version of its take.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use seckill::domain::{Claim, ClaimOutcome, CouponId, Definition, OrderId, Refusal, Spread};
use seckill::redis::scripts::release::{EndedUnit, Released};
use seckill::redis::scripts::take::{self, Taken};
use seckill::redis::scripts::{self, Published};

use crate::harness::{READY, TestRedis, open_coupon, reset};

#[derive(Clone, Debug)]
enum Step {
    Claim {
        share: usize,
    },
    Return {
        share: usize,
    },
    /// With a version that may be out of date.
    Take {
        share: usize,
        wanted: i64,
        behind: i64,
    },
    /// Any take, also one that was committed or cancelled before.
    Commit {
        take: prop::sample::Index,
    },
    Cancel {
        share: usize,
    },
    Raise {
        share: usize,
        more: i64,
    },
    Publish {
        share: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let share = 0..2_usize;
    prop_oneof![
        4 => share.clone().prop_map(|share| Step::Claim { share }),
        1 => share.clone().prop_map(|share| Step::Return { share }),
        4 => (share.clone(), 1..6_i64, prop_oneof![4 => Just(0_i64), 1 => Just(1)])
            .prop_map(|(share, wanted, behind)| Step::Take { share, wanted, behind }),
        3 => any::<prop::sample::Index>().prop_map(|take| Step::Commit { take }),
        1 => share.clone().prop_map(|share| Step::Cancel { share }),
        1 => (share.clone(), 1..4_i64).prop_map(|(share, more)| Step::Raise { share, more }),
        4 => share.prop_map(|share| Step::Publish { share }),
    ]
}

/// A share as Postgres has it.
#[derive(Clone, Copy, Debug)]
struct Row {
    total: i64,
    version: i64,
}

struct History<'a> {
    redis: &'a mut TestRedis,
    /// Two coupons stand for the shares: the scripts do not know the partition.
    ids: [CouponId; 2],
    rows: [Row; 2],
    /// The row that Redis has of each share.
    published: [Row; 2],
    whole: i64,
    takes: Vec<(usize, i64, i64)>,
    /// The units held of each share.
    held: [BTreeMap<String, OrderId>; 2],
    users: usize,
}

impl History<'_> {
    fn run(&mut self, steps: &[Step]) -> Result<(), TestCaseError> {
        for step in steps {
            self.step(step)?;
            self.check()?;
        }
        for share in 0..2 {
            // An abandoned take.
            self.rows[share].version += i64::from(self.note(share) > 0);
            self.publish(share)?;
        }
        self.check()?;
        for share in 0..2 {
            prop_assert_eq!(self.number(share, "total"), self.rows[share].total, "share {}", share);
        }
        prop_assert_eq!(self.rows[0].total + self.rows[1].total, self.whole);
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Claim { share } => self.claim(share),
            Step::Return { share } => self.give_back(share),
            Step::Take { share, wanted, behind } => self.take(share, wanted, behind),
            Step::Commit { ref take } if !self.takes.is_empty() => {
                let (from, version, units) = *take.get(&self.takes);
                if self.rows[from].version == version {
                    self.rows[from].total -= units;
                    self.rows[1 - from].total += units;
                    self.rows.iter_mut().for_each(|row| row.version += 1);
                }
                Ok(())
            }
            Step::Commit { .. } => Ok(()),
            Step::Cancel { share } => {
                self.rows[share].version += 1;
                Ok(())
            }
            Step::Raise { share, more } => {
                self.rows[share].total += more;
                self.whole += more;
                self.rows.iter_mut().for_each(|row| row.version += 1);
                Ok(())
            }
            Step::Publish { share } => self.publish(share),
        }
    }

    fn claim(&mut self, share: usize) -> Result<(), TestCaseError> {
        self.users += 1;
        let (user, order) = (format!("user-{}", self.users), OrderId::mint());
        let claim = Claim { coupon: self.ids[share].clone(), user: user.parse().unwrap(), order, key: None };
        let stock = self.number(share, "stock");
        match self.redis.claim(&[claim])[0] {
            ClaimOutcome::Accepted { .. } => {
                prop_assert!(stock > 0);
                self.held[share].insert(user, order);
            }
            ClaimOutcome::Refused(Refusal::SoldOut) => prop_assert!(stock <= 0),
            ref other => prop_assert!(false, "{:?}", other),
        }
        Ok(())
    }

    fn give_back(&mut self, share: usize) -> Result<(), TestCaseError> {
        let Some((user, order)) = self.held[share].pop_first() else { return Ok(()) };
        let unit = EndedUnit { field: user.parse().unwrap(), order, after_version: None };
        prop_assert_eq!(self.redis.release(&self.ids[share], &[unit]), [Released::Released]);
        Ok(())
    }

    fn take(&mut self, share: usize, wanted: i64, behind: i64) -> Result<(), TestCaseError> {
        let version = self.rows[share].version - behind;
        let stock = self.number(share, "stock");
        let noted = self.note(share);
        let taken = take::take(&self.redis.redis, READY, &self.ids[share], version, wanted);
        let taken = self.redis.runtime.block_on(taken).unwrap();
        let expected = if version == self.published[share].version {
            Taken::Units(if noted > 0 { noted } else { wanted.min(stock).max(0) })
        } else {
            Taken::OtherVersion
        };
        prop_assert_eq!(taken, expected);
        if let Taken::Units(units @ 1..) = taken {
            self.takes.push((share, version, units));
        }
        Ok(())
    }

    fn publish(&mut self, share: usize) -> Result<(), TestCaseError> {
        let definition = self.definition(share);
        let reply = scripts::publish(&self.redis.redis, READY, false, &definition);
        let reply = self.redis.runtime.block_on(reply).unwrap();
        let is_newer = self.rows[share].version > self.published[share].version;
        prop_assert_eq!(reply, if is_newer { Published::Applied } else { Published::Current });
        self.published[share] = self.rows[share];
        Ok(())
    }

    fn definition(&self, share: usize) -> Definition {
        let Row { total, version } = self.rows[share];
        let spread = Some(Spread { shares: 2, whole: self.whole });
        Definition { version, spread, ..open_coupon(&self.ids[share], total) }
    }

    /// In Redis each share adds up, and lacks only the units of its note.
    fn check(&mut self) -> Result<(), TestCaseError> {
        for share in 0..2 {
            let (stock, total) = (self.number(share, "stock"), self.number(share, "total"));
            let held = i64::try_from(self.held[share].len()).unwrap();
            prop_assert_eq!(stock + held, total, "share {}", share);
            prop_assert_eq!(total + self.note(share), self.published[share].total, "share {}", share);
            prop_assert!(stock >= 0, "share {}: {}", share, stock);
        }
        let held: usize = self.held.iter().map(BTreeMap::len).sum();
        prop_assert!(i64::try_from(held).unwrap() <= self.whole);
        Ok(())
    }

    fn note(&mut self, share: usize) -> i64 {
        let is_for_next = self.number(share, "taken_for") == self.published[share].version + 1;
        if is_for_next { self.number(share, "taken") } else { 0 }
    }

    fn number(&mut self, share: usize, field: &str) -> i64 {
        let key = self.redis.redis.keys.coupon(&self.ids[share]);
        self.redis.field(&key, field).parse().unwrap()
    }
}

#[test]
fn moves_beside_everything_else_keep_the_ledger() {
    let mut redis = TestRedis::start();
    let redis = std::cell::RefCell::new(&mut redis);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(400));
    let histories = prop::collection::vec(step(), 1..60);
    let result = runner.run(&histories, |steps| {
        let redis = &mut **redis.borrow_mut();
        reset(&mut redis.raw, &redis.redis);
        let first = Row { total: 6, version: 1 };
        let mut history = History {
            redis,
            ids: ["left", "right"].map(|id| id.parse().unwrap()),
            rows: [first; 2],
            published: [first; 2],
            whole: 12,
            takes: Vec::new(),
            held: [BTreeMap::new(), BTreeMap::new()],
            users: 0,
        };
        for share in 0..2 {
            let definition = history.definition(share);
            history.redis.publish_as(&definition);
        }
        history.run(&steps)
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
