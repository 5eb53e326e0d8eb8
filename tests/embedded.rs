//! The embedded stores, with the machine's real programs. Every test has a data directory of its own
//! and ends only processes that its own stores started.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use seckill::config::{SOCKET_PATH_MAX_BYTES, STORE_LOG_MAX_BYTES, StoreAddresses};
use seckill::data_dir::{ADMIN_TOKEN, DataDir, DataDirLock, JWT_SECRET, read_secret};
use seckill::embedded::Embedded;
use sqlx::Connection;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);
/// Set for the process that plays the program which is killed.
const CHILD_DIR: &str = "SECKILL_TEST_CHILD_DIR";

/// A temporary folder that the stores' users can pass through.
fn reachable_tempdir() -> TempDir {
    tempfile::Builder::new()
        .prefix("seckill-test-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in("/tmp")
        .unwrap()
}

fn data_dir(parent: &TempDir, name: &str) -> DataDir {
    DataDir::open(Some(&parent.path().join(name))).unwrap()
}

fn output_of(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn redis_cli(addresses: &StoreAddresses, arguments: &[&str]) -> Result<String, String> {
    let socket = addresses.redis_socket().unwrap().unwrap();
    output_of(Command::new("redis-cli").arg("-e").arg("-s").arg(socket).args(arguments))
}

fn psql(addresses: &StoreAddresses, sql: &str) -> Result<String, String> {
    output_of(
        Command::new("psql")
            .args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(&addresses.database_url),
    )
}

fn redis_pid(addresses: &StoreAddresses) -> Option<Pid> {
    let info = redis_cli(addresses, &["info", "server"]).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("process_id:"))?;
    Some(Pid::from_raw(pid.trim().parse().unwrap()))
}

fn postmaster_pid(dir: &DataDir) -> Option<Pid> {
    let lock = fs::read_to_string(dir.path().join("postgres/cluster/postmaster.pid")).ok()?;
    Some(Pid::from_raw(lock.lines().next()?.parse().unwrap()))
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Processes whose command line or title mentions the directory's stores.
fn processes_of(dir: &DataDir) -> Vec<String> {
    let needle = dir.path().to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|line| line.contains(needle) && (line.contains("redis-") || line.contains("postgres")))
        .collect()
}

fn mode_and_uid(path: &Path) -> (u32, u32) {
    let meta = fs::metadata(path).unwrap();
    (meta.mode() & 0o7777, meta.uid())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_stores_answer_with_their_settings_and_stop_without_a_trace() {
    let parent = reachable_tempdir();
    let dir = data_dir(&parent, "data");
    let started = Instant::now();
    let stores = Embedded::start(&dir).await.unwrap();
    println!("first start: {:?}", started.elapsed());
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
    assert_children_hold_nothing_of_ours(&dir, &addresses);

    stores.stop().await.unwrap();
    assert_eq!(processes_of(&dir), Vec::<String>::new());
    let started = Instant::now();
    let stores = Embedded::start(&dir).await.unwrap();
    println!("second start: {:?}", started.elapsed());
    let stopping = Instant::now();
    stores.stop().await.unwrap();
    println!("stop: {:?}", stopping.elapsed());
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

fn assert_children_hold_nothing_of_ours(dir: &DataDir, addresses: &StoreAddresses) {
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
            assert_eq!(line("Groups:"), "", "root's groups are gone");
            assert!(!line("Uid:").split_whitespace().any(|uid| uid == "0"));
            assert!(!line("Gid:").split_whitespace().any(|gid| gid == "0"));
        }
        assert_eq!(nix::unistd::getpgid(Some(pid)).unwrap(), pid, "a process group of its own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_is_refused_and_others_join() {
    let parent = reachable_tempdir();
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
async fn a_killed_store_comes_back_with_its_data() {
    let parent = reachable_tempdir();
    let dir = data_dir(&parent, "data");
    let stores = Embedded::start(&dir).await.unwrap();
    let addresses = stores.addresses();
    redis_cli(&addresses, &["set", "kept", "yes"]).unwrap();
    psql(&addresses, "create table kept as select 42 as answer").unwrap();

    let redis = redis_pid(&addresses).unwrap();
    kill(redis, Signal::SIGKILL).unwrap();
    let again = until("Redis is back", || redis_pid(&addresses).filter(|pid| *pid != redis));
    assert_eq!(redis_cli(&addresses, &["get", "kept"]).unwrap(), "yes");

    // A busy backend does not notice by itself that its postmaster is gone.
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
    until("the query runs", || {
        let sql = "select 1 from pg_stat_activity where application_name = 'busy' and state = 'active'";
        (psql(&addresses, sql).unwrap() == "1").then_some(())
    });
    let postmaster = postmaster_pid(&dir).unwrap();
    kill(postmaster, Signal::SIGKILL).unwrap();
    until("Postgres is back", || (psql(&addresses, "select answer from kept").ok()? == "42").then_some(()));
    assert_ne!(postmaster_pid(&dir).unwrap(), postmaster);
    assert!(!busy.wait().unwrap().success(), "the backend of the killed postmaster is gone");

    // Twice in a row, too.
    kill(again, Signal::SIGKILL).unwrap();
    until("Redis is back again", || redis_pid(&addresses).filter(|pid| *pid != again));
    stores.stop().await.unwrap();
    assert_eq!(processes_of(&dir), Vec::<String>::new());
}

/// Not a test: the program that other tests start and kill.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "played by a child process"]
async fn child_program() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let dir = DataDir::open(Some(Path::new(&dir))).unwrap();
    let _stores = Embedded::start(&dir).await.unwrap();
    println!("the child's stores are ready");
    std::future::pending::<()>().await;
}

fn start_child_program(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_program", "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_until_ready(child: &mut Child) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("the child's stores are ready")));
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_left_by_a_killed_program_are_stopped_and_never_doubled() {
    let parent = reachable_tempdir();
    let dir = data_dir(&parent, "data");
    let mut child = start_child_program(dir.path());
    wait_until_ready(&mut child);
    let addresses = Embedded::join(dir.path()).await.unwrap();
    redis_cli(&addresses, &["set", "kept", "yes"]).unwrap();
    psql(&addresses, "create table kept as select 42 as answer").unwrap();
    let (redis, postmaster) = (redis_pid(&addresses).unwrap(), postmaster_pid(&dir).unwrap());

    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(redis_pid(&addresses), Some(redis), "the stores outlive a killed program");

    let started = Instant::now();
    let stores = Embedded::start(&dir).await.unwrap();
    println!("start over left-over stores: {:?}", started.elapsed());
    let addresses = stores.addresses();
    assert_ne!(redis_pid(&addresses), Some(redis));
    assert_ne!(postmaster_pid(&dir), Some(postmaster));
    assert_eq!(processes_of(&dir).len(), 2, "{:?}", processes_of(&dir));
    assert_eq!(redis_cli(&addresses, &["get", "kept"]).unwrap(), "yes");
    assert_eq!(psql(&addresses, "select answer from kept").unwrap(), "42");
    stores.stop().await.unwrap();
    assert_eq!(processes_of(&dir), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_during_its_first_start_leaves_nothing_half_made() {
    let parent = reachable_tempdir();
    let dir = data_dir(&parent, "data");
    let mut child = start_child_program(dir.path());
    let has_new_cluster = || {
        let entries = fs::read_dir(dir.path().join("postgres")).ok()?;
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("new-")).then_some(())
    };
    until("initdb is at work", has_new_cluster);
    child.kill().unwrap();
    child.wait().unwrap();

    let stores = Embedded::start(&dir).await.unwrap();
    assert_eq!(psql(&stores.addresses(), "select 1").unwrap(), "1");
    assert_eq!(has_new_cluster(), None);
    stores.stop().await.unwrap();
}

/// Kills the program at chance moments of its first start and starts again at once.
async fn kill_first_starts(times: u32) {
    let parent = reachable_tempdir();
    let began = Instant::now();
    Embedded::start(&data_dir(&parent, "whole")).await.unwrap().stop().await.unwrap();
    let whole = began.elapsed();
    let mut failed = Vec::new();
    for number in 0..times {
        let dir = data_dir(&parent, &format!("data-{number}"));
        // Spread over the whole start, each by chance within its part.
        let moment = whole.mul_f64((f64::from(number) + rand::random::<f64>()) / f64::from(times));
        let mut child = Command::new(env!("CARGO_BIN_EXE_seckill"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_at_chance_moments_of_its_first_start_starts_again_at_once() {
    kill_first_starts(8).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_program_killed_at_a_hundred_moments_of_its_first_start_starts_again_at_once() {
    kill_first_starts(100).await;
}

/// A process that does nothing, under a server's name and user.
fn bystander(arguments: &[&str]) -> Child {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("sh");
    command.arg0("/usr/lib/postgresql/15/bin/postgres").args(["-c", "read line", "x"]).args(arguments);
    command.current_dir("/tmp").stdin(Stdio::piped());
    if Uid::effective().is_root() {
        command.uid(nix::unistd::User::from_name("postgres").unwrap().unwrap().uid.as_raw());
    }
    let child = command.spawn().unwrap();
    until("the other process runs", || {
        fs::read(format!("/proc/{}/cmdline", child.id())).ok()?.starts_with(b"/usr/lib").then_some(())
    });
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_file_that_names_a_process_of_others_or_nothing_does_not_stop_postgres() {
    let parent = reachable_tempdir();
    let dir = data_dir(&parent, "data");
    Embedded::start(&dir).await.unwrap().stop().await.unwrap();
    let folder = dir.path().join("postgres");
    let lock = folder.join("cluster/postmaster.pid");
    let owner = fs::metadata(&folder).unwrap();
    // The second as Debian starts its own cluster.
    let mut others = [bystander(&[]), bystander(&["-D", "/var/lib/postgresql/15/main"])];
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
        assert_eq!(other.try_wait().unwrap(), None, "a process of others is left alone");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_are_never_doubled_although_their_lock_file_was_deleted() {
    let parent = reachable_tempdir();
    let dir = data_dir(&parent, "data");
    let mut child = start_child_program(dir.path());
    wait_until_ready(&mut child);
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
    assert_eq!(processes_of(&dir).len(), 2, "{:?}", processes_of(&dir));
    assert_eq!(redis_cli(&addresses, &["get", "kept"]).unwrap(), "yes");
    stores.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_lock_file_of_a_reused_pid_does_not_stop_postgres() {
    let parent = reachable_tempdir();
    let dir = data_dir(&parent, "data");
    Embedded::start(&dir).await.unwrap().stop().await.unwrap();
    let folder = dir.path().join("postgres");
    let owner = fs::metadata(&folder).unwrap();
    let stale = format!("{}\n{}\n1\n5432\n\n\n", std::process::id(), folder.join("cluster").display());
    for name in ["cluster/postmaster.pid", ".s.PGSQL.5432.lock"] {
        fs::write(folder.join(name), &stale).unwrap();
        std::os::unix::fs::chown(folder.join(name), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let stores = Embedded::start(&dir).await.unwrap();
    stores.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_stores_stops_them_too() {
    let parent = reachable_tempdir();
    let dir = data_dir(&parent, "data");
    drop(Embedded::start(&dir).await.unwrap());
    until("both are gone", || processes_of(&dir).is_empty().then_some(()));

    // A large log and what a killed child of Redis left half-written are out of the way at the next start.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_a_space_a_percent_and_a_plus_works_for_every_client() {
    let parent = reachable_tempdir();
    let dir = data_dir(&parent, "flash sale 100%20+\"é'");
    let stores = Embedded::start(&dir).await.unwrap();
    let addresses = stores.addresses();
    assert!(addresses.redis_socket().unwrap().unwrap().starts_with(dir.path()));
    assert_eq!(redis_cli(&addresses, &["ping"]).unwrap(), "PONG");
    assert_eq!(psql(&addresses, "select 1").unwrap(), "1");
    let mut connection = sqlx::PgConnection::connect(&addresses.database_url).await.unwrap();
    let one: i32 = sqlx::query_scalar("select 1").fetch_one(&mut connection).await.unwrap();
    assert_eq!(one, 1);
    connection.close().await.unwrap();
    stores.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_too_long_for_a_socket_gets_a_run_directory() {
    let parent = reachable_tempdir();
    let dir = data_dir(&parent, &"long/".repeat(SOCKET_PATH_MAX_BYTES / 5));
    let stores = Embedded::start(&dir).await.unwrap();
    let addresses = stores.addresses();
    let socket = addresses.redis_socket().unwrap().unwrap();
    let run_dir = socket.parent().unwrap().parent().unwrap();
    assert!(!run_dir.starts_with(dir.path()));
    assert_eq!(mode_and_uid(run_dir), (0o711, Uid::effective().as_raw()));
    assert_eq!(mode_and_uid(&run_dir.join("redis")).0, 0o700);
    assert_eq!(mode_and_uid(&run_dir.join("postgres")).0, 0o700);

    let joined = Embedded::join(dir.path()).await.unwrap();
    assert_eq!(joined.redis_url, addresses.redis_url);
    assert_eq!(redis_cli(&joined, &["ping"]).unwrap(), "PONG");
    assert_eq!(psql(&joined, "select 1").unwrap(), "1");
    stores.stop().await.unwrap();
    assert!(!run_dir.exists());

    if Uid::effective().is_root() {
        // Somebody else made it first: it is not used, and not removed either.
        fs::create_dir(run_dir).unwrap();
        std::os::unix::fs::chown(run_dir, Some(54321), Some(54321)).unwrap();
        let stores = Embedded::start(&dir).await.unwrap();
        let elsewhere = stores.addresses().redis_socket().unwrap().unwrap();
        assert!(!elsewhere.starts_with(run_dir));
        stores.stop().await.unwrap();
        fs::remove_dir(run_dir).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_folder_of_another_user_is_refused() {
    if !Uid::effective().is_root() {
        return;
    }
    let parent = reachable_tempdir();
    let dir = data_dir(&parent, "data");
    let folder = dir.path().join("postgres");
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(54321), Some(54321)).unwrap();
    let refused = Embedded::start(&dir).await.err().unwrap().to_string();
    assert!(refused.contains("uid 54321") && refused.contains("chown"), "{refused}");
}

#[test]
fn secrets_are_private_stable_and_made_once() {
    let parent = reachable_tempdir();
    let dir = data_dir(&parent, "data");
    let missing = read_secret(dir.path(), ADMIN_TOKEN).unwrap_err().to_string();
    assert!(missing.contains("SECKILL_ADMIN_TOKEN") && missing.contains("seckill serve"), "{missing}");

    let racing: Vec<_> = (0..16)
        .map(|_| {
            let dir = dir.clone();
            std::thread::spawn(move || dir.secret(JWT_SECRET).unwrap())
        })
        .collect();
    let secrets: Vec<String> = racing.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(secrets.iter().all(|secret| *secret == secrets[0]));
    assert_eq!(secrets[0].len(), 64);
    assert_eq!(read_secret(dir.path(), JWT_SECRET).unwrap(), secrets[0]);
    assert_eq!(mode_and_uid(&dir.path().join(JWT_SECRET)), (0o600, Uid::effective().as_raw()));
    assert_ne!(dir.secret(ADMIN_TOKEN).unwrap(), secrets[0]);
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [ADMIN_TOKEN, JWT_SECRET], "no temporary file is left");

    fs::write(dir.path().join(ADMIN_TOKEN), "\n").unwrap();
    assert!(dir.secret(ADMIN_TOKEN).unwrap_err().to_string().contains("is empty"));
}

#[test]
fn the_lock_has_one_holder_at_a_time() {
    let parent = reachable_tempdir();
    let dir = data_dir(&parent, "data");
    assert!(!DataDirLock::is_held(dir.path()).unwrap());
    let lock = dir.lock().unwrap();
    assert!(DataDirLock::is_held(dir.path()).unwrap());
    assert!(dir.lock().unwrap_err().to_string().contains(&format!("process {}", std::process::id())));
    drop(lock);
    assert!(!DataDirLock::is_held(dir.path()).unwrap());
    dir.lock().unwrap();
}

#[test]
fn a_directory_out_of_reach_is_refused_by_name() {
    if !Uid::effective().is_root() {
        return;
    }
    let parent = reachable_tempdir();
    let closed = parent.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let wanted = closed.join("below/data");
    let refused = DataDir::open(Some(&wanted)).unwrap_err().to_string();
    assert!(refused.contains(&format!("chmod o+x {}", closed.display())), "{refused}");
    assert!(!closed.join("below").exists());
    // Itself it is ours to open, as long as it is fresh.
    assert_eq!(mode_and_uid(DataDir::open(Some(&closed)).unwrap().path()).0, 0o711);
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let parent = reachable_tempdir();
    let shared = parent.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("somebody's"), "").unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    assert!(DataDir::open(Some(&shared)).unwrap_err().to_string().contains("other users"));
    assert_eq!(mode_and_uid(&shared).0, 0o1777, "left as it was");
}
