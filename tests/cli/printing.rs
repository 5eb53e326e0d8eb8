//! Commands whose stdout or stderr cannot be written: each exits with a status for this failure, and none panics.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};

use support::program;

use crate::harness::{COFFEE, FakeServer, JWT_SECRET};

/// The exit status that shells report after SIGPIPE.
const READER_GONE: i32 = 141;

fn command(line: &str, url: &str) -> Command {
    let mut command = Command::new(program());
    command.args(line.split_whitespace()).env_clear().env("PATH", "/usr/bin:/bin");
    command
        .env("SECKILL_URL", url)
        .env("SECKILL_ADMIN_TOKEN", "let-me-in")
        .env("SECKILL_JWT_SECRET", JWT_SECRET);
    command
}

/// A pipe whose read end is closed.
fn broken_pipe() -> OwnedFd {
    std::io::pipe().unwrap().1.into()
}

fn full_disk() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// The exit status and the text of stderr.
fn run(command: &mut Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code().expect("no signal ends it"), String::from_utf8(stderr).unwrap())
}

/// Commands that print to stdout, and the server for their requests.
async fn printing_commands() -> (Vec<&'static str>, FakeServer) {
    let list = r#"{"items":[],"next":null}"#;
    let answers = [(200, list), (200, list), (200, COFFEE), (201, COFFEE), (409, crate::harness::SOLD_OUT)];
    let server = FakeServer::start(answers.repeat(2)).await;
    let lines = vec![
        "coupon list",
        "coupon list --json",
        "coupon show coffee",
        "coupon create coffee --total 100",
        "claim coffee --user alice --json",
        "--help",
        "--version",
        "coupon --help",
        "help bench",
        "token --user alice",
    ];
    (lines, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_reader_has_gone_exits_silently_with_the_status_of_sigpipe() {
    let (lines, server) = printing_commands().await;
    for line in lines {
        let ended = run(command(line, &server.url).stdout(broken_pipe()));
        assert_eq!(ended, (READER_GONE, String::new()), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_output_disk_is_full_fails_with_one_line() {
    let (lines, server) = printing_commands().await;
    for line in lines {
        let (status, said) = run(command(line, &server.url).stdout(full_disk()));
        assert_eq!((status, said.lines().count()), (1, 1), "{line}: {said}");
        assert!(said.starts_with("seckill: stdout cannot be written: No space left"), "{line}: {said}");
    }
}

#[test]
fn an_error_that_cannot_be_printed_keeps_its_exit_status() {
    let nowhere = "http://127.0.0.1:1";
    for (line, status) in
        [("", 2), ("coupon", 2), ("coupon list", 1), ("claim coffee", 2), ("serve --listen x", 2)]
    {
        for stderr in [Stdio::from(broken_pipe()), Stdio::from(full_disk())] {
            let ended = command(line, nowhere).stdout(Stdio::null()).stderr(stderr).status().unwrap();
            assert_eq!(ended.code(), Some(status), "{line}");
        }
        let ended = command(line, nowhere).stdout(broken_pipe()).stderr(broken_pipe()).status().unwrap();
        assert_eq!(ended.code(), Some(status), "{line}");
    }
}
