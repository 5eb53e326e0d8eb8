//! Tests of the checks on waiting lists: a good history is valid, and each edited history is bad in one way.

use rstest::rstest;

use super::run::{COUPON, Run, span};
use crate::checker::Verdict;
use crate::history::{Cancel, Class, History, Line, Loses, Wait, Wish};
use crate::stores::LastState;

/// One unit. Alice has it first; bob, carol and dave join the line, and dave leaves it. Alice's order is cancelled, so bob
/// gets the unit, then carol. Erin joins at last and waits at the end.
fn good() -> Run {
    let mut run =
        Run { history: History { clients: 2, ..History::default() }, last: Ok(LastState::default()) };
    run.history.coupons = Run::good().history.coupons;
    run.plan().total = 1;
    run.plan().has_waitlist = true;
    run.claim(10_000, "alice", Class::Ok, Some("a"));
    for (at_ms, user, order, place) in [
        (11_000, "bob", "b", 1),
        (13_000, "carol", "c", 2),
        (14_000, "dave", "d", 3),
        (45_000, "erin", "e", 1),
    ] {
        wait(&mut run, at_ms, user, Wish::Join, "201").place = Some(place);
        promise(&mut run, order);
    }
    wait(&mut run, 15_000, "dave", Wish::Leave, "204");
    for (user, order, place) in [("bob", "b", 1), ("carol", "c", 2)] {
        wait(&mut run, 25_000, user, Wish::Look, "200").place = Some(place);
        promise(&mut run, order);
    }
    for (order, user, claimed_ms, recorded_ms) in
        [("a", "alice", 10_005, 10_010), ("b", "bob", 11_005, 30_500), ("c", "carol", 13_005, 40_500)]
    {
        run.row(order, user, "confirmed", claimed_ms);
        run.row_of(order).recorded_at_us = recorded_ms * 1_000;
    }
    for (at_ms, order) in [(30_000, "a"), (40_000, "b")] {
        cancel(&mut run, at_ms, order);
    }
    serve(&mut run, 31_000, "bob", "b");
    serve(&mut run, 41_000, "carol", "c");
    run.last().lines = [(COUPON.to_owned(), vec![("erin".to_owned(), Some("e".to_owned()))])].into();
    run.rest(1, 1);
    run.sample(60_000, 1, 1);
    for sample in &mut run.history.samples {
        let postgres = &mut sample.postgres.as_mut().unwrap()[0];
        (postgres.total, postgres.stock) = (1, 0);
        let redis = &mut sample.redis.as_mut().unwrap().coupons[0];
        (redis.total, redis.stock) = (Some(1), Some(0));
    }
    run
}

fn wait<'r>(run: &'r mut Run, at_ms: u64, user: &str, wish: Wish, answer: &str) -> &'r mut Wait {
    let class = match answer.as_bytes()[0] {
        b'2' => Class::Ok,
        b'4' => Class::Refused,
        _ => Class::Unknown,
    };
    run.history.add(Line::Wait(Wait {
        span: span(at_ms, at_ms + 10),
        coupon: COUPON.into(),
        user: user.into(),
        key: None,
        wish,
        class,
        answer: answer.into(),
        order: None,
        status: None,
        place: None,
    }));
    run.history.waits.last_mut().expect("it was just added")
}

/// The last answer tells a place.
fn promise(run: &mut Run, order: &str) {
    let wait = run.history.waits.last_mut().expect("there is an answer");
    (wait.order, wait.status) = (Some(order.into()), Some("waiting".into()));
}

/// The user is told that the place was served.
fn serve(run: &mut Run, at_ms: u64, user: &str, order: &str) {
    let look = wait(run, at_ms, user, Wish::Look, "200");
    (look.order, look.status) = (Some(order.into()), Some("confirmed".into()));
}

fn cancel(run: &mut Run, at_ms: u64, order: &str) {
    let span = span(at_ms, at_ms + 10);
    run.history.add(Line::Cancel(Cancel { span, order: order.into(), class: Class::Ok }));
    let row = run.row_of(order);
    (row.status, row.ended_at_us) = ("cancelled".into(), Some((at_ms + 5) * 1_000));
}

/// Frank claims a unit, which is returned later.
fn frank_claims(run: &mut Run, at_ms: u64) {
    run.claim(at_ms, "frank", Class::Ok, Some("f"));
    run.row("f", "frank", "confirmed", at_ms);
    cancel(run, at_ms + 100, "f");
}

#[test]
fn a_good_history_of_a_waiting_list_is_valid() {
    assert_eq!(good().judge(), Verdict::Valid);
}

#[rstest]
#[case::a_place_that_is_lost("erin lost the place in the line of coffee for order e", |run: &mut Run| {
    run.last().lines.clear();
})]
#[case::a_place_that_another_order_took("erin lost the place", |run: &mut Run| {
    run.last().lines.insert(COUPON.into(), vec![("erin".into(), Some("x".into()))]);
})]
#[case::a_place_lost_in_a_flush("erin lost the place", |run: &mut Run| {
    run.last().lines.clear();
    run.fault("flush", Loses::Claims, 50_000);
})]
#[case::a_place_lost_by_a_user_who_left_an_earlier_one("dave lost the place", |run: &mut Run| {
    wait(run, 16_000, "dave", Wish::Join, "201");
    promise(run, "d2");
})]
#[case::a_place_served_to_another("promised to carol (coffee) and recorded for mallory", |run: &mut Run| {
    run.row_of("c").user = "mallory".into();
    run.rest(1, 1);
})]
#[case::a_promised_order_that_was_rejected("promised to carol (coffee) and is rejected", |run: &mut Run| {
    run.row_of("c").status = "rejected".into();
    run.letter(None, Some("c"));
    run.rest(1, 0);
})]
#[case::a_served_order_that_is_lost("order c of carol (coffee) was accepted and is lost", |run: &mut Run| {
    run.remove("c");
    run.rest(1, 0);
})]
#[case::a_place_served_twice("order b2 of bob (coffee), confirmed, has no request of its own", |run: &mut Run| {
    run.row("b2", "bob", "confirmed", 11_006);
    run.rest(2, 2);
})]
#[case::a_place_that_was_denied("for order c, and then 404 not-waiting", |run: &mut Run| {
    wait(run, 20_000, "carol", Wish::Look, "404 not-waiting");
})]
#[case::a_claim_that_overtook_the_line("frank claimed order Some(\"f\") of coffee while bob waited", |run: &mut Run| {
    frank_claims(run, 20_000);
})]
#[case::a_claim_that_overtook_a_user_who_still_waits("of coffee while erin waited for order e", |run: &mut Run| {
    frank_claims(run, 50_000);
})]
#[case::a_user_served_before_the_first("bob joined the line of coffee before carol", |run: &mut Run| {
    run.row_of("c").recorded_at_us = 20_000_000;
})]
#[case::a_user_served_before_one_who_still_waits("erin joined the line of coffee before frank", |run: &mut Run| {
    wait(run, 46_000, "frank", Wish::Join, "201");
    promise(run, "f");
    run.row("f", "frank", "confirmed", 46_005);
    cancel(run, 47_000, "f");
})]
#[case::a_place_that_moved_back_before_a_flush("moved from Some(1) to Some(2)", |run: &mut Run| {
    wait(run, 26_000, "bob", Wish::Look, "200").place = Some(2);
    promise(run, "b");
    run.sample(27_000, 1, 1);
    run.fault("flush", Loses::Claims, 28_000);
})]
#[case::a_place_that_moved_back_by_more_than_one_user("moved from Some(1) to Some(3)", |run: &mut Run| {
    wait(run, 10_500, "frank", Wish::Join, "503 unavailable");
    wait(run, 26_000, "bob", Wish::Look, "200").place = Some(3);
    promise(run, "b");
})]
#[case::a_place_that_moved_back("moved from Some(1) to Some(2)", |run: &mut Run| {
    wait(run, 26_000, "bob", Wish::Look, "200").place = Some(2);
    promise(run, "b");
})]
#[case::a_join_answered_with_an_ended_order("answered with order a, which had ended", |run: &mut Run| {
    let join = wait(run, 50_000, "alice", Wish::Join, "200");
    (join.order, join.status) = (Some("a".into()), Some("confirmed".into()));
})]
#[case::an_answer_of_another_request("(Join) and was answered 409 sold-out", |run: &mut Run| {
    wait(run, 50_000, "frank", Wish::Join, "409 sold-out");
})]
#[case::a_place_without_an_order("erin is in the line of coffee without an order", |run: &mut Run| {
    run.last().lines.insert(COUPON.into(), vec![("erin".into(), None)]);
})]
#[case::a_unit_that_no_user_in_line_got("1 users wait for coffee at the end", |run: &mut Run| {
    cancel(run, 50_000, "c");
    run.rest(1, 0);
})]
#[case::a_unit_that_was_promised_again("carol has 2 live orders of coffee", |run: &mut Run| {
    wait(run, 20_000, "carol", Wish::Join, "200");
    promise(run, "c2");
    run.row("c2", "carol", "confirmed", 13_006);
    run.rest(2, 2);
})]
fn a_bad_history_of_a_waiting_list_is_invalid(#[case] because: &str, #[case] spoil: fn(&mut Run)) {
    let mut run = good();
    spoil(&mut run);
    match run.judge() {
        Verdict::Invalid(why) => assert!(why.iter().any(|why| why.contains(because)), "{why:?}"),
        other => panic!("{other}"),
    }
}

#[rstest]
#[case::a_leave_without_an_answer(|run: &mut Run| {
    run.last().lines.clear();
    wait(run, 50_000, "erin", Wish::Leave, "503 unavailable");
})]
#[case::a_user_who_left_and_is_told_so(|run: &mut Run| {
    wait(run, 16_000, "dave", Wish::Look, "404 not-waiting");
})]
#[case::a_join_without_an_answer_that_was_served(|run: &mut Run| {
    wait(run, 46_000, "frank", Wish::Join, "timeout");
    run.row("f", "frank", "confirmed", 46_005);
    cancel(run, 47_000, "f");
})]
#[case::a_claim_that_ended_before_the_next_answer(|run: &mut Run| {
    frank_claims(run, 44_000);
})]
#[case::a_claim_that_began_before_the_line(|run: &mut Run| {
    frank_claims(run, 10_500);
    run.history.claims.last_mut().unwrap().span = span(10_500, 50_000);
})]
#[case::a_claim_after_a_flush_that_lost_a_served_order(|run: &mut Run| {
    run.fault("flush", Loses::Claims, 22_000);
    frank_claims(run, 20_000);
})]
#[case::a_place_that_moved_back_after_a_flush(|run: &mut Run| {
    run.fault("flush", Loses::Claims, 25_500);
    wait(run, 26_000, "bob", Wish::Look, "200").place = Some(2);
    promise(run, "b");
})]
#[case::a_place_that_moved_back_because_a_served_order_was_lost_after_a_quiet_moment(|run: &mut Run| {
    run.sample(24_000, 1, 1);
    run.fault("flush", Loses::Claims, 25_500);
    wait(run, 26_000, "carol", Wish::Look, "200").place = Some(3);
    promise(run, "c");
})]
#[case::a_place_behind_a_user_whose_join_had_no_answer(|run: &mut Run| {
    wait(run, 10_500, "frank", Wish::Join, "503 unavailable");
    wait(run, 26_000, "bob", Wish::Look, "200").place = Some(2);
    promise(run, "b");
})]
#[case::a_claim_after_a_leave_without_an_answer(|run: &mut Run| {
    wait(run, 46_000, "erin", Wish::Leave, "503 unavailable");
    frank_claims(run, 50_000);
})]
#[case::a_place_that_moved_back_after_a_leave_without_an_answer(|run: &mut Run| {
    wait(run, 12_000, "bob", Wish::Leave, "503 unavailable");
    wait(run, 26_000, "bob", Wish::Look, "200").place = Some(2);
    promise(run, "b");
})]
#[case::joins_that_overlap(|run: &mut Run| {
    run.history.waits[0].span = span(11_000, 13_006);
    run.history.waits[1].span = span(13_000, 13_010);
    run.row_of("c").recorded_at_us = 20_000_000;
})]
#[case::a_join_answered_with_an_order_that_is_just_ending(|run: &mut Run| {
    run.history.cancels[0].span = span(30_000, 30_900);
    let join = wait(run, 30_800, "alice", Wish::Join, "200");
    (join.order, join.status) = (Some("a".into()), Some("confirmed".into()));
})]
#[case::a_repeat_that_is_told_its_place(|run: &mut Run| {
    wait(run, 46_000, "erin", Wish::Join, "200").place = Some(1);
    promise(run, "e");
})]
fn an_allowed_history_of_a_waiting_list_is_valid(#[case] vary: fn(&mut Run)) {
    let mut run = good();
    vary(&mut run);
    assert_eq!(run.judge(), Verdict::Valid);
}

#[test]
fn a_run_in_which_no_user_was_served_is_inconclusive() {
    let mut run = good();
    run.history.waits.retain(|wait| wait.wish != Wish::Look || wait.is_waiting());
    match run.judge() {
        Verdict::Inconclusive(why) => assert_eq!(why, ["no user in line was served"]),
        other => panic!("{other}"),
    }
}
