//! `seckill audit --aof`: a log that the program wrote passes, and each changed byte is found in its transaction.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use reqwest::Method;
use seckill::aof::{self, Log, Rules, winners};
use seckill::domain::Partition;
use seckill::postgres::Postgres;
use seckill::postgres::known;
use seckill::redis::keys::Keys;
use serde_json::{Value, json};

use support::{Sale, until};

/// The name of the only file with commands, in a log that was never rewritten.
const INCREMENTAL: &str = "appendonly.aof.1.incr.aof";

fn audit(sale: &Sale, dir: &Path) -> Output {
    sale.command().args(["audit", "--json", "--aof"]).arg(dir).output().unwrap()
}

fn assert_passes(sale: &Sale) -> Value {
    let output = audit(sale, &sale.data_dir());
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&stdout).unwrap()
}

/// Exit status and message.
fn refusal(sale: &Sale, dir: &Path) -> (Option<i32>, String) {
    let output = audit(sale, dir);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A copy of the log that tests may change.
fn copied(sale: &Sale) -> PathBuf {
    let (from, to) = (sale.data_dir().join("redis/appendonlydir"), sale.dir.path().join("copy"));
    fs::create_dir(&to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    to
}

/// A sale with each kind of transaction that Redis logs for it.
async fn sold() -> Sale {
    let sale = Sale::start().await;
    sale.create_with("coffee", json!({"total": 20, "title": "Coffee beans", "reserve_seconds": 900})).await;
    sale.create_with("tea", json!({"total": 12, "per_user_limit": 2, "ends_at": "2999-01-01T00:00:00Z"}))
        .await;
    sale.create_with("line", json!({"total": 1, "waitlist": true, "reserve_seconds": 900})).await;
    let mut orders = BTreeMap::new();
    for number in 0..14 {
        let user = format!("buyer {}", "abcdefghijklmn".chars().nth(number).unwrap());
        let claimed = sale.claim("coffee", &user).await;
        orders.insert(user, claimed.body["order"].as_str().unwrap().to_owned());
    }
    for (user, key) in [("dave", "first"), ("dave", "other"), ("erin", "k"), ("pete", "longer key")] {
        let key = key.replace(' ', "-");
        assert_eq!(sale.claim_with("tea", user, &[("idempotency-key", &key)]).await.status, 202);
    }
    let held = sale.claim_with("line", "frank", &[("prefer", "wait=10")]).await;
    for user in ["grace", "wendy"] {
        let path = "/v1/coupons/line/waitlist";
        let authorization = format!("Bearer {}", sale.token(user));
        let headers = [("authorization", authorization.as_str())];
        let joined = sale.send(Method::POST, path, &headers, None).await;
        assert!((200..300).contains(&joined.status), "{}", joined.text);
    }
    sale.until_quiet().await;
    let change = async |order: &str, change: &str| {
        let path = format!("/v1/orders/{order}/{change}");
        assert_eq!(sale.admin(Method::POST, &path, None).await.status, 200);
        sale.until_quiet().await;
    };
    change(held.body["order"].as_str().unwrap(), "cancel").await;
    change(&orders["buyer c"], "cancel").await;
    change(&orders["buyer h"], "confirm").await;
    for (path, body) in [("coffee", json!({"total": 21})), ("tea", json!({"title": "Green tea"}))] {
        let path = format!("/v1/admin/coupons/{path}");
        assert_eq!(sale.admin(Method::PATCH, &path, Some(body)).await.status, 200);
    }
    let revoke = format!("/v1/admin/orders/{}/revoke", orders["buyer h"]);
    let body = json!({"reason": "fraud", "return_unit": false});
    assert_eq!(sale.admin(Method::POST, &revoke, Some(body)).await.status, 200);
    sale.until_quiet().await;
    sale
}

/// The words of the log's commands, and where each is.
fn words(log: &[u8]) -> Vec<Vec<Range<usize>>> {
    let line = |at: usize| -> (usize, usize) {
        let end = at + log[at..].windows(2).position(|pair| pair == b"\r\n").unwrap();
        (std::str::from_utf8(&log[at + 1..end]).unwrap().parse().unwrap(), end + 2)
    };
    let (mut at, mut commands) = (0, Vec::new());
    while at < log.len() {
        let (count, mut next) = line(at);
        let mut command = Vec::new();
        for _ in 0..count {
            let (length, start) = line(next);
            command.push(start..start + length);
            next = start + length + 2;
        }
        commands.push(command);
        at = next;
    }
    commands
}

/// What no rule can know about a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freedom {
    /// The name of a consumer and the time of a delivery. They only decide which worker takes an entry over, and when.
    Delivery,
    /// What the group has passed when a tally was settled. Redis counts it anew after a restart.
    Tally,
    /// A digit of a WAL position. Between its neighbours, each position detects the same lost commits; of two positions
    /// in the wrong order, either may be the changed one.
    Position,
}

fn freedoms(log: &[u8]) -> BTreeMap<usize, Freedom> {
    let mut free = BTreeMap::new();
    for command in words(log) {
        let text = |word: usize| command.get(word).map_or(&b""[..], |word| &log[word.clone()]);
        match (text(0), text(1)) {
            (b"XCLAIM", _) => {
                let bytes = command[3].clone().chain(command[7].clone());
                free.extend(bytes.map(|at| (at, Freedom::Delivery)));
            }
            (b"SET", b"seckill:{0}:postgres_lsn") => {
                free.extend(command[2].clone().map(|at| (at, Freedom::Position)));
            }
            (b"HSET", b"seckill:{0}:tally") if text(2) == b"settled" => {
                let passed = command[3].end - 1;
                free.insert(passed, Freedom::Tally);
            }
            _ => {}
        }
    }
    free
}

#[tokio::test]
async fn each_changed_byte_is_found_in_its_transaction() {
    let sale = sold().await;
    assert_passes(&sale);
    let socket = sale.postgres_socket();
    let url = format!("postgres://seckill@localhost/seckill?host={}", socket.parent().unwrap().display());
    let postgres = Postgres::new(&url, "seckill").unwrap();
    let (epoch, known) = known::coupons(&postgres.pool, Partition::DEFAULT).await.unwrap();
    let live = known::live_orders(&postgres.pool).await.unwrap();
    let mut log = Log::read(&copied(&sale)).unwrap();
    // The base file of a log that was never rewritten has no keys.
    log.files.retain(|file| !file.is_base);
    let (keys, epoch) = (Keys::new("seckill", Partition::DEFAULT), Some(epoch.to_string()));
    let rules = [Rules { keys, is_own: true, database: 0, epoch, known: Some(known) }];
    let original = log.files[0].bytes.to_vec();
    let starts = aof::starts(&log.files[0].bytes);
    let free = freedoms(&original);
    assert!(starts.len() > 40 && original.len() > 10_000, "{} bytes", original.len());
    let mut found = 0;
    let mut in_freedom = 0;
    for at in 0..original.len() {
        // Another bit for each byte, deterministically.
        let bit = 1_u8 << (at % 8);
        let mut bytes = original.clone();
        bytes[at] ^= bit;
        log.files[0].bytes = Bytes::from(bytes);
        let number = starts.partition_point(|start| *start <= at) - 1;
        let context = || {
            let near = &original[at.saturating_sub(40)..original.len().min(at + 20)];
            format!("byte {at}, bit {bit}: {}", String::from_utf8_lossy(near))
        };
        let named = match aof::replay(&log, &rules, &AtomicU64::default()) {
            Err(violation) => Some(violation.place.offset),
            Ok(replayed) => {
                assert_eq!(replayed.tail, None, "{}", context());
                let mismatches = winners::compare(&replayed.states, &live, &postgres.pool).await.unwrap();
                mismatches.first().and_then(|mismatch| mismatch.place).map(|place| place.offset)
            }
        };
        match (named, free.get(&at)) {
            (Some(offset), _) if offset == starts[number] => found += 1,
            (None, Some(_)) | (Some(_), Some(Freedom::Position)) => in_freedom += 1,
            (named, _) => panic!("named {named:?} instead of {}: {}", starts[number], context()),
        }
    }
    println!("{found} of {} changed bytes were found, {in_freedom} cannot be known", original.len());
    postgres.close().await;
}

#[tokio::test]
async fn the_command_names_file_and_byte_of_a_changed_log_and_ignores_a_cut_end() {
    let sale = Sale::start().await;
    sale.create("coffee", 9).await;
    for user in ["alice", "bob", "carol"] {
        assert_eq!(sale.claim("coffee", user).await.status, 202);
    }
    sale.until_quiet().await;
    let passed = assert_passes(&sale);
    assert_eq!(
        passed["coupons"],
        json!([{"coupon": "coffee", "total": 9, "stock": 6, "held": 3}]),
        "{passed}"
    );
    let copy = copied(&sale);
    let file = copy.join(INCREMENTAL);
    let log = fs::read(&file).unwrap();
    let with = |changed: &[u8]| fs::write(&file, changed).unwrap();

    let text = String::from_utf8(log.clone()).unwrap();
    let claim = text.find("user\r\n$3\r\nbob\r\n").unwrap();
    let start = text[..claim].rfind("*1\r\n$5\r\nMULTI\r\n").unwrap();
    with(text.replacen("user\r\n$3\r\nbob\r\n", "user\r\n$3\r\nbab\r\n", 1).as_bytes());
    let (status, message) = refusal(&sale, &copy);
    assert_eq!(status, Some(1), "{message}");
    assert!(message.starts_with(&format!("seckill: {INCREMENTAL}, byte {start}: ")), "{message}");

    with(&log[..log.len() - 3]);
    let output = sale.command().args(["audit", "--aof"]).arg(&copy).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && stdout.contains("an incomplete transaction"), "{stdout}");

    // A file whose end is missing, with another one after it.
    with(&log);
    let manifest = copy.join("appendonly.aof.manifest");
    let next = "file appendonly.aof.2.incr.aof seq 2 type i\n";
    fs::write(&manifest, fs::read_to_string(&manifest).unwrap() + next).unwrap();
    fs::write(copy.join("appendonly.aof.2.incr.aof"), "").unwrap();
    assert_eq!(refusal(&sale, &copy), (Some(0), String::new()));
    with(&log[..log.len() - 3]);
    let (status, message) = refusal(&sale, &copy);
    assert_eq!(status, Some(1), "{message}");
    assert!(message.contains("the end of the file is missing"), "{message}");

    // A row that was changed by hand: the transaction of its claim is named.
    with(&log);
    sale.psql("update orders set status = 'cancelled' where user_id = 'bob'");
    let (status, message) = refusal(&sale, &copy);
    assert_eq!(status, Some(1), "{message}");
    let expected = format!("{INCREMENTAL}, byte {start}: coupon coffee, order ");
    assert!(message.contains(&expected) && message.contains(" of bob: "), "{message}");

    // A base file with a wrong checksum.
    let base = copy.join("appendonly.aof.1.base.rdb");
    let mut bytes = fs::read(&base).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&base, bytes).unwrap();
    let (status, message) = refusal(&sale, &copy);
    assert_eq!(status, Some(1), "{message}");
    assert!(
        message.contains("appendonly.aof.1.base.rdb, byte 0: the base file cannot be loaded"),
        "{message}"
    );
}

#[tokio::test]
async fn a_log_of_rewrites_losses_and_rebuilds_passes_while_the_sale_runs() {
    let mut sale = Sale::start().await;
    sale.create_with("coffee", json!({"total": 400, "reserve_seconds": 1})).await;
    let claims = async |sale: &Sale, round: usize| {
        for number in 0..20 {
            let claimed = sale.claim("coffee", &format!("user-{round}-{number}")).await;
            assert!((200..300).contains(&claimed.status), "{}", claimed.text);
        }
    };
    claims(&sale, 0).await;
    assert_passes(&sale);
    sale.redis_cli(&["BGREWRITEAOF"]);
    claims(&sale, 1).await;
    assert_passes(&sale);
    until("Redis has rewritten its log", async || {
        let info = sale.redis_cli(&["INFO", "persistence"]);
        let ended = info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0");
        ended.then_some(())
    })
    .await;
    assert!(assert_passes(&sale)["transactions"].as_u64().is_some());
    let epoch = sale.epoch();
    // As an operator types it.
    sale.redis_cli(&["flushall"]);
    until("the fence has rebuilt", async || (sale.epoch() != epoch).then_some(())).await;
    sale.until_ready().await;
    claims(&sale, 2).await;
    assert_passes(&sale);
    sale.kill_9();
    sale.start_server().await;
    claims(&sale, 3).await;
    assert_passes(&sale);
    sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"rebuild": true}))).await;
    sale.until_ready().await;
    assert_passes(&sale);
}

#[tokio::test]
async fn a_write_by_hand_is_named_by_its_byte() {
    let sale = Sale::start().await;
    sale.create("coffee", 9).await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    sale.until_quiet().await;
    let file = sale.data_dir().join("redis/appendonlydir").join(INCREMENTAL);
    let before = fs::metadata(&file).unwrap().len();
    sale.redis_cli(&["HINCRBY", "seckill:{0}:coupon:coffee", "stock", "2"]);
    let (status, message) = refusal(&sale, &sale.data_dir());
    assert_eq!(status, Some(1), "{message}");
    let expected =
        format!("{INCREMENTAL}, byte {before}: coupon coffee: stock 10 + held 1 is not the total 9");
    assert!(message.contains(&expected), "{message}");
}

#[tokio::test]
async fn orders_that_move_between_the_reads_of_the_log_and_of_postgres_are_no_difference() {
    let sale = Sale::start().await;
    sale.create_with("coffee", json!({"total": 9, "reserve_seconds": 900})).await;
    // Each log has one order that Postgres has ended since, as in a sale in which orders always expire.
    let claimed = async |user: &str| {
        let claimed = sale.claim("coffee", user).await;
        sale.until_quiet().await;
        let log = fs::read(sale.data_dir().join("redis/appendonlydir").join(INCREMENTAL)).unwrap();
        let cancel = format!("/v1/orders/{}/cancel", claimed.body["order"].as_str().unwrap());
        assert_eq!(sale.admin(Method::POST, &cancel, None).await.status, 200);
        sale.until_quiet().await;
        log
    };
    let logs = [claimed("alice").await, claimed("bob").await];
    let copy = copied(&sale);
    let write = |log: &[u8]| {
        fs::write(copy.join("next"), log).unwrap();
        fs::rename(copy.join("next"), copy.join(INCREMENTAL)).unwrap();
    };
    write(&logs[0]);
    assert_eq!(refusal(&sale, &copy).0, Some(1), "a log that does not move has a difference");

    let lock = sale.lock_outbox().await;
    let audit = {
        let mut command = sale.command();
        command.args(["audit", "--aof"]).arg(&copy);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    until("the audit has read the first log", async || {
        let waiting = "select count(*) from pg_stat_activity
            where wait_event_type = 'Lock' and query like 'select order_id::uuid from outbox where order_id%'";
        (sale.psql_number(waiting) > 0).then_some(())
    })
    .await;
    write(&logs[1]);
    drop(lock);
    let output = audit.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
