//! Three partitions on a Redis Cluster of three masters with a replica each: a master is killed, stopped and woken, and a
//! slot moves to another master. Only the partition on it is refused, and nothing that was told is lost.

use std::collections::BTreeSet;
use std::time::Instant;

use nix::sys::signal::Signal;
use support::redis_group::{RedisCluster, connections, redis_cli};
use support::until;

use crate::failover::Scene;

fn stream(partition: i64) -> String {
    format!("seckill:{{{partition}}}:orders")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_stops_only_its_partition_and_no_recorded_order_is_lost() {
    let mut cluster = RedisCluster::start().await;
    let scene = Scene::start(&cluster.url(), 3).await;
    let masters = |cluster: &RedisCluster, dead: u16| -> Vec<u16> {
        let of = |partition: &i64| cluster.master_of(&stream(*partition), dead).unwrap();
        scene.partitions().iter().map(of).collect()
    };
    let before = masters(&cluster, 0);
    assert!(before[0] != before[1] && before[1] != before[2] && before[0] != before[2], "{before:?}");
    let load = scene.sell();
    let warm_up = Instant::now();
    for partition in scene.partitions() {
        load.until_accepted(partition, 20, warm_up).await;
    }
    let started = Instant::now();
    for partition in scene.partitions() {
        load.until_accepted(partition, 80, started).await;
    }
    let [failing, others @ ..] = scene.partitions().try_into().unwrap_or([0; 3]);
    let (epochs, told) = (scene.epochs(), load.told());
    let mut kept = scene.live_orders();
    kept.retain(|order| told.contains(order));
    assert!(kept.len() > 100, "orders are recorded: {}", kept.len());

    let killed = Instant::now();
    cluster.kill_9(before[0]);
    load.until_refused(failing, killed).await;
    load.until_accepted(failing, 1, Instant::now()).await;
    let again = Instant::now();
    for partition in others {
        assert_eq!(load.refused(partition, killed), 0, "partition {partition}");
        let (rate, during) = (load.rate(partition, started, killed), load.rate(partition, killed, again));
        println!(
            "partition {partition}: {rate:.1} accepted claims a second, {during:.1} during the failover"
        );
        assert!(during >= 0.8 * rate, "partition {partition}: {during} claims a second, before {rate}");
    }
    load.until_accepted(failing, 40, again).await;
    let after = masters(&cluster, before[0]);
    assert!(after[0] != before[0] && after[1..] == before[1..], "{before:?} {after:?}");
    let now = scene.epochs();
    let is_rebuilt = |partition: &i64| now[partition] != epochs[partition];
    assert!(is_rebuilt(&failing) && !others.iter().any(is_rebuilt), "{epochs:?} {now:?}");

    let late: Vec<String> = load.stop().await.difference(&told).cloned().collect();
    // What a master told and neither its replica nor Postgres had is lost with it.
    let live = scene.live_orders();
    let lost = late.iter().filter(|order| !live.contains(*order)).count();
    println!("{} told after the kill or shortly before, {lost} of them not recorded yet or lost", late.len());
    scene.assert_ledger(&kept, |partition| cluster.master_of(&stream(partition), before[0]).unwrap()).await;
    for order in kept.iter().take(3) {
        scene.confirm(order).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_master_that_wakes_up_takes_nothing_that_is_told() {
    let cluster = RedisCluster::start().await;
    let scene = Scene::start(&cluster.url(), 3).await;
    let failing = scene.partitions()[1];
    let master = cluster.master_of(&stream(failing), 0).unwrap();
    let (load, started) = (scene.sell(), Instant::now());
    load.until_accepted(failing, 40, started).await;
    cluster.signal(master, Signal::SIGSTOP);
    let stopped = Instant::now();
    load.until_refused(failing, stopped).await;
    load.until_accepted(failing, 1, Instant::now()).await;
    cluster.signal(master, Signal::SIGCONT);
    let woken = Instant::now();
    load.until_accepted(failing, 80, woken).await;
    until("the woken master is a replica", async || {
        redis_cli(master, &["ROLE"]).is_ok_and(|role| role.starts_with("slave")).then_some(())
    })
    .await;
    let told = load.stop().await;
    scene.assert_ledger(&told, |partition| cluster.master_of(&stream(partition), master).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_is_refused_until_the_partition_is_rebuilt_on_the_new_node() {
    let cluster = RedisCluster::start().await;
    let scene = Scene::start(&cluster.url(), 3).await;
    let [stays, moves, _] = scene.partitions().try_into().unwrap_or([0; 3]);
    let target = cluster.master_of(&stream(stays), 0).unwrap();
    let (load, started) = (scene.sell(), Instant::now());
    load.until_accepted(moves, 40, started).await;
    let epochs = scene.epochs();

    let slot_move = cluster.begin_move(&stream(moves), target);
    let refused = scene.sale.claim(scene.untouched(moves), "early").await;
    refused.assert_problem(503, "unavailable");
    assert!(refused.text.contains("TRYAGAIN"), "{}", refused.text);
    // The move is given up: the same session sells on.
    slot_move.give_up();
    load.until_accepted(moves, 20, Instant::now()).await;
    assert_eq!(scene.epochs(), epochs);
    assert!(!scene.sale.log().contains("fence down: Redis"), "{}", scene.sale.log());

    let second = Instant::now();
    let slot_move = cluster.begin_move(&stream(moves), target);
    cluster.move_keys(&slot_move).await;
    load.until_refused(moves, second).await;
    cluster.end_move(&slot_move);
    load.until_accepted(moves, 40, Instant::now()).await;
    let now = scene.epochs();
    let rebuilt: Vec<&i64> = now.keys().filter(|partition| now[partition] != epochs[partition]).collect();
    assert_eq!(rebuilt, [&moves], "{epochs:?} {now:?}");
    assert_eq!(load.refused(stays, started), 0, "the partition on the target");
    let told = load.stop().await;
    assert_eq!(cluster.master_of(&stream(moves), 0), Some(target));
    for port in cluster.masters(target) {
        // All partitions together hold fewer; the searches for the master, ten a second, leave none behind.
        until("searches have closed their connections", async || (connections(port) < 50).then_some(()))
            .await;
    }
    let (level, what) = scene.doctor("redis-partitions");
    assert!(
        level == "green" && what.contains(&format!("partitions {stays}, {moves} on 127.0.0.1:{target}")),
        "{what}"
    );
    assert_eq!(scene.doctor("redis-coverage").0, "green");
    assert_eq!(scene.doctor("redis-replicas").0, "green");
    let (level, what) = scene.doctor("redis-failover");
    assert!(level == "red" && what.contains("cluster-node-timeout 2000"), "{what}");
    scene.assert_ledger(&told, |partition| cluster.master_of(&stream(partition), 0).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_reaches_a_minority_of_the_masters_stays_down_and_rebuilds_nothing() {
    let cluster = RedisCluster::start().await;
    let scene = Scene::start(&cluster.url(), 3).await;
    let (load, started) = (scene.sell(), Instant::now());
    for partition in scene.partitions() {
        load.until_accepted(partition, 20, started).await;
    }
    let told = load.stop().await;
    until("the orders are recorded", async || (scene.live_orders() == told).then_some(())).await;
    let epochs = scene.epochs();
    let masters: Vec<u16> =
        scene.partitions().iter().map(|p| cluster.master_of(&stream(*p), 0).unwrap()).collect();
    for port in &masters[1..] {
        cluster.signal(*port, Signal::SIGSTOP);
    }
    // It reaches the master of the first partition, which is up and names itself.
    let mut other = scene.sale.spawn("serve", &[("SECKILL_WORKERS", "0")]);
    let only = format!("1 of 3 name 127.0.0.1:{}", masters[0]);
    other.until_logged(&only).await;
    // Later searches, which the log does not repeat, find no more.
    let searches = connections_received(masters[0]);
    until("it searches again", async || (connections_received(masters[0]) > searches + 10).then_some(()))
        .await;
    assert!(other.is_running() && !other.log().contains("fence up"), "{}", other.log());
    assert_eq!(scene.epochs(), epochs, "nothing is rebuilt");
    for port in &masters[1..] {
        cluster.signal(*port, Signal::SIGCONT);
    }
    other.until_logged("fence up").await;
    let (load, again) = (scene.sell(), Instant::now());
    for partition in scene.partitions() {
        load.until_accepted(partition, 20, again).await;
    }
    let told: BTreeSet<String> = load.stop().await.union(&told).cloned().collect();
    scene.assert_ledger(&told, |partition| cluster.master_of(&stream(partition), 0).unwrap()).await;
}

fn connections_received(port: u16) -> u64 {
    let info = redis_cli(port, &["INFO", "stats"]).unwrap();
    let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    count.unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_full_coverage_a_failed_master_stops_every_partition_and_only_its_own_is_rebuilt() {
    let mut cluster = RedisCluster::start_with(&["--cluster-require-full-coverage", "yes"]).await;
    let scene = Scene::start(&cluster.url(), 3).await;
    let [failing, others @ ..] = scene.partitions().try_into().unwrap_or([0; 3]);
    let (level, what) = scene.doctor("redis-coverage");
    assert!(level == "yellow" && what.contains("cluster-require-full-coverage yes"), "{what}");
    let (load, started) = (scene.sell(), Instant::now());
    for partition in scene.partitions() {
        load.until_accepted(partition, 40, started).await;
    }
    let (epochs, told) = (scene.epochs(), load.told());
    let mut kept = scene.live_orders();
    kept.retain(|order| told.contains(order));
    let master = cluster.master_of(&stream(failing), 0).unwrap();
    let killed = Instant::now();
    cluster.kill_9(master);
    for partition in scene.partitions() {
        load.until_refused(partition, killed).await;
    }
    let refused = Instant::now();
    for partition in scene.partitions() {
        load.until_accepted(partition, 20, refused).await;
    }
    let late: BTreeSet<String> = load.stop().await.difference(&told).cloned().collect();
    let now = scene.epochs();
    assert_ne!(now[&failing], epochs[&failing], "another server means a rebuild");
    for partition in others {
        assert_eq!(now[&partition], epochs[&partition], "partition {partition} has its server still");
    }
    assert!(!late.is_empty());
    scene.assert_ledger(&kept, |partition| cluster.master_of(&stream(partition), master).unwrap()).await;
}
