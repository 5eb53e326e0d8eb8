//! `stream tail`, and the address that it reads: what each entry means, and what becomes of it.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use support::{Process, Sale, until};

/// A running `stream tail`.
struct Tail {
    output: PathBuf,
    process: Process,
}

impl Tail {
    fn start(sale: &Sale, args: &[&str]) -> Self {
        let output = sale.dir.path().join("tail");
        let mut command = sale.command();
        command.args(["stream", "tail"]).args(args).stdin(Stdio::null());
        let errors = sale.dir.path().join("tail-errors");
        command.stdout(File::create(&output).unwrap()).stderr(File::create(&errors).unwrap());
        Self { output, process: Process::new(command.spawn().unwrap(), errors) }
    }

    fn lines(&self) -> Vec<String> {
        std::fs::read_to_string(&self.output).unwrap().lines().map(str::to_owned).collect()
    }

    async fn until_says(&self, parts: &[&str]) {
        until(&format!("the tail says {parts:?}"), async || {
            self.lines().iter().any(|line| parts.iter().all(|part| line.contains(part))).then_some(())
        })
        .await;
    }
}

async fn entries(sale: &Sale, query: &str) -> Value {
    let answer = sale.get_as(&sale.admin_token(), &format!("/v1/admin/stream/entries{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body
}

#[tokio::test]
async fn the_tail_says_what_becomes_of_each_entry_also_after_a_restart_of_the_server() {
    let mut sale = Sale::start_with(&[("SECKILL_WORKERS", "0"), ("SECKILL_LISTEN", "127.0.0.1:0")]).await;
    sale.create("coffee", 10).await;
    let old = sale.claim("coffee", "alice").await.body["order"].as_str().unwrap().to_owned();
    let mut tail = Tail::start(&sale, &[]);
    tail.until_says(&["alice has a unit of coffee", &old, "waits for a worker"]).await;
    let new = sale.claim("coffee", "bob").await.body["order"].as_str().unwrap().to_owned();
    tail.until_says(&["bob has a unit of coffee", &new, "waits for a worker"]).await;
    let worker = sale.spawn_by_address("worker", &[], &[("SECKILL_WORKERS", "1")]);
    for order in [&old, &new] {
        tail.until_says(&[order, "is confirmed, recorded, ", " ms after the claim"]).await;
    }
    sale.redis_cli(&["XADD", "seckill:{0}:orders", "*", "order", "nonsense"]);
    tail.until_says(&["is no order event", "seckill dead list"]).await;
    let said = tail.lines().len();
    // Nothing is said twice. On a slow machine the tail also sees that the worker has the entry.
    for state in ["waits for a worker", "is confirmed, recorded"] {
        let lines = tail.lines();
        let says = |line: &&String| line.contains(&new) && line.contains(state);
        assert_eq!(lines.iter().filter(says).count(), 1, "{state}: {lines:?}");
    }
    assert!(tail.process.is_running());
    assert!(worker.stop().success());

    let port = sale.url.rsplit(':').next().unwrap().to_owned();
    sale.kill_9();
    until("the tail has noticed", async || tail.process.log().contains("no server answers").then_some(()))
        .await;
    let again =
        sale.spawn("serve", &[("SECKILL_LISTEN", &format!("127.0.0.1:{port}")), ("SECKILL_WORKERS", "1")]);
    sale.use_as_server(again).await;
    sale.until_ready().await;
    assert_eq!(sale.claim("coffee", "carol").await.status, 202);
    tail.until_says(&["carol has a unit of coffee"]).await;
    assert_eq!(tail.process.log().lines().filter(|line| line.contains("no server answers")).count(), 1);
    assert!(tail.lines().len() > said);
}

#[tokio::test]
async fn the_tail_without_following_prints_the_newest_entries_and_ends() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    for user in ["alice", "bob", "carol"] {
        assert_eq!(sale.claim("coffee", user).await.status, 202);
    }
    sale.until_quiet().await;
    let output =
        sale.command().args(["stream", "tail", "--lines", "2", "--no-follow", "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let users: Vec<_> = lines.iter().map(|line| &line["user"]).collect();
    assert_eq!(users, ["bob", "carol"]);
    assert!(lines.iter().all(|line| line["state"] == "acknowledged" && line["status"] == "confirmed"));
}

#[tokio::test]
async fn entries_are_listed_in_pages_with_their_state() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 10).await;
    sale.get("/v1/admin/stream/entries").await.assert_problem(401, "unauthorized");
    assert_eq!(entries(&sale, "").await, json!({"items": [], "next": null}));
    for user in ["alice", "bob", "carol"] {
        assert_eq!(sale.claim("coffee", user).await.status, 202);
    }
    let first = entries(&sale, "?limit=2").await;
    let second = entries(&sale, &format!("?limit=2&after={}", first["next"].as_str().unwrap())).await;
    assert_eq!(second["next"], Value::Null);
    let items = [first["items"].as_array().unwrap().as_slice(), second["items"].as_array().unwrap()].concat();
    let users: Vec<_> = items.iter().map(|item| &item["user"]).collect();
    assert_eq!(users, ["alice", "bob", "carol"]);
    assert!(items.iter().all(|item| item["state"] == "waiting" && item["status"].is_null()), "{items:?}");

    // A consumer that reads one entry and does not acknowledge it.
    let read =
        ["XREADGROUP", "GROUP", "order-writers", "w-1", "COUNT", "1", "STREAMS", "seckill:{0}:orders", ">"];
    sale.redis_cli(&read);
    let newest = entries(&sale, "?newest=true").await;
    let delivered = &newest["items"][0];
    assert_eq!((&delivered["user"], &delivered["state"]), (&json!("alice"), &json!("delivered")));
    assert_eq!((&delivered["consumer"], &delivered["deliveries"]), (&json!("w-1"), &json!(1)));
    assert_eq!(newest["items"][1]["state"], "waiting");
    for wrong in ["?after=nonsense", "?limit=0", "?newest=true&after=1-0", "?newest=2"] {
        let answer = sale.get_as(&sale.admin_token(), &format!("/v1/admin/stream/entries{wrong}")).await;
        answer.assert_problem(400, "bad-request");
    }
}
