//! A good history, and how a case changes it.

use crate::checker::{Verdict, check};
use crate::history::{
    Asked, Cancel, Claim, Class, Fault, History, Line, Loses, Plan, Poison, PostgresCoupon, RedisCoupon,
    RedisState, Sample, Span, Spared, StatusAnswer, Transition,
};
use crate::stores::{LastState, Letter, OrderRow};

pub const COUPON: &str = "coffee";

pub const fn span(began_ms: u64, ended_ms: u64) -> Span {
    Span { began_us: began_ms * 1_000, ended_us: ended_ms * 1_000 }
}

/// A history and the last state of the stores.
#[derive(Clone)]
pub struct Run {
    pub history: History,
    pub last: Result<LastState, String>,
}

impl Run {
    /// Three units: alice and bob have one each, bob after a first claim without an answer. Carol's order was
    /// cancelled, dave was too late, eve's request was lost.
    pub fn good() -> Self {
        let plan = Plan { total: 3, limit: 1, reserve_seconds: None, is_durable: false, has_waitlist: false };
        let history =
            History { clients: 2, coupons: [(COUPON.to_owned(), plan)].into(), ..History::default() };
        let mut run = Self { history, last: Ok(LastState::default()) };
        run.claim(10_000, "alice", Class::Ok, Some("a"));
        run.claim(20_000, "bob", Class::Unknown, None);
        run.claim(21_000, "bob", Class::Dup, Some("b"));
        run.claim(30_000, "carol", Class::Ok, Some("c"));
        run.claim(40_000, "dave", Class::SoldOut, None);
        run.claim(41_000, "eve", Class::Unknown, None);
        run.claim(42_000, "alice", Class::Dup, Some("a"));
        for (at, status) in [(11_000, "accepted"), (12_000, "confirmed"), (13_000, "confirmed")] {
            run.status(at, "a", status);
        }
        run.row("a", "alice", "confirmed", 10_005);
        run.row("b", "bob", "confirmed", 20_005);
        run.row("c", "carol", "cancelled", 30_005);
        let cancel = Cancel { span: span(50_000, 50_010), order: "c".into(), class: Class::Ok };
        run.history.add(Line::Cancel(cancel));
        run.poison(60_000, "no order", Some("60000-0"), None);
        run.letter(Some("60000-0"), None);
        run.fault("kill the program", Loses::Nothing, 45_000);
        run.rest(3, 2);
        run.sample(35_000, 3, 3);
        run
    }

    pub fn last(&mut self) -> &mut LastState {
        self.last.as_mut().expect("a run's end can be read")
    }

    pub fn claim(&mut self, at_ms: u64, user: &str, class: Class, order: Option<&str>) -> &mut Claim {
        self.history.add(Line::Claim(Claim {
            span: span(at_ms, at_ms + 10),
            coupon: COUPON.into(),
            user: user.into(),
            key: None,
            class,
            answer: class.word().into(),
            order: order.map(str::to_owned),
            status: None,
            retries: true,
        }));
        self.history.claims.last_mut().expect("it was just added")
    }

    pub fn status(&mut self, at_ms: u64, order: &str, status: &str) {
        let status =
            StatusAnswer { span: span(at_ms, at_ms + 10), order: order.into(), status: status.into() };
        self.history.add(Line::Status(status));
    }

    pub fn poison(&mut self, at_ms: u64, kind: &str, entry: Option<&str>, order: Option<&str>) {
        self.history.add(Line::Poison(Poison {
            span: span(at_ms, at_ms + 10),
            kind: kind.into(),
            entry: entry.map(str::to_owned),
            order: order.map(str::to_owned),
        }));
    }

    pub fn fault(&mut self, kind: &str, loses: Loses, at_ms: u64) -> &mut Fault {
        let note = String::new();
        let fault = Fault {
            span: span(at_ms, at_ms + 10),
            kind: kind.into(),
            fired: true,
            loses,
            note,
            spares: None,
        };
        self.history.add(Line::Fault(fault));
        self.history.faults.last_mut().expect("it was just added")
    }

    /// A fault that must not slow down the claims of the coupon.
    pub fn spare(&mut self, coupon: &str, from_ms: u64, to_ms: u64) {
        let spared = Spared { span: span(from_ms, to_ms), coupons: vec![coupon.into()] };
        self.fault("kill a master", Loses::Nothing, from_ms).spares = Some(spared);
    }

    pub fn row(&mut self, id: &str, user: &str, status: &str, claimed_at_ms: u64) {
        let (id, coupon, user, status) = (id.into(), COUPON.into(), user.into(), status.into());
        let recorded_at_us = claimed_at_ms * 1_000;
        let row = OrderRow {
            id,
            coupon,
            user,
            slot: 1,
            status,
            claimed_at_ms,
            recorded_at_us,
            ..OrderRow::default()
        };
        self.last().orders.push(row);
    }

    pub fn transition(&mut self, at_ms: u64, order: &str, asked: Asked, answer: &str) -> &mut Transition {
        let class = match answer {
            "200" => Class::Ok,
            "503" => Class::Unknown,
            _ => Class::Refused,
        };
        self.history.add(Line::Transition(Transition {
            span: span(at_ms, at_ms + 10),
            coupon: COUPON.into(),
            order: order.into(),
            asked,
            class,
            answer: answer.into(),
            status: None,
            refund_due: asked == Asked::Confirm && answer == "409 order-expired",
        }));
        self.history.transitions.last_mut().expect("it was just added")
    }

    pub fn plan(&mut self) -> &mut Plan {
        self.history.coupons.get_mut(COUPON).expect("the coupon is there")
    }

    pub fn letter(&mut self, entry: Option<&str>, order: Option<&str>) {
        let (entry, order) = (entry.map(str::to_owned), order.map(str::to_owned));
        let letters = &mut self.last().letters;
        let id = i64::try_from(letters.len()).unwrap_or_default();
        letters.push(Letter { id, entry, order, error: "it cannot be".into(), is_hoarded: false });
    }

    pub fn row_of(&mut self, id: &str) -> &mut OrderRow {
        self.last().orders.iter_mut().find(|row| row.id == id).expect("the row is there")
    }

    pub fn remove(&mut self, id: &str) {
        self.last().orders.retain(|row| row.id != id);
    }

    pub fn sample(&mut self, at_ms: u64, live: i64, held: i64) -> &mut Sample {
        let id = || COUPON.to_owned();
        let postgres = PostgresCoupon { id: id(), total: 3, stock: 3 - live, live, doubled: 0, most: 1 };
        let coupon = RedisCoupon { id: id(), total: Some(3), stock: Some(3 - held), held };
        let redis = RedisState { marker: "ready:1-a".into(), pending: 0, unread: 0, coupons: vec![coupon] };
        let span = span(at_ms, at_ms + 10);
        self.history.add(Line::Sample(Sample { span, postgres: Some(vec![postgres]), redis: Some(redis) }));
        self.history.samples.last_mut().expect("it was just added")
    }

    /// Both stores at rest with this many live orders; Redis holds exactly the live ones.
    pub fn rest(&mut self, total: i64, live: i64) {
        let id = || COUPON.to_owned();
        let limit = self.plan().limit;
        let last = self.last();
        last.coupons =
            vec![PostgresCoupon { id: id(), total, stock: total - live, live, doubled: 0, most: 1 }];
        let coupon = RedisCoupon { id: id(), total: Some(total), stock: Some(total - live), held: live };
        last.redis = RedisState { marker: "ready:1-a".into(), pending: 0, unread: 0, coupons: vec![coupon] };
        let held = last.orders.iter().filter(|row| row.is_live());
        let held = held.map(|row| row.claim(limit)).collect();
        last.claims = [(id(), held)].into();
    }

    pub fn judge(&self) -> Verdict {
        check(&self.history, &self.last)
    }
}
