//! Starting and stopping both stores: their settings and rights, one start at a time, kills during the first start.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::unistd::Uid;
use seckill::config::StoreAddresses;
use seckill::data_dir::DataDir;
use seckill::embedded::Embedded;
use support::{program, temp_dir, until};

use crate::harness::{data_dir, mode_and_uid, postmaster_pid, processes_of, psql, redis_cli, redis_pid};

#[tokio::test(flavor = "multi_thread")]
async fn both_stores_answer_with_their_settings_and_stop_completely() {
    let parent = temp_dir("seckill-test-");
    let dir = data_dir(&parent, "data");
    let stores = Embedded::start(&dir).await.unwrap();
    let addresses = stores.addresses();

    let config = |name: &str| redis_cli(&addresses, &["config", "get", name]).unwrap();
    assert_eq!(config("appendonly"), "appendonly\nyes");
    assert_eq!(config("appendfsync"), "appendfsync\nalways");
    assert_eq!(config("maxmemory-policy"), "maxmemory-policy\nnoeviction");
    assert_eq!(config("hash-max-listpack-entries"), "hash-max-listpack-entries\n32");
    assert_eq!(config("save"), "save");
    assert_eq!(config("port"), "port\n0");
    assert_eq!(config("databases"), "databases\n1");

    let show = |name: &str| psql(&addresses, &format!("show {name}")).unwrap();
    for name in ["fsync", "synchronous_commit", "full_page_writes"] {
        assert_eq!(show(name), "on", "{name}");
    }
    assert_eq!(show("listen_addresses"), "");
    assert_eq!(show("jit"), "off");
    assert_eq!(show("shared_buffers"), "128MB");
    assert_eq!(show("max_connections"), "100");
    assert_eq!(show("server_encoding"), "UTF8");
    assert_eq!(show("lc_ctype"), "C.UTF-8");
    assert_eq!(psql(&addresses, "select current_user, current_database()").unwrap(), "seckill|seckill");

    assert_folders_are_private(&dir);
    assert_children_inherit_nothing(&dir, &addresses);

    stores.stop().await.unwrap();
    assert_eq!(processes_of(&dir), Vec::<String>::new());
    Embedded::start(&dir).await.unwrap().stop().await.unwrap();
}

fn assert_folders_are_private(dir: &DataDir) {
    assert_eq!(mode_and_uid(dir.path()), (0o711, Uid::effective().as_raw()));
    for store in ["redis", "postgres"] {
        let (mode, uid) = mode_and_uid(&dir.path().join(store));
        assert_eq!(mode, 0o700, "{store}");
        assert!(uid != 0, "{store} runs as root");
        if !Uid::effective().is_root() {
            assert_eq!(uid, Uid::effective().as_raw(), "{store}");
        }
    }
    assert_eq!(mode_and_uid(&dir.path().join("redis/redis.sock")).0, 0o700);
    assert_eq!(mode_and_uid(&dir.path().join("postgres/.s.PGSQL.5432")).0, 0o700);
}

fn assert_children_inherit_nothing(dir: &DataDir, addresses: &StoreAddresses) {
    for pid in [redis_pid(addresses).unwrap(), postmaster_pid(dir).unwrap()] {
        let files: Vec<PathBuf> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .collect();
        assert!(!files.contains(&dir.path().join("lock")), "{files:?}");
        let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        assert!(!environment.contains("CARGO"), "{environment}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        if Uid::effective().is_root() {
            assert_eq!(line("Groups:"), "", "the process has none of root's groups");
            assert!(!line("Uid:").split_whitespace().any(|uid| uid == "0"));
            assert!(!line("Gid:").split_whitespace().any(|gid| gid == "0"));
        }
        assert_eq!(nix::unistd::getpgid(Some(pid)).unwrap(), pid, "the process has its own process group");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_is_refused_and_others_join() {
    let parent = temp_dir("seckill-test-");
    let dir = data_dir(&parent, "data");
    let refused = Embedded::join(dir.path()).await.err().unwrap().to_string();
    assert!(refused.contains("seckill serve"), "{refused}");

    let stores = Embedded::start(&dir).await.unwrap();
    let refused = Embedded::start(&dir).await.err().unwrap().to_string();
    for part in
        [dir.path().to_str().unwrap(), &std::process::id().to_string(), "SECKILL_DATA_DIR", "seckill worker"]
    {
        assert!(refused.contains(part), "{refused}");
    }
    let joined = Embedded::join(dir.path()).await.unwrap();
    assert_eq!(joined.redis_url, stores.addresses().redis_url);
    assert_eq!(joined.database_url, stores.addresses().database_url);
    stores.stop().await.unwrap();
    assert!(Embedded::join(dir.path()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_during_its_first_start_leaves_no_half_made_cluster() {
    let parent = temp_dir("seckill-test-");
    let dir = data_dir(&parent, "data");
    let mut child = serve(&dir);
    let has_new_cluster = || {
        let entries = fs::read_dir(dir.path().join("postgres")).ok()?;
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("new-")).then_some(())
    };
    until("initdb runs", async || has_new_cluster()).await;
    child.kill().unwrap();
    child.wait().unwrap();

    let stores = Embedded::start(&dir).await.unwrap();
    assert_eq!(psql(&stores.addresses(), "select 1").unwrap(), "1");
    assert_eq!(has_new_cluster(), None);
    stores.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_at_random_moments_of_its_first_start_starts_again_at_once() {
    kill_first_starts(8).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_program_killed_at_a_hundred_moments_of_its_first_start_starts_again_at_once() {
    kill_first_starts(100).await;
}

/// Kills the program at random moments of its first start and starts the stores again at once.
async fn kill_first_starts(times: u32) {
    let parent = temp_dir("seckill-test-");
    let began = Instant::now();
    Embedded::start(&data_dir(&parent, "whole")).await.unwrap().stop().await.unwrap();
    let whole = began.elapsed();
    let mut failed = Vec::new();
    for number in 0..times {
        let dir = data_dir(&parent, &format!("data-{number}"));
        // Divides the start into as many parts as there are kills; each kill is at a random moment of a different part.
        let moment = whole.mul_f64((f64::from(number) + rand::random::<f64>()) / f64::from(times));
        let mut child = serve(&dir);
        std::thread::sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
        match Embedded::start(&dir).await {
            Ok(stores) => {
                assert_eq!(psql(&stores.addresses(), "select 1").unwrap(), "1");
                stores.stop().await.unwrap();
            }
            Err(error) => failed.push(format!("{moment:?}: {error:#}")),
        }
        assert_eq!(processes_of(&dir), Vec::<String>::new(), "killed after {moment:?}");
        fs::remove_dir_all(dir.path()).unwrap();
    }
    assert!(failed.is_empty(), "{} of {times} starts failed: {failed:#?}", failed.len());
}

fn serve(dir: &DataDir) -> Child {
    Command::new(program())
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
