//! Confirms and cancels while the stores fail or the agreement changes: after a 503 the client may send the request
//! again, and no transition is made twice.

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use support::proxy::{EVALSHA, Proxy, TrapAction};
use support::{Answer, Process, Sale, signal, until};

use super::{ask, assert_order, create_reserving, order_of};

const CONFIRM: &str = "Confirms reserved orders in time";
/// Identifies the script that records a WAL position: no other script gets these two keys in a row.
const POSITION: [&str; 2] = [EVALSHA, "seckill:{0}:epoch\r\n$24\r\nseckill:{0}:postgres_lsn"];
/// The bound parameter of the statement that ends orders, with its length.
const CANCEL: &str = "\0\0\0\u{9}cancelled";

/// A sale whose clients use a second server, with a proxy between that server and Postgres.
async fn sale_behind_a_proxy() -> (Sale, Proxy, Process) {
    let mut sale = Sale::start().await;
    create_reserving(&sale, 10).await;
    let proxy = Proxy::before(&sale.postgres_socket());
    let replica = sale.spawn_by_address("serve", &[&proxy], &[("SECKILL_WORKERS", "0")]);
    sale.url = replica.url_when_up().await;
    (sale, proxy, replica)
}

/// Sends the request again until it is not answered 503.
async fn ask_until_done(sale: &Sale, user: &str, order: &str, transition: &str) -> Answer {
    until("the request is answered", async || {
        let answer = ask(sale, user, order, transition).await;
        assert!([200, 503].contains(&answer.status), "{}", answer.text);
        (answer.status == 200).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn a_transition_whose_connection_breaks_at_its_commit_is_made_once() {
    let (sale, proxy, _replica) = sale_behind_a_proxy().await;
    for (number, action) in [TrapAction::Cut, TrapAction::CutReply].into_iter().enumerate() {
        for (transition, statement, status) in
            [("confirm", CONFIRM, "confirmed"), ("cancel", CANCEL, "cancelled")]
        {
            let user = format!("{transition}-{number}");
            let order = order_of(&sale, &user).await;
            let trap = proxy.set_trap(action, &["COMMIT", statement]);
            let answer = ask_until_done(&sale, &user, &order, transition).await;
            trap.until_done().await;
            assert_order(&answer, &order, status);
        }
    }
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 8, "two orders are confirmed, two are cancelled");
}

#[tokio::test]
async fn a_transition_whose_order_is_recorded_in_the_middle_of_its_transaction_is_made() {
    let (sale, proxy, _replica) = sale_behind_a_proxy().await;
    for (transition, statement, status) in
        [("confirm", CONFIRM, "confirmed"), ("cancel", CANCEL, "cancelled")]
    {
        let lock = sale.lock_coupon("coffee").await;
        let claim = sale.claim("coffee", transition).await;
        let order = claim.body["order"].as_str().unwrap().to_owned();
        sale.until_a_worker_waits().await;
        // The statement has found no row, and the rows are not read yet.
        let trap = proxy.hold(&["from orders where id = any($1)", statement]);
        let record = async {
            trap.until_taken().await;
            lock.release();
            sale.until_quiet().await;
            trap.release();
        };
        let (answer, ()) = tokio::join!(ask(&sale, transition, &order, transition), record);
        assert_order(&answer, &order, status);
    }
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn postgres_killed_in_the_middle_of_a_confirm_leaves_it_done_or_not_and_a_repeat_does_it() {
    let (sale, proxy, _replica) = sale_behind_a_proxy().await;
    for action in [TrapAction::Hold, TrapAction::CutReply] {
        let user = format!("{action:?}");
        let order = order_of(&sale, &user).await;
        sale.until_quiet().await;
        let postmaster = sale.postgres_pids()[0];
        let trap = proxy.set_trap(action, &["COMMIT", CONFIRM]);
        let asked = ask(&sale, &user, &order, "confirm");
        let kill = async {
            match action {
                TrapAction::Hold => trap.until_taken().await,
                _ => trap.until_done().await,
            }
            signal(postmaster, Signal::SIGKILL);
            trap.discard();
        };
        let (answer, ()) = tokio::join!(asked, kill);
        assert!([200, 503].contains(&answer.status), "{}", answer.text);
        assert_order(&ask_until_done(&sale, &user, &order, "confirm").await, &order, "confirmed");
    }
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_confirm_of_an_older_epoch_writes_nothing_and_its_repeat_is_done() {
    let (sale, proxy, _replica) = sale_behind_a_proxy().await;
    let order = order_of(&sale, "alice").await;
    sale.until_quiet().await;
    let epoch = sale.epoch();
    // The transaction has begun in the old epoch and has not taken the fence's lock.
    let trap = proxy.hold(&["BEGIN"]);
    let asked = ask(&sale, "alice", &order, "confirm");
    let change_of_epoch = async {
        trap.until_taken().await;
        sale.redis_cli_without_program(&["FLUSHALL"]);
        until("a new epoch is in force", async || (sale.epoch() != epoch).then_some(())).await;
        trap.release();
    };
    let (answer, ()) = tokio::join!(asked, change_of_epoch);
    answer.assert_problem(503, "unavailable");
    assert_eq!(sale.psql("select status from orders"), "reserved");
    assert_order(&ask_until_done(&sale, "alice", &order, "confirm").await, &order, "confirmed");
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn without_postgres_or_the_agreement_a_confirm_is_refused_in_time_and_done_afterwards() {
    let (sale, proxy, _replica) = sale_behind_a_proxy().await;
    let order = order_of(&sale, "alice").await;
    proxy.refuse();
    ask(&sale, "alice", &order, "confirm").await.assert_problem(503, "unavailable");
    proxy.accept_again();
    assert_order(&ask_until_done(&sale, "alice", &order, "confirm").await, &order, "confirmed");

    let order = order_of(&sale, "bob").await;
    sale.until_quiet().await;
    let redis = sale.redis_pid();
    signal(redis, Signal::SIGSTOP);
    until("the fence is down", async || (sale.get("/readyz").await.status == 503).then_some(())).await;
    ask(&sale, "bob", &order, "confirm").await.assert_problem(503, "unavailable");
    signal(redis, Signal::SIGCONT);
    assert_eq!(sale.psql("select count(*) from orders where status = 'reserved'"), "1");
    assert_order(&ask_until_done(&sale, "bob", &order, "confirm").await, &order, "confirmed");
}

#[tokio::test]
async fn a_confirm_and_its_repeat_are_answered_only_after_their_position_is_in_redis() {
    let mut sale = Sale::start().await;
    create_reserving(&sale, 10).await;
    let redis = Proxy::before(&sale.redis_socket());
    let replica = sale.spawn_by_address("serve", &[&redis], &[("SECKILL_WORKERS", "0")]);
    sale.url = replica.url_when_up().await;
    let order = order_of(&sale, "alice").await;
    sale.until_quiet().await;
    for _ in 0..2 {
        let trap = redis.cut(&POSITION);
        ask(&sale, "alice", &order, "confirm").await.assert_problem(503, "unavailable");
        trap.until_done().await;
        assert_eq!(sale.psql("select status from orders"), "confirmed");
        sale.until_ready().await;
    }
    let before = sale.psql("select durable_lsn()");
    assert_order(&ask_until_done(&sale, "alice", &order, "confirm").await, &order, "confirmed");
    assert!(sale.redis_cli(&["GET", "seckill:{0}:postgres_lsn"]) >= before, "the position is in Redis");
}

#[tokio::test]
async fn an_order_is_not_confirmed_or_cancelled_in_an_older_copy_on_a_connection_that_was_good() {
    let (sale, proxy, _replica) = sale_behind_a_proxy().await;
    let first = order_of(&sale, "alice").await;
    assert_order(&ask(&sale, "alice", &first, "confirm").await, &first, "confirmed");
    let order = order_of(&sale, "bob").await;
    sale.until_quiet().await;
    // The fence compares the positions by itself, but not before its next probe.
    let probe = proxy.hold(&["durable_lsn() as lsn"]);
    probe.until_taken().await;
    sale.redis_cli(&["SET", "seckill:{0}:postgres_lsn", "FFFFFFFF/FFFFFFFF"]);
    for transition in ["confirm", "cancel"] {
        ask(&sale, "bob", &order, transition).await.assert_problem(503, "unavailable");
    }
    assert_eq!(sale.psql(&format!("select status from orders where id = '{order}'")), "reserved");
    drop(probe);
}

#[tokio::test]
async fn a_confirm_is_made_although_its_client_has_gone() {
    let (sale, proxy, _replica) = sale_behind_a_proxy().await;
    let order = order_of(&sale, "alice").await;
    let trap = proxy.hold(&["COMMIT", CONFIRM]);
    {
        let asked = ask(&sale, "alice", &order, "confirm");
        tokio::select! {
            answer = asked => panic!("answered before its commit: {}", answer.text),
            () = trap.until_taken() => {}
        }
    }
    trap.release();
    until("the order is confirmed", async || {
        (sale.psql("select status from orders") == "confirmed").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_order_whose_row_postgres_refuses_fails_alone() {
    let sale = Sale::start().await;
    create_reserving(&sale, 20).await;
    let tea = json!({"id": "tea", "total": 1, "reserve_seconds": 900});
    assert_eq!(sale.admin(Method::POST, "/v1/admin/coupons", Some(tea)).await.status, 201);
    let mut orders = Vec::new();
    for number in 0..12 {
        let user = format!("user-{number}");
        let order = order_of(&sale, &user).await;
        orders.push((user, order));
    }
    let tea = sale.claim_with("tea", "alice", &[("prefer", "wait=10")]).await.body["order"].clone();
    let tea = tea.as_str().unwrap().to_owned();
    // Not the first order: its cancel has a transaction of its own, while the other cancels wait for the next one.
    orders.insert(6, ("alice".to_owned(), tea.clone()));
    // After this edit by hand the returned unit would raise the stock above the total.
    sale.psql("update coupons set stock = total where id = 'tea'");
    let answers = join_all(orders.iter().map(|(user, order)| ask(&sale, user, order, "cancel"))).await;
    for (answer, (_, order)) in answers.iter().zip(&orders) {
        if *order == tea {
            answer.assert_problem(500, "internal");
        } else {
            assert_order(answer, order, "cancelled");
        }
    }
    assert_eq!(sale.psql("select status from orders where coupon_id = 'tea'"), "reserved");
}
