//! A log that cannot be written does not stop the program: its reader dies or stalls, its disk is full, or its
//! descriptor does not block. Also the demo's text on stdout.

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
    /// Starts the command with this stderr; the first line that the reader gets has the address.
    async fn start(command: &str, stderr: impl Into<Stdio>, log: &mut impl BufRead) -> Self {
        let mut sale = Sale::start().await;
        sale.stop();
        let mut program = sale.command();
        program.arg(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let mut piped = Self { child: program.spawn().unwrap(), sale };
        // The command has a copy of the pipe's end, which would keep the pipe open.
        drop(program);
        let mut first = String::new();
        log.read_line(&mut first).unwrap();
        piped.sale.url = first.trim_end().strip_prefix("listening on ").unwrap().to_owned();
        piped.sale.until_ready().await;
        piped
    }

    /// Causes log lines of the fence, of the workers, and of both supervisors.
    async fn cause_trouble(&self) {
        let sale = &self.sale;
        sale.redis_cli_without_program(&["SCRIPT", "FLUSH"]);
        self.until_a_claim_is_recorded("alice").await;
        let info = sale.redis_cli_without_program(&["INFO", "server"]);
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

    /// Sends SIGTERM and checks that the exit status is 0.
    fn stop(mut self) {
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

/// Writes until the pipe has no room for one more byte.
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
    piped.cause_trouble().await;
    piped.stop();
}

#[tokio::test]
async fn a_stalled_log_reader_stops_nothing_and_can_continue_later() {
    let (mut reader, mut writer) = pipe();
    let piped = Piped::start("serve", OwnedFd::from(writer.try_clone().unwrap()), &mut reader).await;
    fill(&mut writer);
    set_blocking(&writer, true);
    piped.cause_trouble().await;
    drop(writer);
    let log = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        log
    });
    piped.stop();
    let log = log.join().unwrap();
    for line in ["Redis died", "Postgres died", "fence up", "SIGTERM: stopping"] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[tokio::test]
async fn a_nonblocking_log_descriptor_loses_no_line() {
    let (mut reader, mut writer) = pipe();
    let piped = Piped::start("serve", OwnedFd::from(writer.try_clone().unwrap()), &mut reader).await;
    fill(&mut writer);
    piped.cause_trouble().await;
    drop(writer);
    let read = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        log
    });
    piped.stop();
    let log = read.join().unwrap();
    assert!(log.contains("Redis died") && log.contains("SIGTERM: stopping"), "{log}");
    assert!(!log.contains("were lost"), "{log}");
    let is_whole =
        |line: &&str| line.is_empty() || line.starts_with("20") || line.starts_with("listening on ");
    assert_eq!(log.lines().find(|line| !is_whole(line)), None);
}

#[tokio::test]
async fn a_log_continues_when_it_can_be_written_again_and_counts_its_lost_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Opens the pipe for reading and writing, so that the open does not wait for another process.
    let both = File::options().read(true).write(true).open(&path).unwrap();
    let mut reader = BufReader::new(both);
    let writer = File::options().write(true).open(&path).unwrap();
    let piped = Piped::start("serve", writer, &mut reader).await;
    drop(reader);
    piped.cause_trouble().await;
    let mut reader = BufReader::new(File::open(&path).unwrap());
    piped.sale.redis_cli_without_program(&["SCRIPT", "FLUSH"]);
    let mut log = String::new();
    while !log.contains("were lost") {
        assert!(reader.read_line(&mut log).unwrap() > 0, "the log ends: {log}");
    }
    piped.stop();
}

#[tokio::test]
async fn a_full_disk_under_the_log_stops_nothing() {
    let sale = Sale::start().await;
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut worker = sale.command().arg("worker").stdout(full()).stderr(full()).spawn().unwrap();
    sale.create("coffee", 10).await;
    sale.redis_cli(&["SCRIPT", "FLUSH"]);
    until("the worker process has joined the group", async || {
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
async fn a_demo_whose_stdout_has_no_reader_still_serves() {
    let mut sale = Sale::start().await;
    sale.stop();
    let (text, writer) = std::io::pipe().unwrap();
    drop(text);
    let log = sale.dir.path().join("demo-log");
    let mut demo = sale.command();
    demo.arg("demo").stdout(OwnedFd::from(writer)).stderr(File::create(&log).unwrap());
    let mut demo = demo.spawn().unwrap();
    let log_text = || std::fs::read_to_string(&log).unwrap();
    until("it logs that its text is not printed", async || {
        log_text().contains("could not be printed").then_some(())
    })
    .await;
    sale.url = log_text().lines().next().unwrap().strip_prefix("listening on ").unwrap().to_owned();
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(demo.id()).unwrap()), Signal::SIGTERM)
        .unwrap();
    assert!(demo.wait().unwrap().success(), "{}", log_text());
}
