//! `serve --replace`: a new process takes over the socket and the stores of a running server.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use support::{Process, Sale, signal, until};

const CLIENTS: u64 = 16;
const UNITS: i64 = 1_000_000;

/// What clients with keep-alive connections have seen.
#[derive(Default)]
struct Seen {
    accepted: AtomicU64,
    unavailable: AtomicU64,
    /// Anything but 202 and a 503 with `Retry-After`, such as a reset connection.
    wrong: std::sync::Mutex<Vec<String>>,
    /// The longest time between two answers, by whichever client, and the time of the last one.
    gap: std::sync::Mutex<(Duration, Option<Instant>)>,
}

impl Seen {
    fn record(&self, answer: &str) {
        let now = Instant::now();
        {
            let mut gap = self.gap.lock().unwrap();
            let since = gap.1.map_or(Duration::ZERO, |last| now - last);
            *gap = (gap.0.max(since), Some(now));
        }
        match answer.get(9..12) {
            Some("202") => drop(self.accepted.fetch_add(1, Ordering::SeqCst)),
            Some("503") if answer.contains("\r\nretry-after: ") => {
                self.unavailable.fetch_add(1, Ordering::SeqCst);
            }
            _ => self.wrong.lock().unwrap().push(answer.to_owned()),
        }
    }

    fn answers(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst) + self.unavailable.load(Ordering::SeqCst)
    }
}

/// Claims as one user after the other until told to end. Opens a new connection when the server asks for it.
async fn client(sale: Arc<Sale>, number: u64, seen: Arc<Seen>, ends: Arc<AtomicBool>) {
    let mut claim = 0;
    while !ends.load(Ordering::SeqCst) {
        let mut stream = sale.connect().await;
        loop {
            claim += 1;
            let token = sale.token(&format!("user-{number}-{claim}"));
            let request = format!(
                "POST /v1/coupons/coffee/claims HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n"
            );
            match exchange(&mut stream, &request).await {
                Ok(answer) => {
                    seen.record(&answer);
                    if answer.contains("\r\nconnection: close") || ends.load(Ordering::SeqCst) {
                        break;
                    }
                }
                Err(error) => {
                    seen.wrong.lock().unwrap().push(error.to_string());
                    break;
                }
            }
        }
    }
}

async fn exchange(stream: &mut TcpStream, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut received = Vec::new();
    loop {
        let read = stream.read_buf(&mut received).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&received).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Ok(text);
            }
        }
    }
}

fn port(sale: &Sale) -> String {
    format!("127.0.0.1:{}", sale.url.rsplit(':').next().unwrap())
}

/// A new server on the same address.
fn spawn_new(sale: &Sale, more: &[&str], environment: &[(&str, &str)]) -> Process {
    let mut command = sale.command();
    command.args(["serve", "--replace"]).args(more).env("SECKILL_LISTEN", port(sale));
    command.envs(environment.iter().copied());
    sale.spawn_as("serve", command)
}

/// Waits until the process has ended, and returns whether it was successful.
async fn ended(process: &mut Process) -> bool {
    until("the old server has ended", || std::future::ready(process.ended())).await.success()
}

#[tokio::test]
async fn five_replacements_under_load_lose_no_request_and_no_unit() {
    let mut sale = Sale::start().await;
    sale.create("coffee", UNITS).await;
    let (redis, postgres, epoch) = (sale.redis_pid(), sale.postgres_pids()[0], sale.epoch());
    let (seen, ends) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let mut server = sale.take_server();
    let sale = Arc::new(sale);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(sale.clone(), number, seen.clone(), ends.clone()));
    }
    for round in 0..5 {
        let before = seen.answers();
        until("claims are answered", async || (seen.answers() > before + 100).then_some(())).await;
        let new = spawn_new(&sale, &[], &[]);
        assert!(ended(&mut server).await, "round {round}: {}", server.log());
        new.until_logged("with its stores").await;
        server = new;
    }
    let before = seen.answers();
    until("claims are answered", async || (seen.answers() > before + 100).then_some(())).await;
    ends.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let (accepted, unavailable) =
        (seen.accepted.load(Ordering::SeqCst), seen.unavailable.load(Ordering::SeqCst));
    let (gap, _) = *seen.gap.lock().unwrap();
    println!("{accepted} accepted, {unavailable} retryable 503s, longest gap between two answers {gap:?}");
    assert_eq!(*seen.wrong.lock().unwrap(), Vec::<String>::new());
    assert_eq!(
        (sale.redis_pid(), sale.postgres_pids()[0]),
        (redis, postgres),
        "the stores were never restarted"
    );
    assert_eq!(sale.epoch(), epoch, "and Redis was never rebuilt");

    let mut sale = Arc::into_inner(sale).unwrap();
    sale.use_as_server(server).await;
    sale.assert_in_agreement("coffee").await;
    assert_eq!(u64::try_from(sale.psql_number("select count(*) from orders")).unwrap(), accepted);
    // The last server stops the stores that the first one has started.
    assert!(sale.stop().success());
    for pid in [redis, postgres] {
        // Empty if it has ended and its parent, no longer the program, has not waited for it.
        let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(command_line.is_empty(), "{}", String::from_utf8_lossy(&command_line));
    }
}

#[tokio::test]
async fn a_new_server_restarts_a_store_that_it_has_taken_over_when_the_store_dies() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 10).await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    let mut old = sale.take_server();
    let new = spawn_new(&sale, &[], &[]);
    assert!(ended(&mut old).await, "{}", old.log());
    new.until_logged("with its stores").await;
    sale.use_as_server(new).await;
    let killed = sale.redis_pid();
    signal(killed, Signal::SIGKILL);
    until("Redis is back", async || sale.log().contains("Redis is back").then_some(())).await;
    until("claims are accepted", async || (sale.claim("coffee", "bob").await.status == 202).then_some(()))
        .await;
    signal(sale.postgres_pids()[0], Signal::SIGKILL);
    until("Postgres is back", async || sale.log().contains("Postgres is back").then_some(())).await;
    sale.assert_in_agreement("coffee").await;
    assert!(sale.stop().success());
}

#[tokio::test]
async fn a_new_server_that_cannot_take_over_leaves_the_old_one_as_it_is() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 10).await;
    let elsewhere = sale.dir.path().join("elsewhere");
    let mut wrong = spawn_new(&sale, &[], &[("SECKILL_DATA_DIR", elsewhere.to_str().unwrap())]);
    assert_eq!(wrong.wait().code(), Some(1));
    assert!(wrong.log().contains("give both the same settings"), "{}", wrong.log());
    // Killed before it is ready.
    let redis = sale.redis_pid();
    signal(redis, Signal::SIGSTOP);
    let late = spawn_new(&sale, &[], &[]);
    late.until_logged("replacing process").await;
    late.kill_9();
    signal(redis, Signal::SIGCONT);
    until("the old server has noticed", async || sale.log().contains("this one continues").then_some(()))
        .await;
    sale.until_ready().await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    assert!(sale.server().is_running());

    let mut old = sale.take_server();
    let new = spawn_new(&sale, &[], &[]);
    assert!(ended(&mut old).await, "{}", old.log());
    sale.use_as_server(new).await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 200);
}

/// Starts a new server that cannot be ready, because Redis does not answer.
async fn spawn_new_that_waits(sale: &Sale) -> Process {
    signal(sale.redis_pid(), Signal::SIGSTOP);
    let new = spawn_new(sale, &[], &[]);
    new.until_logged("replacing process").await;
    new
}

/// A process that has ended has no command line, also before its parent has read its status.
fn has_ended(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty()
}

/// Claims are answered 503 while the stores start again.
async fn until_claimed(sale: &Sale, user: &str, status: u16) {
    until("the claim is answered", async || {
        (sale.claim("coffee", user).await.status == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_new_server_takes_over_at_once_when_the_old_one_is_killed_before_it_is_ready() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 10).await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    let redis = sale.redis_pid();
    let new = spawn_new_that_waits(&sale).await;
    sale.take_server().kill_9();
    // The kernel continues a stopped Redis whose parent is gone: this may be before or after the new server is ready.
    new.until_logged("with its stores").await;
    sale.use_as_server(new).await;
    // The old Redis answers until it has ended.
    until("the old Redis has ended", async || has_ended(redis).then_some(())).await;
    until_claimed(&sale, "alice", 200).await;
    assert_ne!(sale.redis_pid(), redis, "the new one has started the stores again");
    until_claimed(&sale, "bob", 202).await;
    sale.assert_in_agreement("coffee").await;
    assert!(sale.stop().success());
}

#[tokio::test]
async fn an_old_server_that_hangs_is_killed_before_the_new_one_supervises_its_stores() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 10).await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    let redis = sale.redis_pid();
    let new = spawn_new_that_waits(&sale).await;
    let mut old = sale.take_server();
    old.until_logged("prepares to take over").await;
    old.signal(Signal::SIGSTOP);
    signal(redis, Signal::SIGCONT);
    let status = until("the old server has ended", || std::future::ready(old.ended())).await;
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    new.until_logged("Postgres is back").await;
    sale.use_as_server(new).await;
    until_claimed(&sale, "alice", 200).await;
    until_claimed(&sale, "bob", 202).await;
    sale.assert_in_agreement("coffee").await;
    assert!(sale.stop().success());
}

#[tokio::test]
async fn an_old_server_stops_its_stores_when_the_new_one_dies_after_it_was_ready() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 10).await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    let stores = [sale.redis_pid(), sale.postgres_pids()[0]];
    let mut old = sale.take_server();
    {
        // This test is the new process, for the old one.
        let name = format!("seckill/{}", port(&sale));
        let name = UnixAddress::from_abstract_name(name).unwrap();
        let connect = async || UnixStream::connect_addr(&name).ok();
        let mut conversation = until("the old server waits for a new one", connect).await;
        conversation.write_all(b"{\"replace\":1}\n").unwrap();
        assert_ne!(conversation.read(&mut [0; 8_192]).unwrap(), 0);
        conversation.write_all(b"{\"ready\":true}\n").unwrap();
    }
    assert!(!ended(&mut old).await, "{}", old.log());
    assert!(old.log().contains("the new process has gone"), "{}", old.log());
    assert!(stores.into_iter().all(has_ended));
    sale.start_server().await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 200);
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn without_a_running_server_replace_starts_as_usual() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 10).await;
    assert!(sale.stop().success());
    let new = spawn_new(&sale, &[], &[]);
    new.until_logged("starting as usual").await;
    sale.use_as_server(new).await;
    sale.until_ready().await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    let mut nowhere = sale.command();
    nowhere.args(["serve", "--replace"]).env("SECKILL_LISTEN", "127.0.0.1:0");
    let output = nowhere.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
