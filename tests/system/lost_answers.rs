//! Lost answers, commands that arrive late, stores that hang: a client repeats a claim whose result is unknown, and the
//! repeat costs no second unit.

use std::cell::Cell;

use nix::sys::signal::Signal;

use support::proxy::{ACKNOWLEDGEMENT, EVALSHA, Proxy, TrapAction};
use support::{Process, Sale, signal, signal_all, until};

const CLAIMS: &str = "seckill:{0}:claims:coffee";
const NO_WORKERS: (&str, &str) = ("SECKILL_WORKERS", "0");
const ONE_WORKER: (&str, &str) = ("SECKILL_WORKERS", "1");

/// A sale without workers whose clients use a second server, with a proxy between that server and Redis.
async fn sale_behind_a_proxy() -> (Sale, Proxy, Process) {
    let mut sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    let proxy = Proxy::before(&sale.redis_socket());
    let replica = sale.spawn_by_address("serve", &[&proxy], &[]);
    sale.url = replica.url_when_up().await;
    (sale, proxy, replica)
}

/// How many scripts Redis has run from its cache.
fn scripts_run(sale: &Sale) -> u64 {
    let stats = sale.redis_cli_without_program(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")).unwrap_or("0,");
    line.split(',').next().unwrap().parse().unwrap()
}

async fn claim_until_accepted(sale: &Sale, user: &str) -> (u16, String) {
    until("the claim is accepted", async || {
        let answer = sale.claim("coffee", user).await;
        assert!([200, 202, 503].contains(&answer.status), "{}", answer.text);
        (answer.status != 503).then(|| (answer.status, answer.body["order"].as_str().unwrap().to_owned()))
    })
    .await
}

/// Claims until a claim is accepted, and checks that the program has replaced its broken connection at once. A probe
/// over the broken connection would wait until its timeout, and every claim during this time would be refused.
async fn claim_over_a_new_connection(sale: &Sale, user: &str) -> String {
    let refused = Cell::new(0);
    let order = until("the claim is accepted", async || {
        let answer = sale.claim("coffee", user).await;
        refused.set(refused.get() + usize::from(answer.status == 503));
        (answer.status == 202).then(|| answer.body["order"].as_str().unwrap().to_owned())
    })
    .await;
    let refused = refused.get();
    assert!(refused < 20, "refused {refused} times before there was a new connection");
    order
}

#[tokio::test]
async fn an_answer_that_arrives_after_the_end_of_its_session_is_not_told() {
    let (sale, proxy, _replica) = sale_behind_a_proxy().await;
    let trap = proxy.hold_reply(&[EVALSHA, "alice"]);
    let (late, ()) = tokio::join!(sale.claim("coffee", "alice"), async {
        trap.until_taken().await;
        let held = async || (sale.redis_cli_without_program(&["HLEN", CLAIMS]) == "1").then_some(());
        until("the script has run", held).await;
        let order = serde_json::json!({"rebuild": true});
        let rebuilt = sale.admin(reqwest::Method::POST, "/v1/admin/reconcile", Some(order)).await;
        assert_eq!(rebuilt.status, 200, "{}", rebuilt.text);
        trap.release();
    });
    late.assert_problem(503, "unavailable");
    assert!(late.text.contains("session had ended"), "{}", late.text);
    let repeat = sale.claim("coffee", "alice").await;
    assert_eq!(repeat.status, 200, "the claim was made: {}", repeat.text);
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_found_by_its_repeat_and_costs_one_unit() {
    let (sale, proxy, _replica) = sale_behind_a_proxy().await;
    let trap = proxy.cut_reply(&[EVALSHA, "alice"]);
    let lost = sale.claim("coffee", "alice").await;
    assert_eq!((lost.status, lost.code()), (503, "unavailable"), "{}", lost.text);
    assert!(lost.header("retry-after").parse::<u64>().is_ok());
    trap.until_done().await;

    let (status, order) = claim_until_accepted(&sale, "alice").await;
    assert_eq!(status, 200);
    let _worker = sale.spawn("worker", &[ONE_WORKER]);
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&[order]);
}

#[tokio::test]
async fn a_claim_that_never_reached_redis_is_made_by_its_repeat() {
    let (sale, proxy, _replica) = sale_behind_a_proxy().await;
    let epoch = sale.epoch();
    let _trap = proxy.cut(&[EVALSHA, "alice"]);
    assert_eq!(sale.claim("coffee", "alice").await.status, 503);
    assert_eq!(sale.redis_cli(&["HLEN", CLAIMS]), "0");
    let order = claim_over_a_new_connection(&sale, "alice").await;
    let _worker = sale.spawn("worker", &[ONE_WORKER]);
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&[order]);
    assert_eq!(sale.epoch(), epoch, "a broken connection causes no rebuild");
}

#[tokio::test]
async fn a_connection_that_breaks_while_it_is_idle_is_replaced_at_once() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    for user in ["alice", "bob", "carol"] {
        sale.redis_cli_without_program(&["CLIENT", "KILL", "TYPE", "normal"]);
        claim_over_a_new_connection(&sale, user).await;
    }
    assert_eq!(sale.redis_stock("coffee"), 7);
}

#[tokio::test]
async fn a_claim_that_reaches_redis_after_its_timeout_is_not_made() {
    let (sale, proxy, _replica) = sale_behind_a_proxy().await;
    let trap = proxy.hold(&[EVALSHA, "alice"]);
    assert_eq!(sale.claim("coffee", "alice").await.status, 503);
    let before = scripts_run(&sale);
    trap.release();
    until("the late claim has arrived", async || (scripts_run(&sale) > before).then_some(())).await;
    assert_eq!(sale.redis_cli(&["HLEN", CLAIMS]), "0");
    assert_eq!(sale.redis_stock("coffee"), 10);
    assert_eq!(claim_until_accepted(&sale, "bob").await.0, 202);
}

#[tokio::test]
async fn claims_that_timed_out_while_redis_hung_are_not_made_when_it_continues() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    let (redis, before) = (sale.redis_pid(), scripts_run(&sale));
    signal(redis, Signal::SIGSTOP);
    assert_eq!(sale.claim("coffee", "alice").await.status, 503);
    signal(redis, Signal::SIGCONT);
    until("the late claim has arrived", async || (scripts_run(&sale) > before).then_some(())).await;
    assert_eq!(sale.redis_cli(&["HLEN", CLAIMS]), "0");
    assert_eq!(claim_until_accepted(&sale, "alice").await.0, 202);
    assert_eq!(sale.redis_stock("coffee"), 9);
}

#[tokio::test]
async fn an_acknowledgement_that_is_lost_makes_no_second_order() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    let proxy = Proxy::before(&sale.redis_socket());
    let worker = sale.spawn_by_address("worker", &[&proxy], &[ONE_WORKER]);
    worker.until_logged("fence up").await;
    let mut orders = Vec::new();
    for (user, trap) in [("alice", proxy.cut(&ACKNOWLEDGEMENT)), ("bob", proxy.cut_reply(&ACKNOWLEDGEMENT))] {
        let answer = sale.claim("coffee", user).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        orders.push(answer.body["order"].as_str().unwrap().to_owned());
        trap.until_done().await;
        sale.assert_in_agreement("coffee").await;
    }
    sale.assert_recorded(&orders);
    assert_eq!(sale.psql_number("select count(*) from dead_letters"), 0);
}

#[tokio::test]
async fn a_lost_commit_or_a_lost_answer_to_it_neither_doubles_nor_loses_an_order() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    let proxy = Proxy::before(&sale.postgres_socket());
    let worker = sale.spawn_by_address("worker", &[&proxy], &[ONE_WORKER]);
    worker.until_logged("fence up").await;
    let mut orders = Vec::new();
    for (user, act) in [("alice", TrapAction::Cut), ("bob", TrapAction::CutReply)] {
        for step in
            ["BEGIN", "pg_advisory_xact_lock_shared", "insert into orders", "update coupons", "COMMIT"]
        {
            let user = format!("{user}-{step}");
            let needles = [step, &user, "insert into orders"];
            let needles = if step == "COMMIT" { &needles[..] } else { &needles[..1] };
            let trap = proxy.set_trap(act, needles);
            let answer = sale.claim("coffee", &user).await;
            assert_eq!(answer.status, 202, "{}", answer.text);
            orders.push(answer.body["order"].as_str().unwrap().to_owned());
            trap.until_done().await;
            sale.assert_in_agreement("coffee").await;
        }
    }
    sale.assert_recorded(&orders);
    assert_eq!(sale.psql_number("select count(*) from dead_letters"), 0);
}

#[tokio::test]
async fn claims_go_on_over_a_new_connection_while_postgres_hangs() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    let pids = sale.postgres_pids();
    signal_all(&pids, Signal::SIGSTOP);
    let mut orders = Vec::new();
    for user in ["alice", "bob"] {
        sale.redis_cli_without_program(&["CLIENT", "KILL", "TYPE", "normal"]);
        orders.push(claim_until_accepted(&sale, user).await.1);
    }
    signal_all(&pids, Signal::SIGCONT);
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&orders);
}

#[tokio::test]
async fn a_status_never_goes_back_while_postgres_hangs() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    let claimed = sale.claim_with("coffee", "alice", &[("prefer", "wait=10")]).await;
    assert_eq!((claimed.status, &claimed.body["status"]), (201, &"confirmed".into()), "{}", claimed.text);
    let path = format!("/v1/coupons/coffee/claims/{}", claimed.body["order"].as_str().unwrap());
    let pids = sale.postgres_pids();
    signal_all(&pids, Signal::SIGSTOP);
    let unknown = sale.get_as(&sale.token("alice"), &path).await;
    signal_all(&pids, Signal::SIGCONT);
    unknown.assert_problem(503, "unavailable");
    let known = sale.get_as(&sale.token("alice"), &path).await;
    assert_eq!((known.status, &known.body["status"]), (200, &"confirmed".into()), "{}", known.text);
}
