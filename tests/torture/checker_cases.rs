//! Tests of the checker: a good history is valid, and each edited history is bad or inconclusive in one way.

mod order_life;
mod run;
mod waiting;

use rstest::rstest;

use crate::checker::Verdict;
use crate::history::{Cancel, Class, Edit, History, Line, Loses, StatusAnswer};
use crate::stores::LastState;
use run::{COUPON, Run, span};

#[test]
fn a_good_history_is_valid() {
    assert_eq!(Run::good().judge(), Verdict::Valid);
}

#[rstest]
#[case::a_lost_order("was accepted and is lost", |run: &mut Run| {
    run.remove("a");
    run.rest(3, 1);
})]
#[case::an_order_lost_that_only_a_repeated_claim_was_answered_with("was accepted and is lost", |run: &mut Run| {
    run.remove("b");
    run.rest(3, 1);
})]
#[case::an_order_lost_in_a_flush_after_it_was_recorded("was accepted and is lost", |run: &mut Run| {
    run.remove("a");
    run.rest(3, 1);
    run.fault("flush", Loses::Claims, 70_000);
})]
#[case::an_order_lost_in_a_flush_although_it_was_answered_as_confirmed("was accepted and is lost", |run: &mut Run| {
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
#[case::an_accepted_order_that_was_cancelled_without_a_cause("cancelled for no reason", |run: &mut Run| {
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
#[case::a_stock_that_does_not_move_with_its_orders("in stock with", |run: &mut Run| {
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
#[case::units_of_a_coupon_in_two_partitions("all partitions together have 6 units, not 3", |run: &mut Run| {
    let other = run.last().redis.clone();
    run.last().redis.add(other);
})]
#[case::a_claim_held_in_two_partitions("3 claims are held for 2 users", |run: &mut Run| {
    run.last().redis.coupons[0].held = 3;
    run.last().redis.coupons[0].stock = Some(0);
})]
#[case::other_partitions_that_a_failover_stops("2 of 3 claims of other partitions were answered, 1 of 1 before", |run: &mut Run| {
    run.spare(COUPON, 20_000, 35_000);
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
#[case::an_unanswered_claim_that_took_two_units("has no request of its own", |run: &mut Run| {
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
#[case::a_status_that_went_back_behind_the_answer_to_the_claim("was confirmed and then accepted", |run: &mut Run| {
    run.claim(43_000, "bob", Class::Dup, Some("b")).status = Some("confirmed".into());
    run.status(44_000, "b", "accepted");
})]
#[case::an_ended_order_that_ended_again("was cancelled and then expired", |run: &mut Run| {
    run.status(51_000, "c", "cancelled");
    run.status(52_000, "c", "expired");
})]
#[case::a_holder_who_was_refused("holds order a and was answered", |run: &mut Run| {
    run.claim(47_000, "alice", Class::SoldOut, None);
})]
#[case::sold_out_before_all_units_were_claimed("sold out after 1 claims", |run: &mut Run| {
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
#[case::a_live_claim_that_was_released("Redis does not hold order a", |run: &mut Run| {
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
#[case::an_event_lost_without_a_fault("has no dead letter", |run: &mut Run| {
    run.last().letters.clear();
})]
#[case::an_event_lost_long_before_a_fault("has no dead letter", |run: &mut Run| {
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
#[case::an_event_whose_entry_id_is_unknown(|run: &mut Run| {
    run.poison(61_000, "no order", None, None);
    run.letter(Some("61005-0"), None);
})]
#[case::a_duplicate_that_the_test_added(|run: &mut Run| {
    run.poison(61_000, "duplicate", None, Some("a2"));
    run.row("a2", "alice", "rejected", 61_000);
    run.letter(Some("61005-0"), Some("a2"));
})]
#[case::a_repeat_that_does_not_know_the_status(|run: &mut Run| {
    run.claim(43_000, "alice", Class::Dup, Some("a")).status = Some("accepted".into());
})]
#[case::statuses_that_overlap(|run: &mut Run| {
    run.history.add(Line::Status(StatusAnswer { span: span(11_000, 20_000), order: "a".into(), status: "accepted".into() }));
})]
fn an_allowed_variation_is_valid(#[case] vary: fn(&mut Run)) {
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
#[case::that_left_more_claims_open_than_there_were_clients("left unanswered", |run: &mut Run| {
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
        include_str!("checker/order_life.rs"),
        include_str!("checker/orders.rs"),
        include_str!("checker/stores.rs"),
        include_str!("checker/waiting.rs"),
        include_str!("history.rs"),
        include_str!("stores.rs"),
    ] {
        for foreign in ["seckill::", "support", "crate::workload", "crate::cluster"] {
            assert!(!source.contains(foreign), "{foreign}");
        }
    }
}

#[test]
fn a_broken_promise_counts_more_than_an_open_question() {
    let mut run = Run::good();
    run.fault("kill Redis", Loses::Nothing, 71_000).fired = false;
    run.remove("a");
    run.rest(3, 1);
    assert!(matches!(run.judge(), Verdict::Invalid(_)));
}

#[test]
fn a_verdict_prints_the_first_reasons_only() {
    let mut run = Run::good();
    for at in 0..100 {
        run.sample(80_000 + 100 * at, 4, 3);
    }
    let text = run.judge().to_string();
    assert!(text.starts_with("INVALID\n  coffee had 4 live orders"), "{text}");
    assert!(text.contains("more"), "{text}");
    assert!(text.lines().count() < 50, "{text}");
}
