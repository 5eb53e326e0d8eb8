//! Groups of Redis servers with passwords: a cluster whose program has a user of its own, and Sentinels whose password is
//! another one than that of the servers. The search for the master, claims, workers, the tools and a failover need them.

use std::time::Instant;

use support::redis_group::{Passwords, RedisCluster, SentinelGroup, redis_cli_as};

use crate::failover::Scene;

const ADMIN: &str = "of-the-admin";

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_sells_to_a_program_with_a_user_of_its_own() {
    let user = [
        "--user",
        "shop",
        "on",
        ">of-the-shop",
        "~seckill:*",
        "&*",
        "+@all",
        "-@admin",
        "+cluster|slots",
        "+cluster|myid",
    ];
    let password = ["--requirepass", ADMIN, "--masterauth", ADMIN];
    let cluster = RedisCluster::start_with(&[password.as_slice(), &user].concat()).await;
    let scene = Scene::start(&cluster.url_as("shop:of-the-shop@"), 3).await;
    let (load, started) = (scene.sell(), Instant::now());
    for partition in scene.partitions() {
        load.until_accepted(partition, 20, started).await;
        let master = cluster.master_of(&format!("{{{partition}}}"), 0).unwrap();
        let clients = redis_cli_as(ADMIN, master, &["CLIENT", "LIST"]).unwrap();
        assert!(clients.contains(" user=shop "), "{clients}");
    }
    load.stop().await;
    for partition in scene.partitions() {
        scene.sale.assert_in_agreement(scene.bought(partition)).await;
    }
    // With a wrong password nothing starts.
    let wrong = cluster.url_as("shop:wrong@");
    let other = scene.sale.spawn("serve", &[("REDIS_URL", &wrong)]);
    other.until_logged("WRONGPASS").await;
    assert!(!other.log().contains("fence up"), "{}", other.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_with_a_password_of_their_own_name_the_master_before_and_after_a_failover() {
    let passwords = Passwords { servers: "of-the-servers", sentinels: "of-the-sentinels" };
    let mut group = SentinelGroup::start_with(passwords).await;
    let scene = Scene::start(&group.url(), 1).await;
    let master = group.master().unwrap();
    let (load, started) = (scene.sell(), Instant::now());
    load.until_accepted(0, 20, started).await;
    group.kill_9(master);
    load.until_refused(0, started).await;
    load.until_accepted(0, 20, Instant::now()).await;
    load.stop().await;
    assert_ne!(group.master().unwrap(), master);
    assert_eq!(scene.doctor("redis-sentinels").0, "green");
}
