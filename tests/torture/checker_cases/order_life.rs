//! Tests of the checks on what becomes of an order, on slots and on keys: a good history is valid, and each edited history is
//! bad in one way.

use rstest::rstest;

use super::run::{Run, span};
use crate::checker::Verdict;
use crate::history::{Asked, Cancel, Class, History, Line, StatusAnswer};
use crate::stores::LastState;

const SECOND_US: u64 = 1_000_000;

/// Four units, each reserved for two seconds, at most two for a user. Alice has confirmed `a1` and let `a2` expire. Bob has
/// cancelled `b1`, and his next order with the same key is confirmed. Carol's `c` was confirmed and then withdrawn; dave's
/// confirm of `d` came too late.
fn good() -> Run {
    let mut run =
        Run { history: History { clients: 2, ..History::default() }, last: Ok(LastState::default()) };
    run.history.coupons = Run::good().history.coupons;
    run.plan().total = 4;
    run.plan().limit = 2;
    run.plan().reserve_seconds = Some(2);
    for (at_ms, user, key, order) in [
        (10_000, "alice", "k1", "a1"),
        (11_000, "alice", "k2", "a2"),
        (20_000, "bob", "k1", "b1"),
        (22_000, "bob", "k1", "b2"),
        (30_000, "carol", "k1", "c"),
        (40_000, "dave", "k1", "d"),
    ] {
        run.claim(at_ms, user, Class::Ok, Some(order)).key = Some(key.into());
        run.row(order, user, "reserved", at_ms);
        let row = run.row_of(order);
        row.key = Some(key.into());
        row.slot = if order == "a2" { 2 } else { 1 };
        row.reserved_until_us = Some(row.recorded_at_us + 2 * SECOND_US);
    }
    for (order, at_ms) in [("a1", 11_000), ("b2", 23_000), ("c", 31_000)] {
        run.transition(at_ms, order, Asked::Confirm, "200").status = Some("confirmed".into());
        end(&mut run, order, "confirmed", None);
        run.row_of(order).confirmed_at_us = Some((at_ms + 5) * 1_000);
    }
    run.transition(21_000, "b1", Asked::Cancel, "200").status = Some("cancelled".into());
    end(&mut run, "b1", "cancelled", Some(21_005));
    run.transition(32_000, "c", Asked::Withdraw, "200").status = Some("cancelled".into());
    end(&mut run, "c", "cancelled", Some(32_005));
    run.row_of("c").reason = Asked::Withdraw.reason().map(str::to_owned);
    end(&mut run, "a2", "expired", Some(13_100));
    run.transition(43_000, "d", Asked::Confirm, "409 order-expired");
    end(&mut run, "d", "expired", Some(42_100));
    run.rest(3, 2);
    run.sample(60_000, 2, 2);
    run.sample(61_000, 2, 2);
    run
}

fn end(run: &mut Run, order: &str, status: &str, at_ms: Option<u64>) {
    let row = run.row_of(order);
    status.clone_into(&mut row.status);
    row.ended_at_us = at_ms.map(|ms| ms * 1_000);
}

#[test]
fn a_good_history_of_reserved_orders_is_valid() {
    assert_eq!(good().judge(), Verdict::Valid);
}

#[rstest]
#[case::a_confirmed_order_that_expired("at the end the order is expired", |run: &mut Run| {
    end(run, "a1", "expired", Some(12_100));
    run.row_of("a1").confirmed_at_us = None;
    run.rest(3, 1);
})]
#[case::an_expired_order_with_a_confirm("was confirmed before", |run: &mut Run| {
    run.row_of("a2").confirmed_at_us = Some(12_000_000);
    run.transition(12_000, "a2", Asked::Confirm, "503");
})]
#[case::an_order_told_expired_that_is_confirmed("order-expired, and at the end the order is confirmed", |run: &mut Run| {
    end(run, "d", "confirmed", None);
    run.row_of("d").confirmed_at_us = Some(41_000_000);
    run.rest(3, 3);
})]
#[case::an_order_told_cancelled_that_is_confirmed("at the end the order is confirmed", |run: &mut Run| {
    run.transition(12_000, "a1", Asked::Cancel, "200");
})]
#[case::a_revocation_that_did_nothing("Revoke was answered 200", |run: &mut Run| {
    run.transition(12_000, "a1", Asked::Revoke, "200");
})]
#[case::a_confirm_after_the_deadline("was confirmed at", |run: &mut Run| {
    run.row_of("a1").confirmed_at_us = Some(12_000_000);
})]
#[case::a_cancel_after_the_deadline("not before", |run: &mut Run| {
    run.row_of("b1").ended_at_us = Some(22_000_000);
})]
#[case::an_expiry_before_the_deadline("before Some(13000000)", |run: &mut Run| {
    run.row_of("a2").ended_at_us = Some(12_900_000);
})]
#[case::a_deadline_that_moved("is reserved until", |run: &mut Run| {
    run.row_of("a1").reserved_until_us = Some(13_000_000);
})]
#[case::a_confirm_without_a_request("without a request", |run: &mut Run| {
    run.history.transitions.retain(|transition| transition.order != "b2");
})]
#[case::a_revoked_order_that_was_never_confirmed("but never confirmed", |run: &mut Run| {
    run.row_of("c").confirmed_at_us = None;
})]
#[case::a_reason_of_another_request("a reason that no request gave", |run: &mut Run| {
    run.row_of("c").reason = Asked::Revoke.reason().map(str::to_owned);
    run.rest(4, 2);
})]
#[case::a_refund_for_an_order_in_time("with refund_due true", |run: &mut Run| {
    run.history.transitions[0].refund_due = true;
})]
#[case::a_late_payment_without_a_refund("with refund_due false", |run: &mut Run| {
    run.history.transitions.last_mut().unwrap().refund_due = false;
})]
#[case::an_order_that_was_not_found("was answered 404 not-found, but it is confirmed", |run: &mut Run| {
    run.transition(12_000, "a1", Asked::Confirm, "404 not-found");
})]
#[case::a_confirm_of_an_order_that_is_lost("but it has no row", |run: &mut Run| {
    run.remove("a1");
    run.rest(3, 1);
})]
#[case::an_answer_of_another_request("Confirm was answered 409 order-confirmed", |run: &mut Run| {
    run.transition(12_000, "a1", Asked::Confirm, "409 order-confirmed");
})]
#[case::a_confirm_after_a_revocation("was cancelled and then confirmed", |run: &mut Run| {
    run.transition(33_000, "c", Asked::Confirm, "200").status = Some("confirmed".into());
})]
#[case::a_status_behind_a_confirm("was confirmed and then reserved", |run: &mut Run| {
    let (order, status) = ("a1".into(), "reserved".into());
    run.history.add(Line::Status(StatusAnswer { span: span(12_000, 12_010), order, status }));
})]
#[case::an_order_that_never_expires("still reserved", |run: &mut Run| {
    end(run, "a2", "reserved", None);
    run.rest(3, 3);
})]
#[case::a_user_above_the_limit("holds the slots [1, 2, 3]", |run: &mut Run| {
    confirmed_again(run, "a3", "k3", 3);
    confirmed_again(run, "a4", "k4", 2);
    run.rest(3, 4);
})]
#[case::a_slot_held_twice("holds the slots [1, 1]", |run: &mut Run| {
    confirmed_again(run, "a3", "k3", 1);
})]
#[case::a_key_with_two_live_orders("alice has 2 live orders of coffee with key k1", |run: &mut Run| {
    confirmed_again(run, "a3", "k1", 2);
})]
#[case::a_repeat_that_gets_another_order("while order a1 was live", |run: &mut Run| {
    confirmed_again(run, "a3", "k1", 2);
})]
#[case::an_order_accepted_before_the_one_before_it_ended("while order b1 was live", |run: &mut Run| {
    run.row_of("b1").ended_at_us = Some(22_900_000);
    run.row_of("b1").recorded_at_us = 21_000_000;
    run.row_of("b1").reserved_until_us = Some(23_000_000);
})]
#[case::an_ended_order_that_is_named_again("with order b1 again", |run: &mut Run| {
    run.claim(24_000, "bob", Class::Dup, Some("b1")).key = Some("k1".into());
})]
#[case::a_repeat_answered_with_an_expired_order("with order a2 of coffee, 1500 ms after its end", |run: &mut Run| {
    run.claim(14_500, "alice", Class::Dup, Some("a2")).key = Some("k2".into());
})]
#[case::a_repeat_answered_with_a_revoked_order("with order c of coffee, 995 ms after its end", |run: &mut Run| {
    run.claim(33_000, "carol", Class::Dup, Some("c")).key = Some("k1".into());
})]
#[case::a_refusal_at_a_limit_that_is_not_reached("with 1 other keys", |run: &mut Run| {
    let claim = run.claim(12_000, "bob", Class::Refused, None);
    (claim.key, claim.answer) = (Some("k9".into()), "409 limit-reached".into());
    claim.span = span(24_000, 24_010);
})]
#[case::a_user_above_the_limit_in_a_sample("a user had 3 live orders", |run: &mut Run| {
    run.history.samples[1].postgres.as_mut().unwrap()[0].most = 3;
})]
#[case::a_unit_that_was_returned_twice("live orders of 3 leave 1, Postgres has 2", |run: &mut Run| {
    let last = run.last();
    last.coupons[0].stock = 2;
    last.redis.coupons[0].stock = Some(2);
})]
#[case::a_withdrawn_unit_that_is_still_there("but 1 of 4 units were withdrawn", |run: &mut Run| {
    run.rest(4, 2);
})]
#[case::a_claim_answered_before_its_commit("before the order of coffee was in Postgres", |run: &mut Run| {
    run.plan().is_durable = true;
    run.history.claims[0].status = Some("accepted".into());
})]
fn a_bad_life_of_an_order_is_invalid(#[case] because: &str, #[case] spoil: fn(&mut Run)) {
    let mut run = good();
    spoil(&mut run);
    match run.judge() {
        Verdict::Invalid(why) => assert!(why.iter().any(|why| why.contains(because)), "{why:?}"),
        other => panic!("{other}"),
    }
}

/// Gives alice one more confirmed order.
fn confirmed_again(run: &mut Run, order: &str, key: &str, slot: i64) {
    run.claim(14_000, "alice", Class::Ok, Some(order)).key = Some(key.into());
    run.row(order, "alice", "confirmed", 14_000);
    let row = run.row_of(order);
    (row.key, row.slot) = (Some(key.into()), slot);
    row.reserved_until_us = Some(row.recorded_at_us + 2 * SECOND_US);
    row.confirmed_at_us = Some(15_000_000);
    run.transition(15_000, order, Asked::Confirm, "200");
}

#[rstest]
#[case::a_confirm_without_an_answer(|run: &mut Run| {
    run.transition(12_000, "a2", Asked::Confirm, "503");
})]
#[case::a_cancel_without_an_answer_that_was_made(|run: &mut Run| {
    run.history.transitions.iter_mut().filter(|transition| transition.order == "b1").for_each(|transition| {
        (transition.class, transition.answer, transition.status) = (Class::Unknown, "timeout".into(), None);
    });
})]
#[case::repeats_of_each_request(|run: &mut Run| {
    run.transition(13_000, "a1", Asked::Confirm, "200").status = Some("confirmed".into());
    run.transition(13_000, "a1", Asked::Cancel, "409 order-confirmed");
    run.transition(24_000, "b1", Asked::Cancel, "200").status = Some("cancelled".into());
    run.transition(24_000, "b1", Asked::Confirm, "409 order-cancelled");
    run.transition(33_000, "c", Asked::Withdraw, "200").status = Some("cancelled".into());
    run.transition(33_000, "c", Asked::Cancel, "200").status = Some("cancelled".into());
    run.transition(44_000, "d", Asked::Cancel, "409 order-expired");
})]
#[case::a_revocation_of_an_order_that_was_confirmed_later(|run: &mut Run| {
    run.transition(10_500, "a1", Asked::Revoke, "409 order-reserved");
})]
#[case::a_refusal_at_the_limit(|run: &mut Run| {
    let claim = run.claim(12_000, "alice", Class::Refused, None);
    (claim.key, claim.answer) = (Some("k9".into()), "409 limit-reached".into());
})]
#[case::an_order_that_was_cancelled_by_hand(|run: &mut Run| {
    end(run, "a1", "cancelled", None);
    run.history.add(Line::Cancel(Cancel { span: span(50_000, 50_010), order: "a1".into(), class: Class::Ok }));
    run.history.transitions.retain(|transition| transition.order != "a1");
    run.row_of("a1").confirmed_at_us = None;
    run.rest(3, 1);
})]
#[case::a_repeat_of_a_confirmed_order_after_its_deadline(|run: &mut Run| {
    run.claim(50_000, "alice", Class::Dup, Some("a1")).key = Some("k1".into());
})]
#[case::ids_in_another_order_than_their_claims(|run: &mut Run| {
    run.row_of("b1").claimed_at_ms = 22_001;
})]
fn an_allowed_life_of_an_order_is_valid(#[case] vary: fn(&mut Run)) {
    let mut run = good();
    vary(&mut run);
    assert_eq!(run.judge(), Verdict::Valid);
}
