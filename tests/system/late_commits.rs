//! Workers that stop between insert and commit, or hold entries while Postgres is away: an event ends in
//! one way, as an order or with its unit returned, and being tried often is no reason to end it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::proxy::{Proxy, Trap};
use support::{Process, Sale, signal_all, until};

const CLAIMS: &str = "seckill:{0}:claims:coffee";
const ORDERS: &str = "seckill:{0}:orders";
const RECLAIM_AFTER: (&str, &str) = ("SECKILL_RECLAIM_AFTER", "200ms");
/// Ten times that.
const AWAY: Duration = Duration::from_secs(2);
/// The first who inserts an order may; whoever tries again is refused for good, and gives the event up.
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

/// A sale of one unit. One worker has inserted the order of its claim and stands before its commit; the
/// other gives the same event up, and waits for the first one's transaction.
struct Scene {
    sale: Sale,
    first: Process,
    heir: Process,
    commit: Trap,
    order: String,
}

impl Scene {
    async fn start() -> Self {
        let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
        sale.create("coffee", 1).await;
        sale.psql(REFUSE_AGAIN);
        let [of_first, of_heir] = [(); 2].map(|()| Proxy::before(&sale.postgres_socket()));
        // It reclaims nothing itself while it is held.
        let never = [("SECKILL_WORKERS", "1"), ("SECKILL_RECLAIM_AFTER", "1h")];
        let first = sale.spawn_by_address("worker", &[&of_first], &never);
        first.until_it_says("fence up").await;
        let begin = of_first.hold(&["BEGIN"]);
        let answer = sale.claim("coffee", "alice").await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        let order = answer.body["order"].as_str().unwrap().to_owned();
        begin.until_taken().await;
        let begin_of_heir = of_heir.hold(&["BEGIN"]);
        let heir = sale.spawn_by_address("worker", &[&of_heir], &[("SECKILL_WORKERS", "1"), RECLAIM_AFTER]);
        begin_of_heir.until_taken().await;

        let commit = of_first.hold(&["COMMIT", "Inserts order events as orders"]);
        begin.release();
        commit.until_taken().await;
        begin_of_heir.release();
        Self { sale, first, heir, commit, order }
    }
}

/// The event has ended in one way: `rejected` with its unit back, or as an order that holds it.
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
async fn an_event_given_up_while_its_first_worker_was_stopped_is_no_order_when_that_goes_on() {
    let scene = Scene::start().await;
    scene.first.signal(Signal::SIGSTOP);
    // Postgres ends the transaction that stands still, and the other one goes on.
    assert_eq!(assert_one_end(&scene.sale, &scene.order).await, "rejected");
    scene.first.signal(Signal::SIGCONT);
    scene.commit.release();
    assert!(scene.heir.stop().success());

    // The first one has found its commit refused, and records whatever comes.
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
async fn an_event_given_up_just_before_its_first_worker_commits_has_one_end() {
    let Scene { sale, first, heir, commit, order } = Scene::start().await;
    sale.until_a_worker_waits().await;
    // In time, or just after Postgres has ended the transaction: either of them wins, but one.
    commit.release();
    assert_one_end(&sale, &order).await;
    assert!(first.stop().success() && heir.stop().success());
    assert_one_end(&sale, &order).await;
}

/// How workers lose Postgres.
#[derive(Clone, Copy, Debug)]
enum Away {
    Hanging,
    Refusing,
}

/// Deliveries of the oldest pending entry, and how many entries are pending.
fn deliveries(sale: &Sale) -> (u64, usize) {
    let pending = sale.redis_cli_alone(&["XPENDING", ORDERS, "order-writers", "-", "+", "1000"]);
    let lines: Vec<&str> = pending.lines().collect();
    // Each entry: id, consumer, idle ms, deliveries.
    (lines.get(3).map_or(0, |count| count.parse().unwrap()), lines.len() / 4)
}

/// Kills the workers one by one, each after entries were taken over once more, while Postgres is away.
async fn workers_die_without_postgres(away: Away) {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 1_000).await;
    let proxy = Proxy::before(&sale.postgres_socket());
    let spawn = || sale.spawn_by_address("worker", &[&proxy], &[("SECKILL_WORKERS", "1"), RECLAIM_AFTER]);
    let mut workers: Vec<Process> = (0..5).map(|_| spawn()).collect();
    for worker in &workers {
        worker.until_it_says("fence up").await;
    }
    let postgres = sale.postgres_pids();
    let start = Instant::now();
    match away {
        Away::Hanging => signal_all(&postgres, Signal::SIGSTOP),
        Away::Refusing => proxy.refuse(),
    }
    let (mut orders, mut before) = (Vec::new(), 0);
    while workers.len() > 1 || start.elapsed() < AWAY {
        for _ in 0..5 {
            let answer = sale.claim("coffee", &format!("user-{}", orders.len())).await;
            assert_eq!(answer.status, 202, "{}", answer.text);
            orders.push(answer.body["order"].as_str().unwrap().to_owned());
        }
        let claimed = orders.len();
        before = until("entries are taken over once more", async || {
            let (now, pending) = deliveries(&sale);
            (pending == claimed && now > before).then_some(now)
        })
        .await;
        if workers.len() > 1 {
            workers.remove(0).kill_9();
        }
    }
    assert!(before > 4, "delivered {before} times");
    match away {
        Away::Hanging => signal_all(&postgres, Signal::SIGCONT),
        Away::Refusing => proxy.refuse_no_more(),
    }
    // The last worker is the one that has been there all the time.
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&orders);
    assert_eq!(sale.psql_number("select count(*) from dead_letters"), 0);
}

#[tokio::test]
async fn workers_killed_while_postgres_hangs_make_no_dead_letter() {
    workers_die_without_postgres(Away::Hanging).await;
}

#[tokio::test]
async fn workers_killed_while_postgres_refuses_connections_make_no_dead_letter() {
    workers_die_without_postgres(Away::Refusing).await;
}
