//! `seckill doctor` on real stores: each test causes one condition and checks that only its findings change.

pub mod diagnosis;

use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::deleted_entries::delete_unnoticed;
use support::external_store::{ExternalStore, folder};
use support::{Sale, signal, signal_all, until};

use self::diagnosis::{Diagnosis, diagnose, diagnose_at, diagnose_with};

const COUPON: &str = "seckill:{0}:coupon:coffee";
const ORDERS: &str = "seckill:{0}:orders";
const EPOCH: &str = "seckill:{0}:epoch";

fn postgres_url(sale: &Sale) -> String {
    format!("postgres://seckill@localhost/seckill?host={}", sale.data_dir().join("postgres").display())
}

#[tokio::test]
async fn a_server_that_has_just_started_is_green_in_every_check() {
    let sale = Sale::start().await;
    diagnose(&sale).assert_only(&[]);
    sale.create("coffee", 10).await;
    for user in ["alice", "bob"] {
        assert_eq!(sale.claim("coffee", user).await.status, 202);
    }
    sale.until_quiet().await;
    let healthy = diagnose(&sale);
    healthy.assert_only(&[]).assert("redis-stock", "green", "1 coupon").assert("workers", "green", "read");
    for finding in &healthy.findings {
        let members: Vec<&String> = finding.as_object().unwrap().keys().collect();
        assert_eq!(members, ["check", "level", "what", "do"]);
    }

    let table = sale.command().arg("doctor").output().unwrap();
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(table.status.success() && table.stderr.is_empty(), "{text}");
    assert_eq!(text.lines().count(), healthy.findings.len(), "{text}");
    assert!(text.lines().all(|line| line.starts_with("green  ")), "colours only on a terminal: {text}");
}

#[tokio::test]
async fn redis_settings_that_may_lose_claims_are_red_and_say_how_to_set_them() {
    let sale = Sale::start().await;
    let set = |name: &str, value: &str| sale.redis_cli(&["CONFIG", "SET", name, value]);
    for (name, bad, good, check, level, what) in [
        ("appendfsync", "everysec", "always", "redis-durability", "red", "appendfsync everysec"),
        ("appendfsync", "no", "always", "redis-durability", "red", "appendfsync no"),
        ("maxmemory-policy", "allkeys-lru", "noeviction", "redis-eviction", "red", "allkeys-lru"),
        ("maxmemory-policy", "volatile-ttl", "noeviction", "redis-eviction", "yellow", "volatile-ttl"),
        ("appendonly", "no", "yes", "redis-durability", "red", "appendonly no"),
    ] {
        set(name, bad);
        let found = diagnose(&sale);
        found.assert_only(&[(check, level)]).assert(check, level, what);
        assert!(found.find(check)["do"].as_str().unwrap().contains(&format!("{name} {good}")), "{name}");
        set(name, good);
    }
    let used = sale.redis_cli(&["INFO", "memory"]);
    let used = used.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().to_owned();
    let used: u64 = used.parse().unwrap();
    for (maxmemory, level) in [(used * 100 / 95, "red"), (used * 100 / 82, "yellow"), (used * 3, "green")] {
        set("maxmemory", &maxmemory.to_string());
        diagnose(&sale).assert("redis-memory", level, "maxmemory");
    }
}

#[tokio::test]
async fn settings_that_redis_does_not_show_are_yellow_and_a_refused_password_is_red() {
    let sale = Sale::start().await;
    let rights = ["~*", "+@all", "-info", "-config"];
    sale.redis_cli(&[&["ACL", "SETUSER", "guest", "on", ">right"], &rights[..]].concat());
    let url =
        |password: &str| format!("redis+unix://guest:{password}@localhost{}", sale.redis_socket().display());
    let postgres = postgres_url(&sale);
    let unreadable = ["durability", "eviction", "memory", "role", "version", "writes"];
    let unreadable: Vec<String> = unreadable.iter().map(|check| format!("redis-{check}")).collect();
    let mut expected: Vec<(&str, &str)> = unreadable.iter().map(|check| (check.as_str(), "yellow")).collect();
    // The fence itself needs INFO.
    expected.extend([("fence", "red"), ("redis-permissions", "red")]);
    let found = diagnose_at(&url("right"), &postgres, &[]);
    found.assert_only(&expected).assert("redis-durability", "yellow", "cannot be read");
    found.assert("redis-permissions", "red", "Redis's user guest lacks +info: `ACL SETUSER guest +info`");

    let refused = diagnose_at(&url("wrong"), &postgres, &[]);
    refused.assert_only(&[("redis", "red")]).assert("redis", "red", "WRONGPASS");
    refused.assert("postgres-fsync", "green", "on").assert("migrations", "green", "up to date");
    let stderr_and_all = format!("{}{:?}", refused.stderr, refused.findings);
    assert!(!stderr_and_all.contains(":wrong"), "{stderr_and_all}");

    let stranger = postgres.replace("seckill@", "stranger@");
    let refused = diagnose_at(&url("right"), &stranger, &[]);
    refused.assert("postgres", "red", "stranger").assert("redis-stock", "green", "0 coupons");
}

#[tokio::test]
async fn a_hanging_store_is_one_red_finding_and_the_other_stores_checks_still_run() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    let (redis, postgres) = (sale.redis_pid(), sale.postgres_pids());
    signal(redis, Signal::SIGSTOP);
    let found = diagnose(&sale);
    signal(redis, Signal::SIGCONT);
    found.assert_only(&[("redis", "red")]).assert("redis", "red", "Redis gave no answer");
    found.assert("postgres-stock", "green", "1 coupon").assert("dead-letters", "green", "no unseen");

    sale.until_ready().await;
    signal_all(&postgres, Signal::SIGSTOP);
    let found = diagnose(&sale);
    signal_all(&postgres, Signal::SIGCONT);
    found.assert_only(&[("postgres", "red")]).assert("postgres", "red", "Postgres");
    found.assert("redis-durability", "green", "always").assert("redis-stock", "green", "1 coupon");
}

#[tokio::test]
async fn a_loading_redis_a_replica_and_an_unreachable_redis_get_different_findings() {
    let first = ExternalStore::redis(&["--save", ""], folder());
    until("Redis answers", async || first.redis_cli(&["PING"]).ok()).await;
    let fill = "for n = 1, 4000 do redis.call('SET', n, string.rep('v', 4096)) end";
    first.redis_cli(&["EVAL", fill, "0"]).unwrap();
    first.redis_cli(&["SAVE"]).unwrap();
    let dir = first.kill_9();
    // This Redis loads for longer than any test waits.
    let slow = ["--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"];
    let loading = ExternalStore::redis(&slow, dir);
    let is_loading = async || loading.redis_cli(&["GET", "x"]).err().filter(|e| e.contains("LOADING"));
    until("Redis is loading", is_loading).await;
    let nowhere = "postgres://seckill@127.0.0.1:1/seckill";
    let found = diagnose_at(&loading.url("redis"), nowhere, &[]);
    found.assert_only(&[("redis", "red"), ("postgres", "red")]).assert("redis", "red", "LOADING");
    found.assert("postgres", "red", "refused");

    let replica = ExternalStore::redis(&["--save", "", "--replicaof", "127.0.0.1 1"], folder());
    until("the replica answers", async || replica.redis_cli(&["PING"]).ok()).await;
    let found = diagnose_at(&replica.url("redis"), nowhere, &[]);
    found.assert("redis-role", "red", "slave").assert("redis-durability", "red", "appendonly no");
    let away = diagnose_at("redis://127.0.0.1:1", nowhere, &[]);
    away.assert_only(&[("redis", "red"), ("postgres", "red")]).assert(
        "redis",
        "red",
        "Redis gave no answer: Connection refused",
    );
}

#[tokio::test]
async fn postgres_settings_that_may_lose_orders_and_a_lack_of_connections_are_red() {
    let postgres = ExternalStore::postgres(&["max_connections=12"]).await;
    let sale = Sale::start().await;
    let redis = format!("redis+unix://{}", sale.redis_socket().display());
    let diagnose = || diagnose_at(&redis, &postgres.url("postgres"), &[]);
    diagnose().assert("postgres-fsync", "green", "on").assert("postgres-full-page-writes", "green", "on");
    for (setting, check, level) in [
        ("fsync", "postgres-fsync", "red"),
        ("full_page_writes", "postgres-full-page-writes", "red"),
        // Yellow, because the program's own sessions set it to on.
        ("synchronous_commit", "postgres-synchronous-commit", "yellow"),
    ] {
        postgres.psql(&format!("alter system set {setting} = off")).unwrap();
        postgres.psql("select pg_reload_conf()").unwrap();
        let is_off = async || (postgres.psql(&format!("show {setting}")).unwrap() == "off").then_some(());
        until(&format!("{setting} is off"), is_off).await;
        let found = diagnose();
        found.assert(check, level, "off");
        assert!(found.find(check)["do"].as_str().unwrap().contains(&format!("{setting} = on")));
    }

    let mut held = Vec::new();
    for (sessions, check, level, what) in [
        (9, "postgres-connections", "yellow", "10 of 12 connections are in use"),
        // The doctor's second connection is refused.
        (11, "postgres", "red", "too many clients"),
    ] {
        while held.len() < sessions {
            let mut psql = Command::new("psql");
            psql.args(["-X", &postgres.url("postgres")]).stdin(Stdio::piped());
            held.push(psql.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
            let open = "select count(*) from pg_stat_activity where backend_type = 'client backend'";
            let all = (held.len() + 1).to_string();
            let is_open = async || postgres.psql(open).is_ok_and(|count| count == all).then_some(());
            until("the session is open", is_open).await;
        }
        diagnose().assert(check, level, what).assert("redis-durability", "green", "always");
    }
    for mut psql in held {
        psql.kill().unwrap();
        psql.wait().unwrap();
    }
}

#[tokio::test]
async fn a_schema_that_lacks_migrations_is_red_and_the_doctor_does_not_create_it() {
    let sale = Sale::start().await;
    let empty = diagnose_with(&sale, &[("SECKILL_DB_SCHEMA", "elsewhere")]);
    empty.assert_only(&[("migrations", "red")]).assert(
        "migrations",
        "red",
        "schema elsewhere lacks migrations 1, 2, 3, 4",
    );
    let schemas = "select count(*) from pg_namespace where nspname = 'elsewhere'";
    assert_eq!(sale.psql_number(schemas), 0, "the doctor created nothing");

    sale.psql("create table kept as select * from _sqlx_migrations");
    for (damage, level, what) in [
        ("delete from _sqlx_migrations where version = 4", "red", "lacks migrations 4"),
        (
            "update _sqlx_migrations set success = false where version = 3",
            "red",
            "migrations 3 failed or are not",
        ),
        (
            "update _sqlx_migrations set checksum = '\\x00' where version = 2",
            "red",
            "migrations 2 failed or are not",
        ),
        (
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                values (9000, 'later', true, '\\x00', 1)",
            "yellow",
            "has migrations 9000, which this program does not know",
        ),
    ] {
        sale.psql(damage);
        diagnose(&sale).assert_only(&[("migrations", level)]).assert("migrations", level, what);
        sale.psql("truncate _sqlx_migrations; insert into _sqlx_migrations select * from kept");
    }
    diagnose(&sale).assert_only(&[]);
}

/// The diagnosis after `damage`. Suspends the server during this time, so that it cannot repair the damage.
fn diagnose_damaged(sale: &Sale, damage: impl FnOnce()) -> Diagnosis {
    sale.signal_server(Signal::SIGSTOP);
    damage();
    let found = diagnose(sale);
    sale.signal_server(Signal::SIGCONT);
    found
}

#[tokio::test]
async fn every_disagreement_between_the_stores_is_red() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    sale.until_quiet().await;
    let epoch = sale.epoch();
    let building = format!("building:{epoch}");
    for (damage, checks, what) in [
        (&["DEL", EPOCH][..], &["fence"][..], "lost the epoch marker"),
        (&["SET", EPOCH, "ready:0-0badc0de"], &["fence"], "`ready:0-0badc0de`"),
        (&["SET", EPOCH, &building], &["fence"], "being rebuilt"),
        (&["SCRIPT", "FLUSH"], &["fence"], "does not know the program's scripts"),
        (&["XGROUP", "DESTROY", ORDERS, "order-writers"], &["fence", "order-stream"], "consumer group"),
        (&["DEL", ORDERS], &["fence", "order-stream"], "order stream"),
        (&["HSET", COUPON, "stock", "3"], &["redis-stock"], "coffee"),
        (&["DEL", COUPON], &["redis-stock"], "coffee"),
        (&["HDEL", "seckill:{0}:claims:coffee", "alice"], &["redis-stock"], "coffee"),
    ] {
        let found = diagnose_damaged(&sale, || drop(sale.redis_cli(damage)));
        let bad: Vec<(&str, &str)> = checks.iter().map(|check| (*check, "red")).collect();
        found.assert_only(&bad).assert(checks[0], "red", what);
        // A claim or a probe notices the damage, and a rebuild makes both stores agree again.
        until("claims are accepted again", async || {
            let answer = sale.claim("coffee", "alice").await;
            (answer.status == 200).then_some(())
        })
        .await;
        sale.assert_in_agreement("coffee").await;
    }
    diagnose(&sale).assert_only(&[]);

    let found = diagnose_damaged(&sale, || drop(sale.psql("update fence set postgres_lost = true")));
    found.assert_only(&[("fence", "red")]).assert("fence", "red", "Postgres has lost commits");
    assert!(found.find("fence")["do"].as_str().unwrap().contains("`seckill reconcile --rebuild`"));
    sale.psql("update fence set postgres_lost = false");
    sale.until_ready().await;
}

#[tokio::test]
async fn work_that_waits_too_long_in_postgres_is_reported_with_its_remedy() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 10).await;
    let idle = ("workers", "yellow");
    diagnose(&sale).assert_only(&[idle]).assert("workers", "yellow", "no worker reads");
    for (damage, undo, check, level, what) in [
        (
            "insert into outbox (order_id, coupon_id, user_id, created_at)
                values (gen_random_uuid(), 'coffee', 'x', now() - interval '1 hour 2 s')",
            "delete from outbox",
            "outbox",
            "yellow",
            "1 unit waits for its return to stock, the oldest for 1h",
        ),
        (
            "insert into orders (id, coupon_id, user_id, status, claimed_at, reserved_until)
                values (gen_random_uuid(), 'coffee', 'x', 'reserved', now(), now() - interval '1 hour 2 s'),
                    (gen_random_uuid(), 'coffee', 'y', 'reserved', now(), now() + interval '1 hour');
             update coupons set stock = stock - 2",
            "delete from orders; update coupons set stock = stock + 2",
            "sweeper",
            "yellow",
            "1 reserved order is past its time to pay, the oldest for 1h",
        ),
        (
            "insert into dead_letters (fields, error) values ('', 'x'), ('', 'y')",
            "update dead_letters set seen_at = now()",
            "dead-letters",
            "yellow",
            "2 order events could not be recorded",
        ),
        (
            "update coupons set stock = stock - 1",
            "update coupons set stock = stock + 1",
            "postgres-stock",
            "red",
            "coupon coffee",
        ),
    ] {
        sale.psql(damage);
        diagnose(&sale).assert_only(&[idle, (check, level)]).assert(check, level, what);
        sale.psql(undo);
    }
    let edit = "update coupons set version = version + 1, changed_at = now() - interval '1 minute'";
    let found = diagnose_damaged(&sale, || drop(sale.psql(edit)));
    found.assert_only(&[idle, ("publications", "yellow")]);
    found.assert("publications", "yellow", "1 coupon is not in force as edited");
    until("it is in force", async || {
        (sale.psql_number("select count(*) from coupons where published_version < version") == 0)
            .then_some(())
    })
    .await;
    diagnose(&sale).assert_only(&[idle]);
}

#[tokio::test]
async fn unclaimed_and_deleted_entries_are_reported_by_age_and_consumer() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 10).await;
    let idle = ("workers", "yellow");
    let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let id = format!("{}-0", now_ms - 20_000);
    sale.redis_cli(&["XADD", ORDERS, &id, "hand", "made"]);
    let late = diagnose(&sale);
    late.assert_only(&[idle, ("backlog", "yellow")]).assert(
        "backlog",
        "yellow",
        "1 order event is not recorded",
    );
    let full = diagnose_with(&sale, &[("SECKILL_MAX_BACKLOG", "0")]);
    full.assert_only(&[idle, ("backlog", "red")]).assert("backlog", "red", "SECKILL_MAX_BACKLOG");

    sale.redis_cli(&["XREADGROUP", "GROUP", "order-writers", "gone", "STREAMS", ORDERS, ">"]);
    let read = diagnose(&sale);
    read.assert_only(&[idle, ("backlog", "yellow")]).assert("pending-entries", "green", "5s");
    for (idle_ms, level) in [("30000", "yellow"), ("90000", "red")] {
        sale.redis_cli(&["XCLAIM", ORDERS, "order-writers", "gone", "0", &id, "IDLE", idle_ms]);
        let found = diagnose(&sale);
        found.assert_only(&[idle, ("backlog", "yellow"), ("pending-entries", level)]);
        found.assert(
            "pending-entries",
            level,
            "consumer gone: 1 entry is not reclaimed, the oldest idle for",
        );
        // The limit is the reclaim time in the settings of `doctor`.
        let later = diagnose_with(&sale, &[("SECKILL_RECLAIM_AFTER", "10m")]);
        later.assert("pending-entries", "green", "10m");
    }
    delete_unnoticed(&sale, &[&id]);
    let found = diagnose(&sale);
    found.assert("deleted-entries", "red", "1 pending entry was deleted or trimmed before");
    assert!(found.find("deleted-entries")["what"].as_str().unwrap().contains(&id));
    let answer = sale.admin(reqwest::Method::POST, "/v1/admin/reconcile", Some(json!({"fix": true}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    diagnose(&sale).assert("deleted-entries", "green", "").assert("backlog", "green", "");
}

#[tokio::test]
async fn a_coupon_that_differs_between_the_stores_is_red_with_its_field_and_its_remedy() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    diagnose(&sale).assert("definitions", "green", "for 1 coupon");
    let by_hand = "update coupons set";
    for (damage, what, remedy) in [
        (
            &["HSET", COUPON, "total", "110", "stock", "110"][..],
            "coffee: total: 10 in Postgres, 110 in",
            "--fix",
        ),
        (&["HSET", COUPON, "title", "Tea"], "title: coffee in Postgres, Tea in Redis", "--fix"),
        (&["HDEL", COUPON, "paused"], "paused: 0 in Postgres, nothing in Redis", "--fix"),
        (&["HSET", COUPON, "version", "0"], "version: ", "--fix"),
    ] {
        let found = diagnose_damaged(&sale, || drop(sale.redis_cli(damage)));
        found.assert_only(&[("definitions", "red")]).assert("definitions", "red", what);
        assert!(found.find("definitions")["do"].as_str().unwrap().contains(remedy));
        let fixed =
            sale.admin(reqwest::Method::POST, "/v1/admin/reconcile", Some(json!({"fix": true}))).await;
        assert_eq!(fixed.status, 200, "{}", fixed.text);
        diagnose(&sale).assert_only(&[]);
    }
    for edit in ["paused = true", "total = 12, stock = 12", "published_version = 99"] {
        let edit = format!("{by_hand} {edit}");
        let found = diagnose_damaged(&sale, || drop(sale.psql(&edit)));
        found.assert_only(&[("definitions", "red")]);
        let fixed =
            sale.admin(reqwest::Method::POST, "/v1/admin/reconcile", Some(json!({"fix": true}))).await;
        assert_eq!(fixed.status, 200, "{}", fixed.text);
        diagnose(&sale).assert_only(&[]);
    }
    let lost = diagnose_damaged(&sale, || drop(sale.redis_cli(&["HSET", COUPON, "version", "500"])));
    lost.assert("definitions", "red", "version: ");
    lost.assert_only(&[("definitions", "red"), ("fence", "red")]);
    assert!(lost.find("definitions")["do"].as_str().unwrap().contains("--rebuild"));
}
