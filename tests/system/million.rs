//! A comparison of a million claims while the sale continues: its cost in memory and in Redis.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use support::{Process, Sale, until};

const CLAIMS: &str = "seckill:{0}:claims:coffee";
const MILLION: u64 = 1_000_000;
const MEMORY_GROWTH_MAX_KB: u64 = 64 * 1_024;
/// A command that is slower than this delays the commands after it.
const SLOW_COMMAND_US: &str = "10000";
/// At most one in this many calls of a command may be slow. Another program on the machine may delay a single call, but
/// a command that is slow by itself is slow each time.
const SLOW_SHARE: u64 = 5;

/// Writes recorded orders and their claims directly into both stores, with the server stopped.
fn load_a_million(sale: &Sale) {
    sale.signal_server(Signal::SIGSTOP);
    sale.psql(
        "insert into orders (id, coupon_id, user_id, status, claimed_at)
         select gen_random_uuid(), 'coffee', 'user-' || n, 'confirmed', now() from generate_series(1, 1000000) n;
         update coupons set stock = stock - 1000000 where id = 'coffee'; analyze orders",
    );
    let fields = format!("copy (select 'HSET {CLAIMS} ' || user_id || ' ' || id from orders) to stdout");
    let mut psql = sale.command();
    let mut psql = psql.args(["psql", "-X", "-q", "-c", &fields]).stdout(Stdio::piped()).spawn().unwrap();
    let mut redis_cli = Command::new("redis-cli");
    redis_cli.arg("-s").arg(sale.redis_socket()).arg("--pipe");
    let piped = redis_cli.stdin(psql.stdout.take().unwrap()).output().unwrap();
    assert!(psql.wait().unwrap().success() && piped.status.success(), "{piped:?}");
    sale.redis_cli(&["HINCRBY", "seckill:{0}:coupon:coffee", "stock", "-1000000"]);
    assert_eq!(sale.redis_cli(&["HLEN", CLAIMS]), MILLION.to_string());
    sale.signal_server(Signal::SIGCONT);
}

fn peak_memory_kb(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Runs one comparison from the command line; returns its report.
fn compare(mut command: Command) -> Value {
    let output = command.args(["reconcile", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The number of slow commands in Redis, by name.
fn slow_commands(sale: &Sale) -> BTreeMap<String, u64> {
    let log: Value = serde_json::from_str(&sale.redis_cli(&["--json", "SLOWLOG", "GET", "-1"])).unwrap();
    let mut slow = BTreeMap::new();
    for entry in log.as_array().unwrap() {
        *slow.entry(entry[3][0].as_str().unwrap().to_lowercase()).or_default() += 1;
    }
    slow
}

/// How often a command was called, with all its subcommands.
fn calls(sale: &Sale, command: &str) -> u64 {
    let stats = sale.redis_cli(&["INFO", "commandstats"]);
    let of_command = stats.lines().filter_map(|line| {
        let (name, numbers) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        (name.split('|').next() == Some(command)).then_some(numbers)
    });
    of_command.map(|numbers| numbers.split(',').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: compares a million claims"]
async fn a_million_claims_are_compared_in_little_memory_without_delay_for_live_claims() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 2_000_000).await;
    let before_kb = peak_memory_kb(sale.server());
    load_a_million(&sale);
    sale.until_ready().await;

    sale.redis_cli(&["CONFIG", "SET", "slowlog-max-len", "1000000"]);
    sale.redis_cli(&["CONFIG", "SET", "slowlog-log-slower-than", SLOW_COMMAND_US]);
    sale.redis_cli(&["SLOWLOG", "RESET"]);
    sale.redis_cli(&["CONFIG", "RESETSTAT"]);
    let command = sale.command();
    let comparing = tokio::task::spawn_blocking(|| compare(command));
    let mut accepted = 0;
    while !comparing.is_finished() {
        let answer = sale.claim("coffee", &format!("late-{accepted}")).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        accepted += 1;
    }
    let found = comparing.await.unwrap();
    assert!(accepted > 0 && found["claims"].as_u64().unwrap() >= MILLION, "{accepted} beside {found}");
    for difference in ["lost_events", "missed_releases", "missing_claims", "stock_drift"] {
        assert_eq!(found[difference], 0, "{found}");
    }

    let slow = slow_commands(&sale);
    let peak_kb = peak_memory_kb(sale.server());
    let memory = format!("{before_kb} kB with an empty coupon, {peak_kb} kB with a million claims");
    println!("peak memory: {memory}; {accepted} claims during the comparison; slow commands: {slow:?}");
    assert!(peak_kb < before_kb + MEMORY_GROWTH_MAX_KB, "{memory}");
    for (command, times) in slow {
        let all = calls(&sale, &command);
        assert!(times * SLOW_SHARE < all, "{times} of {all} calls of {command} took Redis long");
    }
    // The comparison has read the claims hash page by page.
    assert!(calls(&sale, "hscan") >= MILLION / 1_000, "{} HSCANs", calls(&sale, "hscan"));
    for whole in ["hkeys", "hvals", "keys"] {
        assert_eq!(calls(&sale, whole), 0, "{whole}");
    }
    until("all are recorded", async || {
        (sale.psql_number("select count(*) from orders") == 1_000_000 + accepted).then_some(())
    })
    .await;
    sale.assert_in_agreement("coffee").await;
}
