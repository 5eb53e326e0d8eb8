//! A master with a replica and three Sentinels: the master is killed, or stopped and woken. Only a majority of the
//! Sentinels names the master.

use std::time::Instant;

use nix::sys::signal::Signal;
use support::redis_group::{SentinelGroup, redis_cli};
use support::until;

use crate::failover::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn after_the_death_of_the_master_the_sale_goes_on_at_the_promoted_replica() {
    let mut group = SentinelGroup::start().await;
    let scene = Scene::start(&group.url(), 1).await;
    let master = group.master().unwrap();
    let (load, started) = (scene.sell(), Instant::now());
    load.until_accepted(0, 80, started).await;
    let (epochs, told) = (scene.epochs(), load.told());
    let mut kept = scene.live_orders();
    kept.retain(|order| told.contains(order));
    assert!(!kept.is_empty(), "orders are recorded");
    group.kill_9(master);
    load.until_refused(0, started).await;
    load.until_accepted(0, 40, Instant::now()).await;
    load.stop().await;
    assert_ne!(scene.epochs(), epochs, "another server means a rebuild");
    assert_ne!(group.master().unwrap(), master);
    scene.assert_ledger(&kept, |_| group.master().unwrap()).await;
    scene.confirm(kept.first().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_master_that_wakes_up_takes_nothing_that_is_told() {
    let group = SentinelGroup::start().await;
    let scene = Scene::start(&group.url(), 1).await;
    let master = group.master().unwrap();
    let (load, started) = (scene.sell(), Instant::now());
    load.until_accepted(0, 40, started).await;
    group.signal(master, Signal::SIGSTOP);
    load.until_refused(0, started).await;
    load.until_accepted(0, 1, Instant::now()).await;
    // It still takes writes until a Sentinel makes it a replica, ten seconds later.
    group.signal(master, Signal::SIGCONT);
    load.until_accepted(0, 80, Instant::now()).await;
    until("the woken master is a replica", async || {
        redis_cli(master, &["ROLE"]).is_ok_and(|role| role.starts_with("slave")).then_some(())
    })
    .await;
    let told = load.stop().await;
    scene.assert_ledger(&told, |_| group.master().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_sentinels_is_not_believed() {
    let group = SentinelGroup::start().await;
    let scene = Scene::start(&group.url(), 1).await;
    assert_eq!(scene.doctor("redis-sentinels"), ("green".into(), "3 Sentinels watch the master".into()));
    assert_eq!(scene.doctor("redis-failover").0, "red", "two seconds");
    group.signal_sentinels_but(1, Signal::SIGSTOP);
    let mut other = scene.sale.spawn("serve", &[]);
    other.until_logged("1 of 3 name 127.0.0.1:").await;
    assert!(other.is_running() && !other.log().contains("fence up"), "{}", other.log());
    group.signal_sentinels_but(1, Signal::SIGCONT);
    other.until_logged("fence up").await;
    assert_eq!(scene.sale.get("/readyz").await.status, 200, "the session of the first process stays");
}
