//! Damaged append-only files of Redis: the start fails and prints a repair command for this directory, and this command
//! works.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use support::{Sale, until};

const BASE: &str = ".base.rdb";
const INCREMENT: &str = ".incr.aof";
const MANIFEST: &str = ".manifest";

struct Damage {
    name: &'static str,
    /// The end of the damaged file's name.
    file: &'static str,
    apply: fn(&Path),
    /// The start of the command that is printed first.
    command: &'static str,
}

const DAMAGES: [Damage; 11] = [
    Damage { name: "base gone", file: BASE, apply: remove, command: "mv " },
    Damage { name: "base cut", file: BASE, apply: cut, command: "mv " },
    Damage { name: "base garbled", file: BASE, apply: garble_middle, command: "mv " },
    Damage { name: "base garbled at its beginning", file: BASE, apply: garble_beginning, command: "mv " },
    Damage { name: "manifest empty", file: MANIFEST, apply: empty, command: "mv " },
    Damage { name: "manifest garbled", file: MANIFEST, apply: garble_beginning, command: "mv " },
    Damage { name: "log gone", file: INCREMENT, apply: remove, command: "mv " },
    Damage { name: "log garbled", file: INCREMENT, apply: garble_middle, command: "redis-check-aof --fix " },
    Damage {
        name: "zeros after the log",
        file: INCREMENT,
        apply: lengthen,
        command: "redis-check-aof --fix ",
    },
    Damage { name: "files of another user", file: INCREMENT, apply: take_away, command: "chown -R " },
    Damage {
        name: "log garbled at its beginning",
        file: INCREMENT,
        apply: garble_beginning,
        command: "redis-check-aof --fix ",
    },
];

fn remove(file: &Path) {
    fs::remove_file(file).unwrap();
}

fn empty(file: &Path) {
    OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap();
}

fn cut(file: &Path) {
    let length = fs::metadata(file).unwrap().len();
    OpenOptions::new().write(true).open(file).unwrap().set_len(length / 2).unwrap();
}

/// Adds zeros, as a file system may do at the end of a file after a power failure.
fn lengthen(file: &Path) {
    let length = fs::metadata(file).unwrap().len();
    OpenOptions::new().write(true).open(file).unwrap().set_len(length + 100).unwrap();
}

/// Makes root the owner, as after a restore by root.
fn take_away(file: &Path) {
    let folder = file.parent().unwrap();
    if nix::unistd::Uid::effective().is_root() {
        std::os::unix::fs::chown(folder, Some(0), Some(0)).unwrap();
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o0)).unwrap();
}

fn garble(file: &Path, at: u64) {
    OpenOptions::new().write(true).open(file).unwrap().write_all_at(b"garbage!", at).unwrap();
}

fn garble_middle(file: &Path) {
    // Garbles the place between two commands: this damages a length and not a value.
    let bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    let at =
        bytes[middle..].windows(3).position(|three| three == b"\r\n*").map_or(middle, |at| middle + at + 2);
    garble(file, at as u64);
}

fn garble_beginning(file: &Path) {
    garble(file, 0);
}

/// The text between the first pair of backticks.
fn first_command(text: &str) -> &str {
    text.split('`').nth(1).unwrap_or_else(|| panic!("no command: {text}"))
}

#[tokio::test]
async fn an_append_only_file_that_redis_cannot_load_is_repaired_by_the_printed_command() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 1_000).await;
    let mut orders = Vec::new();
    for (number, damage) in DAMAGES.iter().enumerate() {
        // A base file of some size, and a log after it.
        sale.redis_raw(&[b"SET", b"ballast", &[b'x'; 4_000]]);
        sale.redis_raw(&[b"BGREWRITEAOF"]);
        until("the log is rewritten", async || {
            let info = sale.redis_raw(&[b"INFO", b"persistence"]);
            let is_done =
                info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0");
            is_done.then_some(())
        })
        .await;
        for part in 0..3 {
            let user = format!("user-{number}-{part}");
            let claim = sale.claim_with("coffee", &user, &[("prefer", "wait=10")]).await;
            assert_eq!(claim.status, 201, "{}", claim.text);
            orders.push(claim.body["order"].as_str().unwrap().to_owned());
        }
        sale.until_quiet().await;
        assert!(sale.stop().success());
        let folder = sale.data_dir().join("redis/appendonlydir");
        let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let mut named = files.filter(|file| file.to_str().unwrap().ends_with(damage.file));
        (damage.apply)(&named.next().unwrap());

        let mut failed = sale.spawn("serve", &[]);
        let status = failed.wait();
        assert_eq!(status.code(), Some(1), "{}: {}", damage.name, failed.log());
        let log = failed.log();
        let last_line = log.lines().last().unwrap();
        let command = first_command(last_line);
        assert!(command.starts_with(damage.command), "{}: {last_line}", damage.name);
        assert!(command.contains(folder.to_str().unwrap()), "{}: {last_line}", damage.name);
        let parts: &[&str] = match damage.command {
            "chown -R " => &["Redis may not use its own files", "nothing is lost"],
            _ => &["Redis cannot load its log", "safe in Postgres", "not recorded yet"],
        };
        for part in parts {
            let (at, lines) = (last_line.find(part), last_line.find("last lines of"));
            assert!(at.is_some() && at < lines, "{}: {last_line}", damage.name);
        }
        let shell = Command::new("sh").args(["-c", &format!("echo y | {command}")]).output().unwrap();
        assert!(shell.status.success(), "{}: {command}: {shell:?}", damage.name);

        sale.start_server().await;
        sale.assert_in_agreement("coffee").await;
    }
    orders.sort();
    sale.assert_recorded(&orders);
}
