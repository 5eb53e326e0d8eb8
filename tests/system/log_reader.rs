//! A log that cannot be written stops nothing: its reader dies or stands still, its disk is full, its descriptor
//! does not block. And stdout: the demo's text.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use support::{Sale, until};

/// A server whose log is read by the test.
struct Piped {
    sale: Sale,
    child: Child,
}

impl Piped {
    /// Starts the command with this as its stderr; its address is on the first line that the reader gets.
    async fn start(command: &str, stderr: impl Into<Stdio>, log: &mut impl BufRead) -> Self {
        let mut sale = Sale::start().await;
        sale.stop();
        let mut program = sale.command();
        program.arg(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let mut piped = Self { child: program.spawn().unwrap(), sale };
        // What is left of it here would keep the pipe open.
        drop(program);
        let mut first = String::new();
        log.read_line(&mut first).unwrap();
        piped.sale.url = first.trim_end().strip_prefix("listening on ").unwrap().to_owned();
        piped.sale.until_ready().await;
        piped
    }

    /// Everything at which the tasks of the fence, of the workers and of both supervisors have to say something.
    async fn goes_through_trouble(&self) {
        let sale = &self.sale;
        sale.redis_cli_alone(&["SCRIPT", "FLUSH"]);
        self.until_a_claim_is_recorded("alice").await;
        let info = sale.redis_cli_alone(&["INFO", "server"]);
        let redis = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap();
        support::signal(redis.trim().parse().unwrap(), Signal::SIGKILL);
        self.until_a_claim_is_recorded("bob").await;
        let postmaster =
            std::fs::read_to_string(sale.data_dir().join("postgres/cluster/postmaster.pid")).unwrap();
        support::signal(postmaster.lines().next().unwrap().parse().unwrap(), Signal::SIGKILL);
        self.until_a_claim_is_recorded("carol").await;
        assert_eq!(sale.get("/livez").await.status, 200);
    }

    async fn until_a_claim_is_recorded(&self, user: &str) {
        let coupon = json!({"id": "coffee", "total": 100});
        until(&format!("the order of {user} is recorded"), async || {
            let made = self.sale.admin(Method::POST, "/v1/admin/coupons", Some(coupon.clone())).await;
            let claim = self.sale.claim_with("coffee", user, &[("prefer", "wait=5")]).await;
            let is_recorded = matches!(claim.body["status"].as_str(), Some("confirmed"));
            ([200, 201].contains(&made.status) && is_recorded).then_some(())
        })
        .await;
    }

    /// SIGTERM ends it with status 0.
    fn stops_well(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn pipe() -> (BufReader<std::io::PipeReader>, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    (BufReader::new(reader), writer)
}

fn set_blocking(file: impl AsFd, blocks: bool) {
    let flags = if blocks { OFlag::empty() } else { OFlag::O_NONBLOCK };
    fcntl(file.as_fd(), FcntlArg::F_SETFL(flags)).unwrap();
}

/// Until not a byte more finds room.
fn fill(pipe: &mut std::io::PipeWriter) {
    set_blocking(&*pipe, false);
    for size in [4096, 1] {
        while pipe.write(&vec![b'\n'; size]).is_ok() {}
    }
}

#[tokio::test]
async fn a_log_reader_that_dies_stops_nothing() {
    let (mut reader, writer) = pipe();
    let piped = Piped::start("serve", OwnedFd::from(writer), &mut reader).await;
    drop(reader);
    piped.goes_through_trouble().await;
    piped.stops_well();
}

#[tokio::test]
async fn a_log_reader_that_stands_still_stops_nothing_and_reads_on_when_it_likes() {
    let (mut reader, mut writer) = pipe();
    let piped = Piped::start("serve", OwnedFd::from(writer.try_clone().unwrap()), &mut reader).await;
    fill(&mut writer);
    set_blocking(&writer, true);
    piped.goes_through_trouble().await;
    drop(writer);
    let log = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        log
    });
    piped.stops_well();
    let log = log.join().unwrap();
    for line in ["Redis died", "Postgres died", "fence up", "SIGTERM: stopping"] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[tokio::test]
async fn a_log_that_must_not_block_loses_no_line() {
    let (mut reader, mut writer) = pipe();
    let piped = Piped::start("serve", OwnedFd::from(writer.try_clone().unwrap()), &mut reader).await;
    fill(&mut writer);
    piped.goes_through_trouble().await;
    drop(writer);
    let read = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        log
    });
    piped.stops_well();
    let log = read.join().unwrap();
    assert!(log.contains("Redis died") && log.contains("SIGTERM: stopping"), "{log}");
    assert!(!log.contains("were lost"), "{log}");
    let is_whole =
        |line: &&str| line.is_empty() || line.starts_with("20") || line.starts_with("listening on ");
    assert_eq!(log.lines().find(|line| !is_whole(line)), None);
}

#[tokio::test]
async fn a_log_goes_on_when_it_can_be_written_again_and_says_how_much_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Open for both, it waits for no other end.
    let both = File::options().read(true).write(true).open(&path).unwrap();
    let mut reader = BufReader::new(both);
    let writer = File::options().write(true).open(&path).unwrap();
    let piped = Piped::start("serve", writer, &mut reader).await;
    drop(reader);
    piped.goes_through_trouble().await;
    let mut reader = BufReader::new(File::open(&path).unwrap());
    piped.sale.redis_cli_alone(&["SCRIPT", "FLUSH"]);
    let mut log = String::new();
    while !log.contains("were lost") {
        assert!(reader.read_line(&mut log).unwrap() > 0, "the log ends: {log}");
    }
    piped.stops_well();
}

#[tokio::test]
async fn a_full_disk_under_the_log_stops_nothing() {
    let sale = Sale::start().await;
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut worker = sale.command().arg("worker").stdout(full()).stderr(full()).spawn().unwrap();
    sale.create("coffee", 10).await;
    sale.redis_cli(&["SCRIPT", "FLUSH"]);
    until("a worker alone records", async || {
        let names = sale.redis_cli(&["XINFO", "CONSUMERS", "seckill:{0}:orders", "order-writers"]);
        names.contains(&format!("-{}-", worker.id())).then_some(())
    })
    .await;
    until("an order is recorded", async || {
        let claim = sale.claim_with("coffee", "alice", &[("prefer", "wait=10")]).await;
        (claim.body["status"] == "confirmed").then_some(())
    })
    .await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(worker.id()).unwrap()), Signal::SIGTERM)
        .unwrap();
    assert!(worker.wait().unwrap().success());
}

#[tokio::test]
async fn a_demo_whose_text_has_no_reader_serves_all_the_same() {
    let mut sale = Sale::start().await;
    sale.stop();
    let (text, writer) = std::io::pipe().unwrap();
    drop(text);
    let log = sale.dir.path().join("demo-log");
    let mut demo = sale.command();
    demo.arg("demo").stdout(OwnedFd::from(writer)).stderr(File::create(&log).unwrap());
    let mut demo = demo.spawn().unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    until("it says that its text is not printed", async || {
        said().contains("could not be printed").then_some(())
    })
    .await;
    sale.url = said().lines().next().unwrap().strip_prefix("listening on ").unwrap().to_owned();
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(demo.id()).unwrap()), Signal::SIGTERM)
        .unwrap();
    assert!(demo.wait().unwrap().success(), "{}", said());
}
