//! What the operator sees of several partitions: `doctor`, `audit --aof`, `stream`, `coupon` and the metrics.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use support::{Sale, until};

use crate::doctor::diagnosis::{Diagnosis, diagnose};
use crate::metrics::metric;

const PARTITIONS: [i64; 3] = [0, 2, 3];
/// One coupon for each partition, in their order: a new coupon goes to the partition with the fewest.
const COUPONS: [&str; 3] = ["coffee", "juice", "tea"];

async fn sale_in_three_partitions() -> Sale {
    let sale = Sale::start_with(&[("SECKILL_PARTITIONS", "3")]).await;
    until("all partitions are up", async || (metric(&sale, "seckill_fence_up").await > 0.0).then_some(()))
        .await;
    for coupon in COUPONS {
        sale.create_with(coupon, json!({"total": 10, "waitlist": true})).await;
    }
    let spread = sale.psql("select string_agg(partition::text, ' ' order by id) from coupons");
    assert_eq!(spread, "0 2 3");
    sale
}

async fn claim_recorded(sale: &Sale, coupon: &str, user: &str) {
    let answer = sale.claim_with(coupon, user, &[("prefer", "wait=10")]).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
}

fn run(sale: &Sale, line: &str) -> Output {
    sale.command().args(line.split(' ')).output().unwrap()
}

fn stdout_of(sale: &Sale, line: &str) -> String {
    let output = run(sale, line);
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The partitions that a check has looked at; empty for a check of the whole server.
fn partitions_of(found: &Diagnosis, check: &str) -> Vec<i64> {
    let findings = found.findings.iter().filter(|finding| finding["check"] == check);
    findings.filter_map(|finding| finding["partition"].as_i64()).collect()
}

/// Checks that exactly these checks of these partitions are not green.
#[track_caller]
fn assert_bad(found: &Diagnosis, expected: &[(&str, i64)]) {
    let bad = found.findings.iter().filter(|finding| finding["level"] != "green");
    let name = |finding: &Value| {
        (finding["check"].as_str().unwrap().to_owned(), finding["partition"].as_i64().unwrap_or(-1))
    };
    let bad: BTreeSet<(String, i64)> = bad.map(name).collect();
    let expected = expected.iter().map(|(check, partition)| ((*check).to_owned(), *partition)).collect();
    assert_eq!(bad, expected, "{:#?}", found.findings);
}

#[tokio::test]
async fn the_doctor_checks_each_partition_and_names_it() {
    let sale = sale_in_three_partitions().await;
    let healthy = diagnose(&sale);
    assert_bad(&healthy, &[]);
    for check in ["order-stream", "workers", "pending-entries", "deleted-entries", "backlog"] {
        assert_eq!(partitions_of(&healthy, check), PARTITIONS, "{check}");
    }
    for check in ["fence", "redis-stock", "definitions"] {
        assert_eq!(partitions_of(&healthy, check), PARTITIONS, "{check}");
    }
    for check in ["redis-version", "redis-memory", "migrations", "outbox", "clocks"] {
        let findings = healthy.findings.iter().filter(|finding| finding["check"] == check);
        assert_eq!((findings.count(), partitions_of(&healthy, check)), (1, Vec::new()), "{check}");
    }

    for (damage, expected) in [
        (&["SET", "seckill:{2}:epoch", "ready:0-0badc0de"][..], &[("fence", 2)][..]),
        (&["DEL", "seckill:{3}:orders"], &[("fence", 3), ("order-stream", 3)]),
        (&["HSET", "seckill:{2}:coupon:juice", "stock", "3"], &[("redis-stock", 2)]),
        (&["DEL", "seckill:{3}:coupon:tea"], &[("redis-stock", 3)]),
    ] {
        sale.signal_server(Signal::SIGSTOP);
        sale.redis_cli(damage);
        let found = diagnose(&sale);
        let table = sale.command().arg("doctor").output().unwrap();
        sale.signal_server(Signal::SIGCONT);
        assert_bad(&found, expected);
        let text = String::from_utf8(table.stdout).unwrap();
        let (check, partition) = expected[0];
        let named = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.starts_with(&["red", check, "partition", &format!("{partition}:")])
        };
        assert!(text.lines().any(named), "{text}");
        let repair = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"rebuild": true}))).await;
        assert_eq!(repair.status, 200, "{}", repair.text);
        until("everything is green again", async || {
            (metric(&sale, "seckill_fence_up").await > 0.0 && diagnose(&sale).status == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_partition_that_is_down_is_named_everywhere_and_the_others_sell() {
    let sale = sale_in_three_partitions().await;
    // As after a Postgres loss in one partition, which only the operator can end.
    sale.psql("update fence set postgres_lost = true where partition = 2");
    sale.redis_cli(&["DEL", "seckill:{2}:epoch"]);
    let up = |partition: i64| format!("seckill_partition_up{{partition=\"{partition}\"}}");
    until("partition 2 is down", async || (metric(&sale, &up(2)).await < 1.0).then_some(())).await;
    for (name, value) in
        [(up(0), 1.0), (up(3), 1.0), ("seckill_fence_up".into(), 0.0), ("seckill_ready".into(), 1.0_f64)]
    {
        let found = metric(&sale, &name).await;
        assert!(found.total_cmp(&value).is_eq(), "{name} is {found}");
    }
    let ready = sale.get("/readyz?verbose").await;
    let fence = ready.body["stores"]["fence"].as_str().unwrap();
    assert!(
        ready.status == 200 && fence.starts_with("partition 2: Postgres has lost commits"),
        "{}",
        ready.text
    );

    for (coupon, status) in COUPONS.iter().zip([202, 503, 202]) {
        assert_eq!(sale.claim(coupon, "alice").await.status, status, "{coupon}");
    }
    for coupon in ["latte", "mocha"] {
        sale.create(coupon, 10).await;
    }
    assert_eq!(sale.psql("select count(*) from coupons where partition = 2"), "1");
    let found = diagnose(&sale);
    let bad: Vec<&Value> = found.findings.iter().filter(|finding| finding["level"] != "green").collect();
    assert!(bad.iter().all(|finding| finding["partition"] == 2), "{bad:#?}");
    assert!(bad.iter().any(|finding| finding["check"] == "fence" && finding["level"] == "red"), "{bad:#?}");

    let rebuilt = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"rebuild": true}))).await;
    assert_eq!(rebuilt.status, 200, "{}", rebuilt.text);
    until("partition 2 sells again", async || {
        (sale.claim("juice", "alice").await.status == 202).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_log_of_one_redis_is_audited_for_each_partition_by_its_own_epoch() {
    let sale = sale_in_three_partitions().await;
    for (coupon, users) in COUPONS.iter().zip([2, 3, 4]) {
        for number in 0..users {
            claim_recorded(&sale, coupon, &format!("user-{number}")).await;
        }
    }
    // As if one partition had agreed with another Redis: it alone is rebuilt, and the epochs are no longer the same.
    sale.psql("update fence set redis_run_id = 'another' where partition = 2");
    until("partition 2 has a new epoch", async || {
        (metric(&sale, "seckill_fence_epoch{partition=\"2\"}").await > 1.0).then_some(())
    })
    .await;
    until("partition 2 is up", async || {
        (metric(&sale, "seckill_partition_up{partition=\"2\"}").await > 0.0).then_some(())
    })
    .await;
    assert_eq!(sale.psql("select count(distinct split_part(epoch, '-', 1)) from fence"), "2");
    claim_recorded(&sale, "juice", "late").await;

    let data = sale.data_dir();
    let audit = || sale.command().args(["audit", "--json", "--aof"]).arg(&data).output().unwrap();
    let passed = audit();
    assert!(passed.status.success(), "{passed:?}");
    let report: Value = serde_json::from_slice(&passed.stdout).unwrap();
    let held = |coupon: &Value| (coupon["coupon"].clone(), coupon["held"].clone());
    let held: Vec<(Value, Value)> = report["coupons"].as_array().unwrap().iter().map(held).collect();
    assert_eq!(held, [(json!("coffee"), json!(2)), (json!("juice"), json!(4)), (json!("tea"), json!(4))]);

    // An order of another partition than that of its unit.
    sale.psql("update orders set partition = 0 where coupon_id = 'tea' and user_id = 'user-1'");
    let refused = String::from_utf8(audit().stderr).unwrap();
    assert!(refused.contains("coupon tea") && refused.contains("does not hold its unit"), "{refused}");
    sale.psql("update orders set partition = 3 where coupon_id = 'tea' and user_id = 'user-1'");
    assert!(audit().status.success());

    // A command by hand is named by its partition's rules.
    let log = fs::read_dir(data.join("redis/appendonlydir")).unwrap().map(|file| file.unwrap().path());
    let log = log.into_iter().find(|path| path.to_string_lossy().ends_with(".incr.aof")).unwrap();
    let place = fs::metadata(&log).unwrap().len();
    sale.signal_server(Signal::SIGSTOP);
    sale.redis_cli(&["HINCRBY", "seckill:{3}:coupon:tea", "stock", "1"]);
    let refused = String::from_utf8(audit().stderr).unwrap();
    sale.signal_server(Signal::SIGCONT);
    assert!(refused.contains("coupon tea: stock 7 + held 4 is not the total 10"), "{refused}");
    let byte = refused.split("byte ").nth(1).and_then(|rest| rest.split(':').next()?.parse::<u64>().ok());
    assert!(byte.is_some_and(|byte| byte >= place), "{refused}, from {place}");
}

#[tokio::test]
async fn the_commands_show_the_stream_and_the_coupons_of_a_partition() {
    let sale = sale_in_three_partitions().await;
    for coupon in COUPONS {
        claim_recorded(&sale, coupon, "alice").await;
    }
    for (partition, coupon) in PARTITIONS.iter().zip(COUPONS) {
        let status = stdout_of(&sale, &format!("stream status --json --partition {partition}"));
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["partition"], *partition, "{status}");
        assert_eq!(
            (&status["length"], &status["stream"]),
            (&json!(1), &json!(format!("seckill:{{{partition}}}:orders")))
        );
        let entries = stdout_of(&sale, &format!("stream tail --no-follow --json --partition {partition}"));
        let entries: Vec<Value> = entries.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let coupons: Vec<&Value> = entries.iter().map(|entry| &entry["coupon"]).collect();
        assert_eq!(coupons, [coupon]);
        let shown: Value =
            serde_json::from_str(&stdout_of(&sale, &format!("coupon show --json {coupon}"))).unwrap();
        assert_eq!(shown["partition"], *partition, "{shown}");
        let lines = stdout_of(&sale, &format!("coupon show {coupon}"));
        let row = lines.lines().find(|line| line.starts_with("partition "));
        let number = row.map(|row| row.split_whitespace().last().unwrap().parse::<i64>().unwrap());
        assert_eq!(number, Some(*partition).filter(|number| *number != 0), "{lines}");
    }
    let status: Value = serde_json::from_str(&stdout_of(&sale, "stream status --json")).unwrap();
    assert_eq!(status["partition"], 0);
    let list = stdout_of(&sale, "coupon list");
    assert!(list.lines().next().unwrap().starts_with("COUPON  PARTITION  STATE"), "{list}");
    let unknown = run(&sale, "stream status --partition 7");
    let text = String::from_utf8(unknown.stderr).unwrap();
    assert!(unknown.status.code() == Some(1) && text.contains("has no partition 7"), "{text}");
}

#[tokio::test]
async fn the_metrics_of_one_partition_do_not_replace_those_of_another() {
    let sale = sale_in_three_partitions().await;
    for (coupon, total) in COUPONS.iter().zip([1, 2, 3]) {
        let path = format!("/v1/admin/coupons/{coupon}");
        assert_eq!(sale.admin(Method::PATCH, &path, Some(json!({"total": total}))).await.status, 200);
        for number in 0..total {
            claim_recorded(&sale, coupon, &format!("buyer-{number}")).await;
        }
        for number in 0..total {
            let authorization = format!("Bearer {}", sale.token(&format!("user-{number}")));
            let headers = [("authorization", authorization.as_str())];
            let joined =
                sale.send(Method::POST, &format!("/v1/coupons/{coupon}/waitlist"), &headers, None).await;
            assert_eq!(joined.status, 201, "{}", joined.text);
        }
    }
    for (partition, waiting) in PARTITIONS.iter().zip([1.0, 2.0, 3.0_f64]) {
        let name = format!("seckill_waitlist_waiting{{partition=\"{partition}\"}}");
        until(&name, async || metric(&sale, &name).await.total_cmp(&waiting).is_eq().then_some(())).await;
        let name = format!("seckill_reconcile_last_timestamp_seconds{{partition=\"{partition}\"}}");
        until(&name, async || (metric(&sale, &name).await > 1.6e9).then_some(())).await;
    }
    // The comparison goes through the partitions in their order: the last one differs in nothing.
    sale.psql("update coupons set stock = stock + 1 where id = 'coffee'");
    let compared = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({}))).await;
    assert_eq!((compared.status, &compared.body["stock_drift"]), (200, &json!(1)), "{}", compared.text);
    for (partition, drift) in PARTITIONS.iter().zip([1.0, 0.0, 0.0_f64]) {
        let name = format!("seckill_reconcile_drift{{kind=\"stock_drift\",partition=\"{partition}\"}}");
        let found = metric(&sale, &name).await;
        assert!(found.total_cmp(&drift).is_eq(), "{name} is {found}");
    }
}
