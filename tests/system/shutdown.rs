//! SIGTERM, SIGINT and SIGHUP in every phase: accepted claims are answered and recorded, the program ends in time, and
//! no process is left.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use support::{Process, Sale, signal, signal_all, until};

/// The signals that stop the program.
const SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
/// The program and its stores end within this time in every phase.
const PROMISED: Duration = Duration::from_secs(8);
const PROMISED_WHEN_IDLE: Duration = Duration::from_secs(1);

/// The result of one connection with one claim.
enum Outcome {
    Answered(String),
    /// The connection was refused, or reset before the first byte of an answer.
    Refused,
}

async fn claim(sale: &Sale, user: &str, wait: &str) -> Outcome {
    let Ok(mut stream) = TcpStream::connect(sale.url.strip_prefix("http://").unwrap()).await else {
        return Outcome::Refused;
    };
    let request = format!(
        "POST /v1/coupons/coffee/claims HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n{wait}Connection: close\r\n\r\n",
        sale.token(user)
    );
    let mut answer = Vec::new();
    let outcome = match stream.write_all(request.as_bytes()).await {
        Ok(()) => stream.read_to_end(&mut answer).await,
        Err(error) => Err(error),
    };
    if answer.is_empty() {
        return Outcome::Refused;
    }
    outcome.expect("an answer that has begun is complete");
    Outcome::Answered(String::from_utf8(answer).unwrap())
}

/// The order in a complete answer to an accepted claim.
fn order_of(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a complete head");
    assert!(head.starts_with("HTTP/1.1 202") || head.starts_with("HTTP/1.1 201"), "{answer}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert_eq!(length.parse(), Ok(body.len()), "{answer}");
    let order: serde_json::Value = serde_json::from_str(body).unwrap();
    order["order"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_stop_during_claims_answers_or_refuses_each_and_keeps_every_promise() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 1_000_000).await;
    let answered = AtomicUsize::new(0);
    let buyers = futures_util::future::join_all((0..200).map(|n| {
        let (sale, answered) = (&sale, &answered);
        async move {
            let mut orders = Vec::new();
            for round in 0.. {
                let user = format!("user-{n}-{round}");
                let wait = if n % 2 == 0 { "Prefer: wait=5\r\n" } else { "" };
                match claim(sale, &user, wait).await {
                    Outcome::Answered(answer) => orders.push((user, order_of(&answer))),
                    Outcome::Refused => return (orders, user),
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
            unreachable!("the server was stopped")
        }
    }));
    let stop = async {
        until("claims are answered", async || (answered.load(Ordering::Relaxed) > 100).then_some(())).await;
        sale.signal_server(Signal::SIGTERM);
    };
    let (claims, ()) = tokio::join!(buyers, stop);
    let status = until("the server has ended", || std::future::ready(sale.server().ended())).await;
    assert!(status.success(), "{status}");
    assert_eq!(processes_of(&sale.data_dir()), Vec::<String>::new());

    sale.start_server().await;
    sale.assert_in_agreement("coffee").await;
    let rows = sale.psql("select user_id || ' ' || id from orders");
    let rows: std::collections::HashSet<&str> = rows.lines().collect();
    let mut accepted = 0;
    for (orders, refused) in &claims {
        accepted += orders.len();
        for (user, order) in orders {
            assert!(rows.contains(&*format!("{user} {order}")), "{user} got {order}");
        }
        let is_theirs = |row: &&&str| row.starts_with(&format!("{refused} "));
        assert_eq!(rows.iter().find(is_theirs), None, "{refused} was refused");
    }
    assert_eq!(accepted, rows.len());
}

#[tokio::test]
async fn a_claim_that_waits_for_its_recording_is_answered_at_a_stop_and_recorded_afterwards() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 10).await;
    let (dir, postgres) = (sale.data_dir(), sale.postgres_pids());
    signal_all(&postgres, Signal::SIGSTOP);
    let claiming = claim(&sale, "alice", "Prefer: wait=10\r\n");
    let stopping = async {
        let accepted =
            async || sale.redis_raw(&[b"HLEN", b"seckill:{0}:claims:coffee"]).starts_with(":1").then_some(());
        until("the claim is accepted", accepted).await;
        sale.signal_server(Signal::SIGTERM);
        Instant::now()
    };
    let (outcome, signalled) = tokio::join!(claiming, stopping);
    let Outcome::Answered(answer) = outcome else { panic!("the claim was not answered") };
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let status = until("the server has ended", || std::future::ready(sale.server().ended())).await;
    assert!(signalled.elapsed() < PROMISED, "{status}: took {:?}", signalled.elapsed());
    assert_eq!(processes_of(&dir), Vec::<String>::new());
    sale.start_server().await;
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&[order_of(&answer)]);
}

/// Command lines of the processes whose working directory is in `dir` or whose arguments contain it.
fn processes_of(dir: &Path) -> Vec<String> {
    let text = |path: std::path::PathBuf| std::fs::read(path).unwrap_or_default();
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let of_dir = processes.filter_map(|process| {
        let command = String::from_utf8_lossy(&text(process.join("cmdline"))).replace('\0', " ");
        let works_there = std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        (works_there || command.contains(dir.to_str().unwrap())).then_some(command)
    });
    of_dir.collect()
}

/// The processes of a store that work in `dir`, the server first.
fn pids_of(dir: &Path, program: &str) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let is_ours = |process: &Path| {
        let command = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        let works_there = std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        works_there && command.split([' ', ':', '\0']).next().unwrap().ends_with(program)
    };
    let ours = processes.filter(|process| is_ours(process));
    ours.map(|process| process.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect()
}

/// Sends the signal; checks that the program ends in time and leaves no process.
async fn end(process: &mut Process, signal: Signal, dir: &Path, phase: &str) {
    let began = Instant::now();
    process.signal(signal);
    let status = until("the program has ended", || std::future::ready(process.ended())).await;
    let took = began.elapsed();
    assert!(took < PROMISED, "{signal} {phase}: took {took:?}\n{}", process.log());
    assert!(status.code().is_some(), "{signal} {phase}: {status}\n{}", process.log());
    assert_eq!(processes_of(dir), Vec::<String>::new(), "{signal} {phase}");
}

#[tokio::test]
async fn an_idle_program_stops_within_a_second() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 10).await;
    for signal in SIGNALS {
        // Takes the fastest of three stops: other work of the machine may delay the others.
        let mut took = Duration::MAX;
        for _ in 0..3 {
            if took < PROMISED_WHEN_IDLE {
                break;
            }
            sale.until_ready().await;
            let dir = sale.data_dir();
            let began = Instant::now();
            end(sale.server(), signal, &dir, "when idle").await;
            took = began.elapsed();
            sale.start_server().await;
        }
        assert!(took < PROMISED_WHEN_IDLE, "{signal}: took {took:?}");
    }
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_signal_at_any_point_of_the_first_start_ends_it_and_the_next_start_succeeds() {
    let points = [
        ("the lock is there", "lock"),
        ("initdb runs", "postgres/cluster.new-*/base"),
        ("the cluster is filled", "postgres/cluster.new-*/pg_hba.conf"),
        ("the cluster is there", "postgres/cluster/PG_VERSION"),
        ("Postgres starts", "postgres/cluster/postmaster.pid"),
    ];
    for (number, (phase, file)) in points.into_iter().enumerate() {
        let mut sale = Sale::without_server(&[]);
        let mut server = sale.spawn("serve", &[]);
        until(phase, async || exists(&sale.data_dir(), file).then_some(())).await;
        end(&mut server, SIGNALS[number % SIGNALS.len()], &sale.data_dir(), phase).await;
        sale.start_server().await;
    }
}

/// Whether a file exists; a `*` at the end of a folder's name stands for any text.
fn exists(dir: &Path, file: &str) -> bool {
    let Some((folder, rest)) = file.split_once("*/") else { return dir.join(file).exists() };
    let (folder, prefix) = folder.rsplit_once('/').unwrap();
    let entries = std::fs::read_dir(dir.join(folder)).into_iter().flatten().flatten();
    let mut folders = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    folders.any(|folder| folder.path().join(rest).exists())
}

#[tokio::test]
async fn a_signal_while_a_store_hangs_at_its_start_ends_the_program_and_a_joining_worker() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 10).await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    assert!(sale.stop().success());
    let dir = sale.data_dir();
    for (number, program) in ["redis-server", "postgres"].into_iter().cycle().take(3).enumerate() {
        let mut server = sale.spawn("serve", &[]);
        let store = until("the store starts", async || pids_of(&dir, program).first().copied()).await;
        signal(store, Signal::SIGSTOP);
        let mut worker = sale.spawn("worker", &[]);
        let joining = async || (worker.log().is_empty() && handles_sigterm(worker.pid())).then_some(());
        until("the worker waits for the stores", joining).await;
        let began = Instant::now();
        worker.signal(SIGNALS[number]);
        until("the worker has ended", || std::future::ready(worker.ended())).await;
        assert!(began.elapsed() < PROMISED, "{} at a join: took {:?}", SIGNALS[number], began.elapsed());
        end(&mut server, SIGNALS[number], &dir, &format!("while {program} hangs at its start")).await;
    }
    sale.start_server().await;
    sale.assert_in_agreement("coffee").await;
}

/// Whether a process has a handler for SIGTERM.
fn handles_sigterm(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
    u64::from_str_radix(caught.trim(), 16).is_ok_and(|mask| mask & (1 << (Signal::SIGTERM as u64 - 1)) != 0)
}

#[tokio::test]
async fn a_signal_while_a_running_store_hangs_ends_the_program() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 100).await;
    let dir = sale.data_dir();
    let mut orders = Vec::new();
    for (number, phase) in
        ["Redis is stopped", "Redis is busy", "Redis loads", "Postgres is stopped"].iter().enumerate()
    {
        let claim = sale.claim("coffee", &format!("user-{number}")).await;
        orders.push(claim.body["order"].as_str().unwrap().to_owned());
        let _busy = hang(&sale, phase).await;
        end(sale.server(), SIGNALS[number % SIGNALS.len()], &dir, phase).await;
        sale.start_server().await;
        sale.assert_in_agreement("coffee").await;
    }
    orders.sort();
    sale.assert_recorded(&orders);
}

/// Brings a store into the named state. The returned connection, if any, must stay open.
async fn hang(sale: &Sale, phase: &str) -> Option<UnixStream> {
    match phase {
        "Redis is stopped" => signal(sale.redis_pid(), Signal::SIGSTOP),
        "Redis is busy" => {
            let mut redis = UnixStream::connect(sale.redis_socket()).await.unwrap();
            redis.write_all(b"EVAL \"while true do end\" 0\r\n").await.unwrap();
            until("Redis hangs", async || (sale.get("/readyz").await.status == 503).then_some(())).await;
            return Some(redis);
        }
        "Redis loads" => {
            for part in 0..100 {
                let fill = "for i = 1, 10000 do redis.call('SET', ARGV[1] .. i, i) end";
                sale.redis_raw(&[b"EVAL", fill.as_bytes(), b"0", format!("{part}-").as_bytes()]);
            }
            signal(sale.redis_pid(), Signal::SIGKILL);
            until("Redis loads", async || sale.get("/readyz").await.text.contains("LOADING").then_some(()))
                .await;
        }
        _ => signal_all(&pids_of(&sale.data_dir(), "postgres"), Signal::SIGSTOP),
    }
    None
}

#[tokio::test]
async fn more_signals_during_a_stop_change_nothing() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 10).await;
    let dir = sale.data_dir();
    let _busy = hang(&sale, "Redis is busy").await;
    sale.signal_server(Signal::SIGTERM);
    sale.server().until_logged("SIGTERM: stopping").await;
    for signal in [Signal::SIGHUP, Signal::SIGTERM] {
        sale.signal_server(signal);
    }
    end(sale.server(), Signal::SIGINT, &dir, "during a stop").await;
    sale.start_server().await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_signal_ends_the_bench_with_its_stores_and_its_folder() {
    let sale = Sale::without_server(&[]);
    let dir = sale.dir.path().to_owned();
    for (number, file) in ["redis/redis.sock", "postgres/cluster/postmaster.pid"].into_iter().enumerate() {
        let mut command = sale.command();
        command.args(["bench", "--quick", "claim"]).env("TMPDIR", &dir);
        let mut bench = sale.spawn_as("bench", command);
        let folder = dir.join(format!("seckill-bench-{}", bench.pid()));
        until("its stores run", async || folder.join(file).exists().then_some(())).await;
        end(&mut bench, SIGNALS[number], &folder, "in the bench").await;
        assert!(!folder.exists(), "{}", bench.log());
    }
}
