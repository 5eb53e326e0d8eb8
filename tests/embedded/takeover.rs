//! Stores that are killed, that a killed program leaves running, or whose lock files are wrong.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Uid;
use seckill::config::STORE_LOG_MAX_BYTES;
use seckill::data_dir::DataDir;
use seckill::embedded::Embedded;
use support::{temp_dir, until};

use crate::child;
use crate::harness::{data_dir, postmaster_pid, processes_of, psql, redis_cli, redis_pid};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_store_comes_back_with_its_data() {
    let parent = temp_dir("seckill-test-");
    let dir = data_dir(&parent, "data");
    let stores = Embedded::start(&dir).await.unwrap();
    let addresses = stores.addresses();
    redis_cli(&addresses, &["set", "kept", "yes"]).unwrap();
    psql(&addresses, "create table kept as select 42 as answer").unwrap();

    let redis = redis_pid(&addresses).unwrap();
    kill(redis, Signal::SIGKILL).unwrap();
    let again = until("Redis is back", async || redis_pid(&addresses).filter(|pid| *pid != redis)).await;
    assert_eq!(redis_cli(&addresses, &["get", "kept"]).unwrap(), "yes");

    // A backend that runs a query does not notice that its postmaster is gone.
    let url = addresses.database_url.clone();
    let mut busy = Command::new("psql")
        .args([
            "-X",
            "-c",
            "set application_name = 'busy'; select count(*) from generate_series(1, 1e12)",
            &url,
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the query runs", async || {
        let sql = "select 1 from pg_stat_activity where application_name = 'busy' and state = 'active'";
        (psql(&addresses, sql).unwrap() == "1").then_some(())
    })
    .await;
    let postmaster = postmaster_pid(&dir).unwrap();
    kill(postmaster, Signal::SIGKILL).unwrap();
    until("Postgres is back", async || {
        (psql(&addresses, "select answer from kept").ok()? == "42").then_some(())
    })
    .await;
    assert_ne!(postmaster_pid(&dir).unwrap(), postmaster);
    assert!(!busy.wait().unwrap().success(), "the backend of the killed postmaster is gone");

    // A second kill.
    kill(again, Signal::SIGKILL).unwrap();
    until("Redis is back again", async || redis_pid(&addresses).filter(|pid| *pid != again)).await;
    stores.stop().await.unwrap();
    assert_eq!(processes_of(&dir), Vec::<String>::new());
}

/// One Redis and one Postgres. A new child of Postgres has its parent's command line until it sets its own.
async fn until_two_processes_run(dir: &DataDir) {
    until("one Redis and one Postgres run", async || (processes_of(dir).len() == 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_left_by_a_killed_program_are_stopped_and_never_run_twice() {
    let parent = temp_dir("seckill-test-");
    let dir = data_dir(&parent, "data");
    let mut child = child::start(dir.path());
    let addresses = Embedded::join(dir.path()).await.unwrap();
    redis_cli(&addresses, &["set", "kept", "yes"]).unwrap();
    psql(&addresses, "create table kept as select 42 as answer").unwrap();
    let (redis, postmaster) = (redis_pid(&addresses).unwrap(), postmaster_pid(&dir).unwrap());

    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(redis_pid(&addresses), Some(redis), "the stores outlive a killed program");

    let stores = Embedded::start(&dir).await.unwrap();
    let addresses = stores.addresses();
    assert_ne!(redis_pid(&addresses), Some(redis));
    assert_ne!(postmaster_pid(&dir), Some(postmaster));
    until_two_processes_run(&dir).await;
    assert_eq!(redis_cli(&addresses, &["get", "kept"]).unwrap(), "yes");
    assert_eq!(psql(&addresses, "select answer from kept").unwrap(), "42");
    stores.stop().await.unwrap();
    assert_eq!(processes_of(&dir), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_never_run_twice_although_their_lock_files_were_deleted() {
    let parent = temp_dir("seckill-test-");
    let dir = data_dir(&parent, "data");
    let mut child = child::start(dir.path());
    let addresses = Embedded::join(dir.path()).await.unwrap();
    redis_cli(&addresses, &["set", "kept", "yes"]).unwrap();
    let (redis, postmaster) = (redis_pid(&addresses).unwrap(), postmaster_pid(&dir).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    for file in ["redis/alive.lock", "postgres/alive.lock", "postgres/cluster/postmaster.pid"] {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    let stores = Embedded::start(&dir).await.unwrap();
    assert_ne!(redis_pid(&addresses), Some(redis));
    assert_ne!(postmaster_pid(&dir), Some(postmaster));
    until_two_processes_run(&dir).await;
    assert_eq!(redis_cli(&addresses, &["get", "kept"]).unwrap(), "yes");
    stores.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_file_that_names_another_programs_process_or_none_does_not_stop_postgres() {
    let parent = temp_dir("seckill-test-");
    let dir = data_dir(&parent, "data");
    Embedded::start(&dir).await.unwrap().stop().await.unwrap();
    let folder = dir.path().join("postgres");
    let lock = folder.join("cluster/postmaster.pid");
    let owner = fs::metadata(&folder).unwrap();
    // The second process has the arguments with which Debian starts its own cluster.
    let mut others = [other_process(&[]).await, other_process(&["-D", "/var/lib/postgresql/15/main"]).await];
    let lines = |pid: &str| format!("{pid}\n{}\n1\n5432\n\n\n", folder.join("cluster").display());
    let mut contents: Vec<Vec<u8>> =
        [&b""[..], b"\n", b"garbage\n", b"-1\n", b"0\n", b"99999999999999999999\n", b"\xff\xfe\0"]
            .map(<[u8]>::to_vec)
            .into();
    contents.extend(["1", "2", "4194304"].map(|pid| lines(pid).into_bytes()));
    contents.extend(
        [std::process::id(), others[0].id(), others[1].id()].map(|pid| lines(&pid.to_string()).into_bytes()),
    );
    for content in contents {
        for path in [&lock, &folder.join(".s.PGSQL.5432.lock")] {
            fs::write(path, &content).unwrap();
            std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        let shown = String::from_utf8_lossy(&content).into_owned();
        let stores = Embedded::start(&dir).await.unwrap_or_else(|error| panic!("{shown:?}: {error:#}"));
        assert_eq!(psql(&stores.addresses(), "select 1").unwrap(), "1", "{shown:?}");
        stores.stop().await.unwrap();
    }
    for other in &mut others {
        assert_eq!(other.try_wait().unwrap(), None, "another program's process is not ended");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}

/// A process of another program that does nothing, with the name and user of a Postgres server.
async fn other_process(arguments: &[&str]) -> Child {
    let mut command = Command::new("sh");
    command.arg0("/usr/lib/postgresql/15/bin/postgres").args(["-c", "read line", "x"]).args(arguments);
    command.current_dir("/tmp").stdin(Stdio::piped());
    if Uid::effective().is_root() {
        command.uid(nix::unistd::User::from_name("postgres").unwrap().unwrap().uid.as_raw());
    }
    let child = command.spawn().unwrap();
    until("the other process runs", async || {
        fs::read(format!("/proc/{}/cmdline", child.id())).ok()?.starts_with(b"/usr/lib").then_some(())
    })
    .await;
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_stores_stops_them_too() {
    let parent = temp_dir("seckill-test-");
    let dir = data_dir(&parent, "data");
    drop(Embedded::start(&dir).await.unwrap());
    until("both are gone", async || processes_of(&dir).is_empty().then_some(())).await;

    // The next start rotates a large log and removes the half-written file of a killed child of Redis.
    let log = dir.path().join("redis/redis.log");
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(STORE_LOG_MAX_BYTES + 1).unwrap();
    let half_written = dir.path().join("redis/temp-rewriteaof-bg-1.aof");
    fs::write(&half_written, "half").unwrap();
    let stores = Embedded::start(&dir).await.unwrap();
    assert!(fs::metadata(&log).unwrap().len() < STORE_LOG_MAX_BYTES);
    assert!(log.with_extension("log.1").exists());
    assert!(!half_written.exists());
    stores.stop().await.unwrap();
}
