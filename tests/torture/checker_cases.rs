//! The checker's own tests: a good history, and histories made by hand that are each bad in one way.

use rstest::rstest;

use crate::checker::{Verdict, check};
use crate::history::{
    Cancel, Claim, Class, Edit, Fault, History, Line, Loses, Poison, PostgresCoupon, RedisCoupon, RedisState,
    Sample, Span, Status,
};
use crate::stores::{LastState, Letter, OrderRow};

const COUPON: &str = "coffee";

const fn span(began_ms: u64, ended_ms: u64) -> Span {
    Span { began_us: began_ms * 1_000, ended_us: ended_ms * 1_000 }
}

/// A run, and how it ended.
#[derive(Clone)]
struct Run {
    history: History,
    last: Result<LastState, String>,
}

impl Run {
    /// Three units, of which alice and bob got two, bob after a try that was never answered, and carol the
    /// third, which was taken back; dave came too late for it, eve's request was lost.
    fn good() -> Self {
        let history = History { clients: 2, coupons: [(COUPON.to_owned(), 3)].into(), ..History::default() };
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

    fn last(&mut self) -> &mut LastState {
        self.last.as_mut().expect("a run's end can be read")
    }

    fn claim(&mut self, at_ms: u64, user: &str, class: Class, order: Option<&str>) -> &mut Claim {
        self.history.add(Line::Claim(Claim {
            span: span(at_ms, at_ms + 10),
            coupon: COUPON.into(),
            user: user.into(),
            class,
            told: class.word().into(),
            order: order.map(str::to_owned),
            status: None,
            insists: true,
        }));
        self.history.claims.last_mut().expect("it was just added")
    }

    fn status(&mut self, at_ms: u64, order: &str, told: &str) {
        let status = Status { span: span(at_ms, at_ms + 10), order: order.into(), told: told.into() };
        self.history.add(Line::Status(status));
    }

    fn poison(&mut self, at_ms: u64, kind: &str, entry: Option<&str>, order: Option<&str>) {
        self.history.add(Line::Poison(Poison {
            span: span(at_ms, at_ms + 10),
            kind: kind.into(),
            entry: entry.map(str::to_owned),
            order: order.map(str::to_owned),
        }));
    }

    fn fault(&mut self, kind: &str, loses: Loses, at_ms: u64) -> &mut Fault {
        let note = String::new();
        let fault = Fault { span: span(at_ms, at_ms + 10), kind: kind.into(), fired: true, loses, note };
        self.history.add(Line::Fault(fault));
        self.history.faults.last_mut().expect("it was just added")
    }

    fn row(&mut self, id: &str, user: &str, status: &str, claimed_at_ms: u64) {
        let (id, coupon, user, status) = (id.into(), COUPON.into(), user.into(), status.into());
        self.last().orders.push(OrderRow { id, coupon, user, status, claimed_at_ms });
    }

    fn letter(&mut self, entry: Option<&str>, order: Option<&str>) {
        let (entry, order) = (entry.map(str::to_owned), order.map(str::to_owned));
        let letters = &mut self.last().letters;
        let id = i64::try_from(letters.len()).unwrap_or_default();
        letters.push(Letter { id, entry, order, error: "it cannot be".into(), is_hoarded: false });
    }

    fn row_of(&mut self, id: &str) -> &mut OrderRow {
        self.last().orders.iter_mut().find(|row| row.id == id).expect("the row is there")
    }

    fn remove(&mut self, id: &str) {
        self.last().orders.retain(|row| row.id != id);
    }

    fn sample(&mut self, at_ms: u64, live: i64, held: i64) -> &mut Sample {
        let id = || COUPON.to_owned();
        let postgres = PostgresCoupon { id: id(), total: 3, stock: 3 - live, live, doubled: 0 };
        let coupon = RedisCoupon { id: id(), total: Some(3), stock: Some(3 - held), held };
        let redis = RedisState { marker: "ready:1-a".into(), pending: 0, unread: 0, coupons: vec![coupon] };
        let span = span(at_ms, at_ms + 10);
        self.history.add(Line::Sample(Sample { span, postgres: Some(vec![postgres]), redis: Some(redis) }));
        self.history.samples.last_mut().expect("it was just added")
    }

    /// Both stores at rest with this many live orders, Redis holding exactly the live ones.
    fn rest(&mut self, total: i64, live: i64) {
        let id = || COUPON.to_owned();
        let last = self.last();
        last.coupons = vec![PostgresCoupon { id: id(), total, stock: total - live, live, doubled: 0 }];
        let coupon = RedisCoupon { id: id(), total: Some(total), stock: Some(total - live), held: live };
        last.redis = RedisState { marker: "ready:1-a".into(), pending: 0, unread: 0, coupons: vec![coupon] };
        let held = last.orders.iter().filter(|row| row.is_live());
        let held = held.map(|row| (row.user.clone(), row.id.clone())).collect();
        last.claims = [(id(), held)].into();
    }

    fn judge(&self) -> Verdict {
        check(&self.history, &self.last)
    }
}

#[test]
fn a_good_history_is_valid() {
    assert_eq!(Run::good().judge(), Verdict::Valid);
}

#[rstest]
#[case::a_lost_order("was accepted and is lost", |run: &mut Run| {
    run.remove("a");
    run.rest(3, 1);
})]
#[case::an_order_found_on_repeating_that_is_lost("was accepted and is lost", |run: &mut Run| {
    run.remove("b");
    run.rest(3, 1);
})]
#[case::an_order_lost_in_a_flush_after_it_was_recorded("was accepted and is lost", |run: &mut Run| {
    run.remove("a");
    run.rest(3, 1);
    run.fault("flush", Loses::Claims, 70_000);
})]
#[case::an_order_lost_in_a_flush_though_it_was_called_confirmed("was accepted and is lost", |run: &mut Run| {
    run.claim(69_000, "frank", Class::Ok, Some("f")).status = Some("confirmed".into());
    run.fault("flush", Loses::Claims, 70_000);
})]
#[case::an_order_lost_after_the_flush("was accepted and is lost", |run: &mut Run| {
    run.fault("flush", Loses::Claims, 70_000);
    run.claim(80_000, "frank", Class::Ok, Some("f"));
})]
#[case::an_order_lost_with_events_alone("was accepted and is lost", |run: &mut Run| {
    run.claim(60_000, "frank", Class::Ok, Some("f"));
    run.fault("delete the stream", Loses::Events, 60_020);
})]
#[case::an_accepted_order_that_nobody_ended("cancelled for no reason", |run: &mut Run| {
    run.history.cancels.clear();
})]
#[case::an_accepted_order_that_was_rejected("rejected for no reason", |run: &mut Run| {
    run.row_of("a").status = "rejected".into();
    run.letter(None, Some("a"));
    run.rest(3, 1);
})]
#[case::an_order_recorded_for_another("was recorded for mallory", |run: &mut Run| {
    run.row_of("a").user = "mallory".into();
    run.rest(3, 2);
})]
#[case::an_oversold_unit_in_a_sample("4 live orders of 3 units", |run: &mut Run| {
    run.sample(65_000, 4, 3);
})]
#[case::a_stock_that_does_not_move_with_its_orders("in stock beside", |run: &mut Run| {
    let sample = run.sample(65_000, 2, 2);
    sample.postgres.as_mut().unwrap()[0].stock = 2;
})]
#[case::a_user_with_two_orders_in_a_sample("two live orders", |run: &mut Run| {
    let sample = run.sample(65_000, 2, 2);
    sample.postgres.as_mut().unwrap()[0].doubled = 1;
})]
#[case::more_claims_in_redis_than_units("Redis held 4 claims", |run: &mut Run| {
    run.sample(65_000, 3, 4);
})]
#[case::a_doubled_user("alice has 2 live orders", |run: &mut Run| {
    run.claim(25_000, "alice", Class::Unknown, None);
    run.row("x", "alice", "confirmed", 25_005);
    run.rest(3, 3);
})]
#[case::an_order_from_a_refusal("has no request of its own", |run: &mut Run| {
    run.row("d", "dave", "confirmed", 40_005);
    run.rest(3, 3);
})]
#[case::an_order_from_nowhere("has no request of its own", |run: &mut Run| {
    run.row("z", "zoe", "confirmed", 40_005);
    run.rest(3, 3);
})]
#[case::an_unanswered_claim_that_cost_two_units("has no request of its own", |run: &mut Run| {
    run.row("e1", "eve", "confirmed", 41_005);
    run.row("e2", "eve", "cancelled", 41_006);
    run.history.add(Line::Cancel(Cancel { span: span(50_000, 50_010), order: "e2".into(), class: Class::Ok }));
    run.rest(3, 3);
})]
#[case::an_order_older_than_its_unanswered_claim("has no request of its own", |run: &mut Run| {
    run.row("e", "eve", "confirmed", 30_000);
    run.rest(3, 3);
})]
#[case::a_repeat_that_made_an_order("has no request of its own", |run: &mut Run| {
    run.claim(55_000, "frank", Class::Dup, Some("f"));
    run.row("f", "frank", "confirmed", 55_005);
    run.rest(3, 3);
})]
#[case::a_status_that_went_back("was confirmed and then accepted", |run: &mut Run| {
    run.status(14_000, "a", "accepted");
})]
#[case::a_status_behind_that_of_the_claim("was confirmed and then accepted", |run: &mut Run| {
    run.claim(43_000, "bob", Class::Dup, Some("b")).status = Some("confirmed".into());
    run.status(44_000, "b", "accepted");
})]
#[case::an_end_that_became_another("was cancelled and then expired", |run: &mut Run| {
    run.status(51_000, "c", "cancelled");
    run.status(52_000, "c", "expired");
})]
#[case::a_holder_who_was_refused("holds order a and was told", |run: &mut Run| {
    run.claim(47_000, "alice", Class::SoldOut, None);
})]
#[case::sold_out_before_it_was_sold("sold out after 1 claims", |run: &mut Run| {
    run.claim(11_000, "dave", Class::SoldOut, None);
})]
#[case::a_stock_in_redis_that_does_not_agree("leave 1", |run: &mut Run| {
    run.last().redis.coupons[0].stock = Some(2);
})]
#[case::a_stock_in_postgres_that_does_not_agree("leave 1", |run: &mut Run| {
    run.last().coupons[0].stock = 0;
})]
#[case::a_total_that_was_not_published("leave 3", |run: &mut Run| {
    run.last().coupons[0].total = 5;
    run.last().coupons[0].stock = 3;
})]
#[case::a_claim_that_was_not_released("Redis holds order c", |run: &mut Run| {
    let claims = run.last().claims.get_mut(COUPON).unwrap();
    claims.insert("carol".into(), "c".into());
})]
#[case::a_claim_that_was_released_too_much("Redis does not hold order a", |run: &mut Run| {
    run.last().claims.get_mut(COUPON).unwrap().remove("alice");
})]
#[case::a_coupon_that_is_gone("not in both stores", |run: &mut Run| {
    run.last().redis.coupons.clear();
})]
#[case::an_event_left_pending("work is left", |run: &mut Run| {
    run.last().redis.pending = 1;
})]
#[case::an_event_left_unread("work is left", |run: &mut Run| {
    run.last().redis.unread = 1;
})]
#[case::a_unit_left_in_the_outbox("work is left", |run: &mut Run| {
    run.last().outbox = 1;
})]
#[case::a_fence_left_down("claims are not accepted", |run: &mut Run| {
    run.last().redis.marker = "building:2-b".into();
})]
#[case::an_event_that_was_forgotten("is no dead letter", |run: &mut Run| {
    run.last().letters.clear();
})]
#[case::an_event_that_was_forgotten_long_before_a_loss("is no dead letter", |run: &mut Run| {
    run.last().letters.clear();
    run.sample(65_000, 2, 2);
    run.fault("delete the stream", Loses::Events, 70_000);
})]
#[case::a_letter_without_a_cause("has no cause", |run: &mut Run| {
    run.letter(Some("61000-0"), None);
})]
#[case::a_letter_of_a_live_order("has no cause", |run: &mut Run| {
    run.letter(None, Some("a"));
})]
#[case::a_rejection_without_a_letter("without a dead letter", |run: &mut Run| {
    run.claim(66_000, "eve", Class::Unknown, None);
    run.row("e", "eve", "rejected", 66_005);
})]
fn a_bad_history_is_invalid(#[case] because: &str, #[case] spoil: fn(&mut Run)) {
    let mut run = Run::good();
    spoil(&mut run);
    match run.judge() {
        Verdict::Invalid(why) => assert!(why.iter().any(|why| why.contains(because)), "{why:?}"),
        other => panic!("{other}"),
    }
}

#[rstest]
#[case::an_unanswered_claim_that_was_made(|run: &mut Run| {
    run.row("e", "eve", "confirmed", 41_005);
    run.rest(3, 3);
})]
#[case::an_order_lost_in_a_flush_before_it_was_recorded(|run: &mut Run| {
    run.claim(69_000, "frank", Class::Ok, Some("f"));
    run.fault("flush", Loses::Claims, 70_000);
})]
#[case::an_event_lost_with_its_stream(|run: &mut Run| {
    run.last().letters.clear();
    run.fault("delete the stream", Loses::Events, 70_000);
})]
#[case::a_rejection_where_the_total_was_lowered(|run: &mut Run| {
    let edit = |at, total| Edit {
        span: span(at, at + 10),
        coupon: COUPON.into(),
        total,
        lowers: total < 3,
        class: Class::Unknown,
    };
    run.history.add(Line::Edit(edit(55_000, 2)));
    run.row_of("b").status = "rejected".into();
    run.letter(Some("21005-0"), Some("b"));
    run.rest(2, 1);
})]
#[case::an_event_whose_entry_was_never_told(|run: &mut Run| {
    run.poison(61_000, "no order", None, None);
    run.letter(Some("61005-0"), None);
})]
#[case::a_duplicate_made_by_hand(|run: &mut Run| {
    run.poison(61_000, "duplicate", None, Some("a2"));
    run.row("a2", "alice", "rejected", 61_000);
    run.letter(Some("61005-0"), Some("a2"));
})]
#[case::a_repeat_that_does_not_know_the_status(|run: &mut Run| {
    run.claim(43_000, "alice", Class::Dup, Some("a")).status = Some("accepted".into());
})]
#[case::statuses_that_overlap(|run: &mut Run| {
    run.history.add(Line::Status(Status { span: span(11_000, 20_000), order: "a".into(), told: "accepted".into() }));
})]
fn what_may_happen_is_valid(#[case] vary: fn(&mut Run)) {
    let mut run = Run::good();
    vary(&mut run);
    assert_eq!(run.judge(), Verdict::Valid);
}

#[rstest]
#[case::without_an_accepted_claim("no claim was accepted", |run: &mut Run| {
    let coupons = run.history.coupons.clone();
    let samples = run.history.samples.clone();
    run.history = History { clients: 2, coupons, samples, ..History::default() };
    *run.last() = LastState::default();
    run.rest(3, 0);
})]
#[case::with_a_fault_that_never_fired("never fired", |run: &mut Run| {
    run.fault("kill Redis", Loses::Nothing, 71_000).fired = false;
})]
#[case::whose_end_could_not_be_read("could not be read", |run: &mut Run| {
    run.last = Err("no answer in time".into());
})]
#[case::without_a_sample_of_postgres("no sample", |run: &mut Run| {
    run.history.samples[0].postgres = None;
})]
#[case::without_a_sample_of_redis("no sample", |run: &mut Run| {
    run.history.samples[0].redis = None;
})]
#[case::that_left_more_open_than_was_under_way("left unanswered", |run: &mut Run| {
    for user in ["frank", "grace", "heidi"] {
        run.claim(71_000, user, Class::Unknown, None);
    }
})]
fn a_run_that_proves_nothing_is_inconclusive(#[case] because: &str, #[case] spoil: fn(&mut Run)) {
    let mut run = Run::good();
    spoil(&mut run);
    match run.judge() {
        Verdict::Inconclusive(why) => assert!(why.iter().any(|why| why.contains(because)), "{why:?}"),
        other => panic!("{other}"),
    }
}

#[test]
fn the_checker_knows_nothing_of_the_program() {
    for source in [
        include_str!("checker.rs"),
        include_str!("checker/evidence.rs"),
        include_str!("checker/orders.rs"),
        include_str!("checker/stores.rs"),
        include_str!("history.rs"),
        include_str!("stores.rs"),
    ] {
        for foreign in ["seckill::", "support", "crate::load", "crate::stage"] {
            assert!(!source.contains(foreign), "{foreign}");
        }
    }
}

#[test]
fn a_broken_promise_outweighs_what_was_left_open() {
    let mut run = Run::good();
    run.fault("kill Redis", Loses::Nothing, 71_000).fired = false;
    run.remove("a");
    run.rest(3, 1);
    assert!(matches!(run.judge(), Verdict::Invalid(_)));
}

#[test]
fn a_verdict_says_how_and_not_for_ever() {
    let mut run = Run::good();
    for at in 0..100 {
        run.sample(80_000 + 100 * at, 4, 3);
    }
    let text = run.judge().to_string();
    assert!(text.starts_with("INVALID\n  coffee had 4 live orders"), "{text}");
    assert!(text.contains("more"), "{text}");
    assert!(text.lines().count() < 50, "{text}");
}
