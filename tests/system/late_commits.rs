//! Workers that stop between insert and commit, or have pending entries during a Postgres outage: each event ends
//! exactly once, as an order or with its unit returned, and many deliveries alone do not end an event.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::proxy::{Proxy, Trap};
use support::{Process, Sale, signal_all, until};

const CLAIMS: &str = "seckill:{0}:claims:coffee";
const ORDERS: &str = "seckill:{0}:orders";
const RECLAIM_AFTER: (&str, &str) = ("SECKILL_RECLAIM_AFTER", "200ms");
/// Length of the Postgres outage: ten times the reclaim time.
const OUTAGE: Duration = Duration::from_secs(2);
/// Accepts the first insert of an order and permanently refuses later ones, so that their worker rejects the event.
const REFUSE_AGAIN: &str = "
    create sequence tries;
    create function refuse_again() returns trigger language plpgsql as $$
    begin
        if new.status <> 'rejected' and nextval('tries') > 1 then
            raise exception 'tried before' using errcode = '23514';
        end if;
        return new;
    end $$;
    create trigger refuse_again before insert on orders for each row execute function refuse_again()";

/// A sale of one unit. The first worker has inserted the order of its claim and is held before its commit. The second
/// worker rejects the same event and waits for the first one's transaction.
struct Scene {
    sale: Sale,
    first: Process,
    second_worker: Process,
    commit: Trap,
    order: String,
}

impl Scene {
    async fn start() -> Self {
        let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
        sale.create("coffee", 1).await;
        sale.psql(REFUSE_AGAIN);
        let [of_first, of_second] = [(); 2].map(|()| Proxy::before(&sale.postgres_socket()));
        // This worker reclaims nothing while it is held.
        let never = [("SECKILL_WORKERS", "1"), ("SECKILL_RECLAIM_AFTER", "1h")];
        let first = sale.spawn_by_address("worker", &[&of_first], &never);
        first.until_logged("fence up").await;
        let begin = of_first.hold(&["BEGIN"]);
        let answer = sale.claim("coffee", "alice").await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        let order = answer.body["order"].as_str().unwrap().to_owned();
        begin.until_taken().await;
        let begin_of_second = of_second.hold(&["BEGIN"]);
        let second_worker =
            sale.spawn_by_address("worker", &[&of_second], &[("SECKILL_WORKERS", "1"), RECLAIM_AFTER]);
        begin_of_second.until_taken().await;

        let commit = of_first.hold(&["COMMIT", "Inserts order events as orders"]);
        begin.release();
        commit.until_taken().await;
        begin_of_second.release();
        Self { sale, first, second_worker, commit, order }
    }
}

/// Waits until the event has ended, and checks that it ended in one way: `rejected` with its unit returned, or as an
/// order.
async fn assert_one_end(sale: &Sale, order: &str) -> String {
    let status = until("the event has ended", async || {
        let status = sale.psql("select status from orders");
        (!status.is_empty()).then_some(status)
    })
    .await;
    sale.assert_in_agreement("coffee").await;
    let ended = sale.psql("select id, (select count(*) from dead_letters) from orders");
    let (letters, holder) = if status == "rejected" { (1, "") } else { (0, order) };
    assert_eq!(ended, format!("{order}|{letters}"), "order, dead letters");
    assert_eq!(sale.redis_cli(&["HGET", CLAIMS, "alice"]), holder);
    status
}

#[tokio::test]
async fn an_event_rejected_while_its_first_worker_was_stopped_becomes_no_order_when_that_worker_continues() {
    let scene = Scene::start().await;
    scene.first.signal(Signal::SIGSTOP);
    // Postgres ends the idle transaction, and the second worker continues.
    assert_eq!(assert_one_end(&scene.sale, &scene.order).await, "rejected");
    scene.first.signal(Signal::SIGCONT);
    scene.commit.release();
    assert!(scene.second_worker.stop().success());

    // The first worker's commit was refused. It still records later events.
    let sale = scene.sale;
    sale.psql("drop trigger refuse_again on orders");
    let answer = sale.claim_with("coffee", "alice", &[("prefer", "wait=10")]).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    sale.assert_in_agreement("coffee").await;
    let orders = sale.psql("select id, status from orders order by id");
    let second = answer.body["order"].as_str().unwrap();
    assert_eq!(orders, format!("{}|rejected\n{second}|confirmed", scene.order));
    assert!(scene.first.stop().success());
}

#[tokio::test]
async fn an_event_rejected_just_before_its_first_worker_commits_ends_in_one_way() {
    let Scene { sale, first, second_worker, commit, order } = Scene::start().await;
    sale.until_a_worker_waits().await;
    // The commit arrives in time, or just after Postgres has ended the transaction. In both cases the event ends once.
    commit.release();
    assert_one_end(&sale, &order).await;
    assert!(first.stop().success() && second_worker.stop().success());
    assert_one_end(&sale, &order).await;
}

/// How Postgres fails for the workers.
#[derive(Clone, Copy, Debug)]
enum Outage {
    Hanging,
    Refusing,
}

/// Deliveries of the oldest pending entry, and how many entries are pending.
fn deliveries(sale: &Sale) -> (u64, usize) {
    let pending = sale.redis_cli_without_program(&["XPENDING", ORDERS, "order-writers", "-", "+", "1000"]);
    let lines: Vec<&str> = pending.lines().collect();
    // An entry has four lines: id, consumer, idle ms, deliveries.
    (lines.get(3).map_or(0, |count| count.parse().unwrap()), lines.len() / 4)
}

/// Kills the workers one by one during an outage, each after entries were reclaimed once more.
async fn workers_die_without_postgres(outage: Outage) {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 1_000).await;
    let proxy = Proxy::before(&sale.postgres_socket());
    let spawn = || sale.spawn_by_address("worker", &[&proxy], &[("SECKILL_WORKERS", "1"), RECLAIM_AFTER]);
    let mut workers: Vec<Process> = (0..5).map(|_| spawn()).collect();
    for worker in &workers {
        worker.until_logged("fence up").await;
    }
    let postgres = sale.postgres_pids();
    let start = Instant::now();
    match outage {
        Outage::Hanging => signal_all(&postgres, Signal::SIGSTOP),
        Outage::Refusing => proxy.refuse(),
    }
    let (mut orders, mut before) = (Vec::new(), 0);
    while workers.len() > 1 || start.elapsed() < OUTAGE {
        for _ in 0..5 {
            let answer = sale.claim("coffee", &format!("user-{}", orders.len())).await;
            assert_eq!(answer.status, 202, "{}", answer.text);
            orders.push(answer.body["order"].as_str().unwrap().to_owned());
        }
        let claimed = orders.len();
        before = until("entries are reclaimed once more", async || {
            let (now, pending) = deliveries(&sale);
            (pending == claimed && now > before).then_some(now)
        })
        .await;
        if workers.len() > 1 {
            workers.remove(0).kill_9();
        }
    }
    assert!(before > 4, "delivered {before} times");
    match outage {
        Outage::Hanging => signal_all(&postgres, Signal::SIGCONT),
        Outage::Refusing => proxy.accept_again(),
    }
    // The last worker was never killed.
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&orders);
    assert_eq!(sale.psql_number("select count(*) from dead_letters"), 0);
}

#[tokio::test]
async fn workers_killed_while_postgres_hangs_make_no_dead_letter() {
    workers_die_without_postgres(Outage::Hanging).await;
}

#[tokio::test]
async fn workers_killed_while_postgres_refuses_connections_make_no_dead_letter() {
    workers_die_without_postgres(Outage::Refusing).await;
}
