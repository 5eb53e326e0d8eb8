//! The waiting list: who gets a place, and who gets a unit that comes back.

use std::sync::LazyLock;

use seckill::config::{RELEASE_BATCH_MAX_UNITS, WAITLIST_MAX_USERS, WAITLIST_SERVE_MAX_UNITS};
use seckill::domain::{
    Claim, ClaimOutcome, CouponId, Definition, JoinRefusal, OrderId, Refusal, WaitingUser,
};
use seckill::redis::scripts::release::{self, EndedUnit, ReleaseOutcome, Released};
use seckill::redis::scripts::{self, Published};
use seckill::redis::waitlist::{self, LineOutcome, Served, Standing, Standings};
use time::OffsetDateTime;

use crate::harness::{READY, Reply, TestRedis, claim, claim_with_key, open_coupon, unit};

const POSITION: &str = "00000000/00000002";

static COFFEE: LazyLock<CouponId> = LazyLock::new(|| "coffee".parse().unwrap());

/// Version 1 of a coupon with a waiting list.
fn awaited(total: i64) -> Definition {
    Definition { waitlist: true, ..open_coupon(&COFFEE, total) }
}

fn edit(redis: &TestRedis, definition: &Definition) {
    let published = scripts::publish(&redis.redis, READY, false, definition);
    assert_eq!(redis.runtime.block_on(published).unwrap(), Published::Applied);
}

fn waiting(user: &str) -> WaitingUser {
    WaitingUser { user: user.parse().unwrap(), order: OrderId::mint(), key: None }
}

fn waiting_with_key(user: &str, key: &str) -> WaitingUser {
    WaitingUser { key: Some(key.parse().unwrap()), ..waiting(user) }
}

fn join(redis: &TestRedis, users: &[WaitingUser]) -> Vec<Standing> {
    let joined = waitlist::join(&redis.redis, READY, POSITION, &COFFEE, users);
    standings(redis.runtime.block_on(joined).unwrap())
}

fn look(redis: &TestRedis, user: &WaitingUser) -> Standing {
    let looked = waitlist::look(&redis.redis, READY, &COFFEE, std::slice::from_ref(user));
    standings(redis.runtime.block_on(looked).unwrap()).remove(0)
}

fn standings(outcome: LineOutcome<Standings>) -> Vec<Standing> {
    match outcome {
        LineOutcome::Done(standings) => standings.users,
        other => panic!("not decided: {other:?}"),
    }
}

fn serve(redis: &TestRedis) -> (i64, i64) {
    let served = waitlist::serve(&redis.redis, READY, &COFFEE);
    match redis.runtime.block_on(served).unwrap() {
        LineOutcome::Done((Served { units, .. }, left)) => (units, left),
        other => panic!("not decided: {other:?}"),
    }
}

/// Returns units, and how many of them went to users in line.
fn release(redis: &TestRedis, claims: &[Claim]) -> i64 {
    let units: Vec<EndedUnit> = claims.iter().map(|claim| unit(claim.user.as_str(), claim.order)).collect();
    let released = release::release(&redis.redis, READY, &COFFEE, &units);
    match redis.runtime.block_on(released).unwrap() {
        ReleaseOutcome::Done { units: released, served } => {
            assert_eq!(released, vec![Released::Released; units.len()]);
            served.units
        }
        other => panic!("not released: {other:?}"),
    }
}

fn stock(redis: &mut TestRedis) -> String {
    redis.field(&redis.redis.keys.coupon(&COFFEE), "stock")
}

/// The orders of the events, oldest first.
fn sent_orders(redis: &mut TestRedis) -> Vec<String> {
    let orders = redis.redis.keys.orders.to_string();
    let entries = redis.raw.call(&["XRANGE", &orders, "-", "+"]).array();
    entries.into_iter().map(|entry| entry.array().remove(1).pairs().remove(0).1).collect()
}

fn texts(users: &[WaitingUser]) -> Vec<String> {
    users.iter().map(|waiting| waiting.order.to_string()).collect()
}

/// A coupon whose units are held by these users, and users who wait.
fn sold_out<const N: usize>(holders: [&str; N], users: &[WaitingUser]) -> (TestRedis, [Claim; N]) {
    let redis = TestRedis::start();
    redis.publish_as(&awaited(i64::try_from(N).unwrap()));
    let claims = holders.map(|user| claim(&COFFEE, user));
    redis.claim(&claims);
    let places: Vec<Standing> = (1..).take(users.len()).map(Standing::Joined).collect();
    assert_eq!(join(&redis, users), places);
    (redis, claims)
}

#[test]
fn units_that_come_back_go_to_the_first_in_line_in_the_order_of_joining() {
    let users = ["dave", "carol", "bob"].map(waiting);
    let (mut redis, [alice, erin]) = sold_out(["alice", "erin"], &users[..2]);
    assert_eq!(join(&redis, &users[2..]), [Standing::Joined(3)]);

    assert_eq!(release(&redis, &[alice]), 1);
    let [dave, carol, bob] = &users;
    assert_eq!(look(&redis, dave), Standing::Held(dave.order));
    assert_eq!(look(&redis, carol), Standing::Waits { place: 1, order: carol.order });
    assert_eq!(look(&redis, bob), Standing::Waits { place: 2, order: bob.order });
    assert_eq!(stock(&mut redis), "0");

    assert_eq!(release(&redis, &[erin]), 1);
    assert_eq!(look(&redis, bob), Standing::Waits { place: 1, order: bob.order });
    assert_eq!(sent_orders(&mut redis)[2..], texts(&users[..2]));
}

#[test]
fn a_user_has_one_place_however_often_a_batch_is_sent() {
    let users = ["bob", "carol"].map(waiting);
    let (mut redis, _) = sold_out(["alice"], &users);
    let before = redis.dump();
    let waits =
        |place: i64| Standing::Waits { place, order: users[usize::try_from(place - 1).unwrap()].order };
    assert_eq!(join(&redis, &users), [waits(1), waits(2)]);
    assert_eq!(join(&redis, &["carol", "bob"].map(waiting)), [waits(2), waits(1)], "the first order counts");
    assert_eq!(redis.dump(), before);

    let twice = ["dave", "dave"].map(waiting);
    let again = Standing::Waits { place: 3, order: twice[0].order };
    assert_eq!(join(&redis, &twice), [Standing::Joined(3), again]);
}

#[test]
fn units_are_not_for_sale_while_users_wait() {
    let users = ["bob"].map(waiting);
    let (mut redis, _) = sold_out(["alice"], &users);
    edit(&redis, &Definition { version: 2, ..awaited(3) });
    let claims = ["bob", "carol"].map(|user| claim(&COFFEE, user));
    assert_eq!(redis.claim(&claims), vec![ClaimOutcome::Refused(Refusal::SoldOut); 2]);
    assert_eq!(join(&redis, &[waiting("dave")]), [Standing::Joined(2)], "the line is the only way to a unit");

    assert_eq!(serve(&redis), (2, 0));
    let held = ClaimOutcome::Held { order: users[0].order, stock: 0 };
    assert_eq!(redis.claim(&claims), [held, ClaimOutcome::Refused(Refusal::SoldOut)]);
    assert_eq!(stock(&mut redis), "0");

    edit(&redis, &Definition { version: 3, ..awaited(4) });
    assert_eq!(join(&redis, &[waiting("erin")]), [Standing::Refused(JoinRefusal::NotSoldOut)]);
    assert_eq!(redis.claim(&claims[1..]), [ClaimOutcome::Accepted { stock: 0 }], "the line is empty");
}

#[test]
fn a_user_of_several_units_waits_with_a_key_and_claims_with_it_again() {
    let mut redis = TestRedis::start();
    redis.publish_as(&Definition { per_user_limit: 2, ..awaited(2) });
    let claims = ["k1", "k2"].map(|key| claim_with_key(&COFFEE, "alice", key));
    redis.claim(&claims);
    assert_eq!(join(&redis, &[waiting("bob")]), [Standing::Refused(JoinRefusal::KeyRequired)]);
    let [first, second] = ["k1", "k2"].map(|key| waiting_with_key("bob", key));
    let waits = Standing::Waits { place: 1, order: first.order };
    assert_eq!(join(&redis, &[first.clone(), second.clone()]), [Standing::Joined(1), waits]);
    let alice = ["k1", "k3"].map(|key| waiting_with_key("alice", key));
    let none = Standing::Refused(JoinRefusal::LimitReached);
    assert_eq!(join(&redis, &alice), [Standing::Held(claims[0].order), none]);

    assert_eq!(release(&redis, &claims[..1]), 1);
    let again = claim_with_key(&COFFEE, "bob", "k1");
    assert_eq!(redis.claim(&[again]), [ClaimOutcome::Held { order: first.order, stock: 0 }]);
    assert_eq!(join(&redis, &[first, second.clone()])[1], Standing::Joined(1), "for a further unit");

    // The holder of slot 2 has a unit with `k2`, which came back.
    let returned = EndedUnit { field: "alice\u{1f}2".into(), ..unit("alice", claims[1].order) };
    assert_eq!(redis.release(&COFFEE, &[returned]), [Released::Released]);
    let held = format!("{} k2", second.order);
    assert_eq!(redis.field(&redis.redis.keys.claims(&COFFEE), "bob\u{1f}2"), held);
    let orders = redis.redis.keys.orders.to_string();
    let entries = redis.raw.call(&["XREVRANGE", &orders, "+", "-", "COUNT", "1"]).array();
    let event = entries.into_iter().next().unwrap().array().remove(1).pairs();
    assert_eq!(event[3..], [("slot".into(), "2".into()), ("key".into(), "k2".into())]);
}

#[test]
fn a_full_release_serves_the_front_of_a_longer_line() {
    let units = RELEASE_BATCH_MAX_UNITS;
    let mut redis = TestRedis::start();
    redis.publish_as(&awaited(i64::try_from(units).unwrap()));
    let claims: Vec<Claim> = (0..units).map(|number| claim(&COFFEE, &format!("user-{number}"))).collect();
    claims.chunks(100).for_each(|batch| drop(redis.claim(batch)));
    let users: Vec<WaitingUser> = (0..2 * units).map(|number| waiting(&format!("waits-{number}"))).collect();
    users.chunks(units).for_each(|batch| drop(join(&redis, batch)));

    assert_eq!(release(&redis, &claims), i64::try_from(units).unwrap());
    assert_eq!(stock(&mut redis), "0");
    assert_eq!(sent_orders(&mut redis)[units..], texts(&users[..units]));
    assert_eq!(look(&redis, &users[units]), Standing::Waits { place: 1, order: users[units].order });
    assert_eq!(redis.runtime.block_on(waitlist::length(&redis.redis, &COFFEE)).unwrap(), 500);
}

#[test]
fn a_restock_is_served_in_parts_until_the_units_or_the_users_end() {
    let most = i64::try_from(WAITLIST_SERVE_MAX_UNITS).unwrap();
    let users: Vec<WaitingUser> = (0..most + 7).map(|number| waiting(&format!("waits-{number}"))).collect();
    let (redis, _) = sold_out(["alice"], &users);
    edit(&redis, &Definition { version: 2, ..awaited(1 + most + 3) });
    assert_eq!(serve(&redis), (most, 3), "3 units for 7 users");
    assert_eq!(serve(&redis), (3, 0));
    assert_eq!(serve(&redis), (0, 0));
    edit(&redis, &Definition { version: 3, ..awaited(1 + most + 9) });
    assert_eq!(serve(&redis), (4, 0), "2 units stay in stock");
}

#[test]
fn a_user_who_may_hold_no_more_units_leaves_the_line_without_one() {
    let users = ["bob", "carol"].map(waiting);
    let (mut redis, [alice]) = sold_out(["alice"], &users);
    edit(&redis, &Definition { waitlist: false, version: 2, ..awaited(2) });
    let bob = claim(&COFFEE, "bob");
    assert_eq!(redis.claim(std::slice::from_ref(&bob)), [ClaimOutcome::Accepted { stock: 0 }]);
    edit(&redis, &Definition { version: 3, ..awaited(2) });

    assert_eq!(release(&redis, &[alice]), 0);
    assert_eq!(stock(&mut redis), "1");
    assert_eq!(look(&redis, &users[0]), Standing::Held(bob.order));
    assert_eq!(serve(&redis), (1, 0));
    assert_eq!(look(&redis, &users[1]), Standing::Held(users[1].order));
}

#[test]
fn a_unit_whose_event_does_not_fit_into_the_stream_stays_in_stock_and_its_user_in_line() {
    let users = ["carol", "dave"].map(waiting);
    let (mut redis, claims) = sold_out(["alice", "bob"], &users);
    let last = "18446744073709551615-18446744073709551614";
    redis.raw.call(&["XSETID", &redis.redis.keys.orders, last]);

    assert_eq!(release(&redis, &claims), 1);
    assert_eq!(stock(&mut redis), "1");
    assert_eq!(look(&redis, &users[0]), Standing::Held(users[0].order));
    assert_eq!(look(&redis, &users[1]), Standing::Waits { place: 1, order: users[1].order });
    let before = redis.dump();
    assert_eq!(serve(&redis), (0, 0), "a further call at once would do nothing");
    assert_eq!(redis.dump(), before);
}

#[test]
fn units_of_a_paused_or_ended_coupon_stay_in_stock() {
    let past = OffsetDateTime::from_unix_timestamp(1_000_000_000).ok();
    let paused = Definition { paused: true, ..awaited(1) };
    let ended = Definition { ends_at: past, ..awaited(1) };
    for closed in [paused, ended] {
        let users = ["bob"].map(waiting);
        let (mut redis, claims) = sold_out(["alice"], &users);
        edit(&redis, &Definition { version: 2, ..closed.clone() });
        assert_eq!(release(&redis, &claims), 0);
        assert_eq!(stock(&mut redis), "1");
        assert_eq!(serve(&redis), (0, 0));
        let refused = Standing::Refused(JoinRefusal::Ended);
        let carol = if closed.paused { Standing::Joined(2) } else { refused };
        assert_eq!(look(&redis, &waiting("carol")), carol);

        edit(&redis, &Definition { version: 3, ..awaited(1) });
        assert_eq!(serve(&redis), (1, 0));
        assert_eq!(look(&redis, &users[0]), Standing::Held(users[0].order));
    }
}

#[test]
fn a_coupon_without_a_waiting_list_gives_no_place_and_nothing_is_written() {
    let mut redis = TestRedis::start();
    let before = redis.dump();
    let none = [Standing::Refused(JoinRefusal::NoWaitlist)];
    assert_eq!(join(&redis, &[waiting("bob")]), none, "Redis has no such coupon");
    assert_eq!(redis.dump(), before);

    redis.publish(&COFFEE, 0);
    let before = redis.dump();
    assert_eq!(join(&redis, &[waiting("bob")]), none);
    assert_eq!(redis.dump(), before);
}

#[test]
fn a_full_line_takes_a_user_only_after_another_has_left() {
    let (mut redis, _) = sold_out(["alice"], &[waiting("bob")]);
    let line = redis.redis.keys.waitlist(&COFFEE);
    let names: Vec<String> = (2..=WAITLIST_MAX_USERS).map(|number| format!("{number}")).collect();
    let orders = redis.redis.keys.waitlist_orders(&COFFEE);
    for part in names.chunks(1_000) {
        for key in [["ZADD", &line], ["HSET", &orders]] {
            let mut command = key.to_vec();
            command.extend(part.iter().flat_map(|number| [number.as_str(), number]));
            assert_eq!(redis.raw.call(&command), Reply::Integer(i64::try_from(part.len()).unwrap()));
        }
    }
    let full = [Standing::Refused(JoinRefusal::Full)];
    assert_eq!(join(&redis, &[waiting("carol")]), full);
    let bob = "bob".parse().unwrap();
    let left = waitlist::leave(&redis.redis, READY, &COFFEE, &bob);
    assert!(matches!(redis.runtime.block_on(left).unwrap(), LineOutcome::Done(Some(_))));
    let last = i64::try_from(WAITLIST_MAX_USERS).unwrap();
    let users = ["carol", "dave"].map(waiting);
    assert_eq!(join(&redis, &users), [Standing::Joined(last), full[0]]);
    assert_eq!(look(&redis, &users[0]), Standing::Waits { place: last, order: users[0].order });
}

#[test]
fn a_place_is_taken_with_the_position_of_its_row_and_a_higher_one_stays() {
    let (mut redis, _) = sold_out(["alice"], &[waiting("bob")]);
    let key = redis.redis.keys.postgres_lsn.to_string();
    assert_eq!(redis.raw.call(&["GET", &key]), Reply::Bulk(Some(POSITION.into())));
    redis.raw.call(&["SET", &key, "00000001/00000000"]);
    assert_eq!(join(&redis, &[waiting("carol")]), [Standing::Joined(2)]);
    assert_eq!(redis.raw.call(&["GET", &key]), Reply::Bulk(Some("00000001/00000000".into())));
}

#[test]
fn a_rebuild_replaces_the_line_and_leaves_out_users_who_hold_the_unit() {
    let (mut redis, claims) = sold_out(["alice", "bob"], &[waiting("zoe")]);
    let keys = redis.redis.keys.clone();
    redis.raw.call(&["SET", &keys.waitlist_orders(&COFFEE), "another type"]);
    let [alice, _] = claims;
    let mut users: Vec<WaitingUser> = (0..2_500).map(|number| waiting(&format!("waits-{number}"))).collect();
    users.insert(1_500, WaitingUser { user: alice.user, order: alice.order, key: None });
    users.insert(7, waiting("bob"));

    let before = redis.dump();
    let rebuild = |redis: &TestRedis| {
        let rebuilt = waitlist::rebuild(&redis.redis, "building:7-c0ffee", &COFFEE, 1, &users);
        redis.runtime.block_on(rebuilt).unwrap()
    };
    assert!(!rebuild(&redis), "another marker");
    assert_eq!(redis.dump(), before);
    redis.raw.call(&["SET", &keys.epoch, "building:7-c0ffee"]);
    assert!(rebuild(&redis));
    let line = redis.runtime.block_on(waitlist::read(&redis.redis, &COFFEE)).unwrap();
    users.retain(|waiting| waiting.user.as_str().starts_with("waits-"));
    assert_eq!((line.users, line.is_damaged), (users, false));
}
