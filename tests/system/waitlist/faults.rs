//! A line while the stores fail: every user keeps the place that an answer named, and a request whose answer is lost may
//! be sent again.

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use support::proxy::{EVALSHA, Proxy, Trap, TrapAction};
use support::{Process, Sale, signal, until};

use super::{
    LINE, LINE_ORDERS, assert_place, buy, create, join, join_until_done, leave, place, revoke, rows_of,
    sold_out_with_a_line, unserved, until_line_is_whole, until_served,
};

const COUPON: &str = "seckill:{0}:coupon:coffee";
const ROWS: &str = "Adds users to the waiting lists of coupons";
/// The script that takes places; a call that only looks has no WAL position.
const TAKES_PLACES: [&str; 3] = [EVALSHA, "waitlist-orders:coffee", "$17\r\n00000000/"];

/// A sale whose clients use a second server, with proxies between that server and both stores.
pub async fn sale_behind_proxies() -> (Sale, Proxy, Proxy, Process) {
    let mut sale = Sale::start().await;
    create(&sale, 1).await;
    let redis = Proxy::before(&sale.redis_socket());
    let postgres = Proxy::before(&sale.postgres_socket());
    let server = sale.spawn_by_address("serve", &[&redis, &postgres], &[("SECKILL_WORKERS", "0")]);
    sale.url = server.url_when_up().await;
    (sale, redis, postgres, server)
}

/// Sends a user's request to join, and holds it after its row is committed and before its place is taken.
pub async fn hold_before_the_place(sale: &Sale, redis: &Proxy, user: &str) -> Trap {
    let trap = redis.hold(&TAKES_PLACES);
    tokio::select! {
        answer = join(sale, user) => panic!("answered before its place: {}", answer.text),
        () = trap.until_taken() => {}
    }
    trap
}

#[tokio::test]
async fn a_line_is_whole_again_after_any_damage_to_redis() {
    let sale = Sale::start().await;
    let (order, places) = sold_out_with_a_line(&sale).await;
    let damages: &[&[&[&str]]] = &[
        &[&["FLUSHALL"]],
        &[&["DEL", LINE]],
        &[&["DEL", LINE_ORDERS]],
        &[&["HDEL", LINE_ORDERS, "carol"]],
        &[&["ZREM", LINE, "bob"]],
        &[&["HSET", LINE_ORDERS, "stranger", "nonsense"]],
        &[&["DEL", LINE], &["SET", LINE, "x"]],
        &[&["DEL", LINE_ORDERS], &["SADD", LINE_ORDERS, "x"]],
        &[&["DEL", LINE, LINE_ORDERS], &["LPUSH", LINE, "x"], &["SET", LINE_ORDERS, "x"]],
        &[&["DEL", LINE, LINE_ORDERS, "seckill:{0}:epoch"]],
        &[&["DEL", COUPON]],
        &[&["DEL", COUPON, LINE, LINE_ORDERS]],
    ];
    for damage in damages {
        for command in *damage {
            sale.redis_cli(command);
        }
        until_line_is_whole(&sale, &places, &format!("{damage:?}")).await;
        assert_eq!(unserved(&sale), rows_of(&super::WAITING, &places), "{damage:?}");
    }
    revoke(&sale, &order).await;
    until_served(&sale, "bob", &places[0]).await;
    sale.assert_in_agreement("coffee").await;
    assert_place(&place(&sale, "carol").await, 200, 1, 2);
}

#[tokio::test]
async fn a_line_survives_a_killed_program_a_killed_redis_and_a_killed_postgres() {
    let mut sale = Sale::start().await;
    let (order, places) = sold_out_with_a_line(&sale).await;
    let epoch = sale.epoch();
    signal(sale.redis_pid(), Signal::SIGKILL);
    until("a new epoch is in force", async || (sale.epoch() != epoch).then_some(())).await;
    until_line_is_whole(&sale, &places, "a killed Redis").await;
    signal(sale.postgres_pids()[0], Signal::SIGKILL);
    until_line_is_whole(&sale, &places, "a killed Postgres").await;
    sale.kill_9();
    sale.start_server().await;
    until_line_is_whole(&sale, &places, "a killed program").await;
    revoke(&sale, &order).await;
    until_served(&sale, "bob", &places[0]).await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_join_whose_answer_is_lost_in_any_step_is_found_or_made_by_its_repeat() {
    let (sale, redis, postgres, _server) = sale_behind_proxies().await;
    buy(&sale, "alice").await;
    let mut number = 0;
    for act in [TrapAction::Cut, TrapAction::CutReply] {
        for (proxy, needles) in [(&postgres, &[ROWS][..]), (&redis, &TAKES_PLACES[..])] {
            number += 1;
            let user = format!("user-{number}");
            let trap = proxy.set_trap(act, needles);
            let first = join(&sale, &user).await;
            trap.until_done().await;
            first.assert_problem(503, "unavailable");
            let again = join_until_done(&sale, &user).await;
            let is_found = act == TrapAction::CutReply && needles != [ROWS];
            assert_place(&again, if is_found { 200 } else { 201 }, number, number);
            sale.redis_cli(&["DEL", "seckill:{0}:epoch"]);
            until("the place and its order survive a rebuild", async || {
                let shown = place(&sale, &user).await;
                (shown.status == 200).then(|| {
                    assert_place(&shown, 200, number, number);
                    assert_eq!(shown.body["order"], again.body["order"], "{act:?} {needles:?}");
                })
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_join_that_dies_between_its_row_and_its_place_takes_one_place_by_its_repeat() {
    let (mut sale, redis, _postgres, server) = sale_behind_proxies().await;
    let order = buy(&sale, "alice").await;
    let trap = hold_before_the_place(&sale, &redis, "bob").await;
    let lost = unserved(&sale);
    assert!(lost.starts_with("bob|"), "the row comes first: {lost}");
    server.kill_9();
    trap.discard();
    let second = sale.spawn_by_address("serve", &[], &[("SECKILL_WORKERS", "0")]);
    sale.url = second.url_when_up().await;
    let bob = join_until_done(&sale, "bob").await;
    assert_place(&bob, 201, 1, 1);
    for damage in [&["FLUSHALL"][..], &["DEL", "seckill:{0}:epoch"]] {
        sale.redis_cli(damage);
        until("the line is there again", async || {
            let shown = place(&sale, "bob").await;
            (shown.status == 200).then(|| {
                assert_place(&shown, 200, 1, 1);
                assert_eq!(shown.body["order"], bob.body["order"], "the order that bob was told");
            })
        })
        .await;
        assert_eq!(unserved(&sale), rows_of(&["bob"], &[bob.body["order"].clone()]), "one row for one place");
    }
    revoke(&sale, &order).await;
    until_served(&sale, "bob", &bob.body["order"]).await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn without_postgres_a_join_is_refused_in_time_a_place_is_shown_and_leaving_can_be_repeated() {
    let (sale, _redis, postgres, _server) = sale_behind_proxies().await;
    buy(&sale, "alice").await;
    let bob = join(&sale, "bob").await;
    postgres.refuse();
    join(&sale, "carol").await.assert_problem(503, "unavailable");
    assert_place(&place(&sale, "bob").await, 200, 1, 1);
    place(&sale, "carol").await.assert_problem(503, "unavailable");
    leave(&sale, "bob").await.assert_problem(503, "unavailable");
    postgres.accept_again();
    until("bob has left", async || (leave(&sale, "bob").await.status == 204).then_some(())).await;
    assert_eq!(unserved(&sale), "", "the row of {}", bob.body["order"]);
    assert_place(&join_until_done(&sale, "carol").await, 201, 1, 1);
}

#[tokio::test]
async fn while_postgres_hangs_a_join_is_refused_in_time_and_the_next_one_is_made_when_it_continues() {
    let sale = Sale::start().await;
    let (_, places) = sold_out_with_a_line(&sale).await;
    let pids = sale.postgres_pids();
    support::signal_all(&pids, Signal::SIGSTOP);
    let refused = join(&sale, "erin").await;
    let shown = place(&sale, "dave").await;
    support::signal_all(&pids, Signal::SIGCONT);
    refused.assert_problem(503, "unavailable");
    assert_place(&shown, 200, 3, 3);
    let erin = join_until_done(&sale, "erin").await;
    assert_eq!(erin.body["place"], 4, "{}", erin.text);
    assert_eq!(place(&sale, "bob").await.body["order"], places[0]);
}

#[tokio::test]
async fn while_redis_hangs_every_request_is_refused_in_time_and_the_line_stays() {
    let sale = Sale::start().await;
    let (_, places) = sold_out_with_a_line(&sale).await;
    let redis = sale.redis_pid();
    signal(redis, Signal::SIGSTOP);
    join(&sale, "erin").await.assert_problem(503, "unavailable");
    place(&sale, "bob").await.assert_problem(503, "unavailable");
    leave(&sale, "bob").await.assert_problem(503, "unavailable");
    signal(redis, Signal::SIGCONT);
    until("the line is seen", async || (place(&sale, "carol").await.status == 200).then_some(())).await;
    // The request to leave may have reached Redis: it is sent again.
    until("bob has left", async || (leave(&sale, "bob").await.status == 204).then_some(())).await;
    assert_place(&place(&sale, "carol").await, 200, 1, 2);
    assert_eq!(unserved(&sale), rows_of(&["carol", "dave"], &places[1..]));
}

#[tokio::test]
async fn a_user_who_was_served_is_not_in_line_after_a_rebuild_recorded_or_not_held_or_ended() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    let worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    let (_, places) = sold_out_with_a_line(&sale).await;
    sale.until_quiet().await;
    assert!(worker.stop().success());
    let more = Some(json!({"total": 2}));
    assert_eq!(sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", more).await.status, 200);
    until("bob is served", async || (place(&sale, "bob").await.body["status"] == "accepted").then_some(()))
        .await;
    // Not recorded yet: only the claims hash shows that bob has his unit.
    rebuild(&sale, &["DEL", "seckill:{0}:epoch"]).await;
    let served = place(&sale, "bob").await;
    assert_eq!((served.status, &served.body["order"]), (200, &places[0]), "{}", served.text);
    assert_eq!(served.body["status"], "accepted", "{}", served.text);
    assert_place(&place(&sale, "carol").await, 200, 1, 2);

    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    until_served(&sale, "bob", &places[0]).await;
    rebuild(&sale, &["FLUSHALL"]).await;
    assert_place(&place(&sale, "carol").await, 200, 1, 2);
    // An order that has ended is not served again.
    revoke(&sale, places[0].as_str().unwrap()).await;
    until_served(&sale, "carol", &places[1]).await;
    rebuild(&sale, &["FLUSHALL"]).await;
    assert_place(&place(&sale, "dave").await, 200, 1, 1);
    sale.assert_in_agreement("coffee").await;
}

/// Damages Redis, and waits until claims are accepted in a new epoch.
async fn rebuild(sale: &Sale, damage: &[&str]) {
    let epoch = sale.epoch();
    sale.redis_cli(damage);
    until("a new epoch is in force", async || (sale.epoch() != epoch).then_some(())).await;
    until("places are shown", async || (place(sale, "dave").await.status == 200).then_some(())).await;
}
