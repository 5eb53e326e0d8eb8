//! The command line against a real server: its output, its exit status and its effect.

use serde_json::Value;

use support::{Sale, until};

struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

fn run(sale: &Sale, line: &str) -> Run {
    let output = sale.command().args(line.split(' ')).output().unwrap();
    Run {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a command that must succeed; returns its output.
#[track_caller]
fn done(sale: &Sale, line: &str) -> String {
    let run = run(sale, line);
    assert_eq!((run.status, run.stderr.as_str()), (0, ""), "{line}: {}", run.stdout);
    run.stdout
}

#[track_caller]
fn json(sale: &Sale, line: &str) -> Value {
    let text = done(sale, &format!("{line} --json"));
    assert_eq!(text.lines().count(), 1, "{line}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
}

/// Runs a command that must be refused: one line on stderr, nothing on stdout.
#[track_caller]
fn refused(sale: &Sale, line: &str, code: &str) {
    let run = run(sale, line);
    assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{line}: {}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{line}: {}", run.stderr);
    assert!(
        run.stderr.starts_with("seckill: ") && run.stderr.contains(&format!("[{code}]")),
        "{}",
        run.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_sale_is_run_from_the_command_line() {
    let sale = Sale::start().await;
    assert!(done(&sale, "coupon list").starts_with("no coupons yet"));
    let create = "coupon create coffee --total 2 --title Espresso --ends-at 2999-11-11T20:00:00+01:00 --reserve-for 1h30m";
    assert_eq!(done(&sale, create), "coffee created: open, 2/2 left\n");
    assert_eq!(done(&sale, create), "coffee existed already and is the same: open, 2/2 left\n");
    refused(&sale, "coupon create coffee --total 3", "coupon-exists");
    assert_eq!(done(&sale, "coupon create hidden --total 1 --unlisted"), "hidden created: open, 1/1 left\n");
    let listed = json(&sale, "coupon list");
    let ids: Vec<_> =
        listed["items"].as_array().unwrap().iter().map(|coupon| coupon["id"].as_str()).collect();
    assert_eq!(ids, [Some("coffee"), Some("hidden")]);
    let list = done(&sale, "coupon list");
    assert!(
        list.lines().nth(1).unwrap().starts_with("coffee  open   2/2    until 2999-11-11T19:00:00Z"),
        "{list}"
    );
    let shown = json(&sale, "coupon show coffee");
    assert_eq!((&shown["reserve_seconds"], &shown["title"]), (&5_400.into(), &"Espresso".into()));
    assert!(done(&sale, "coupon show coffee").contains("reserve_seconds  5400"));

    let claimed = json(&sale, "claim coffee --user alice --wait 10s");
    assert_eq!((&claimed["status"], &claimed["stock"]), (&"reserved".into(), &1.into()), "{claimed}");
    let again = done(&sale, "claim coffee --user alice");
    let order = claimed["order"].as_str().unwrap();
    assert_eq!(again, format!("alice has a unit of coffee already: order {order} is reserved, 1 left\n"));
    assert!(done(&sale, "claim coffee --user bob").starts_with("bob has a unit of coffee: order "));
    refused(&sale, "claim coffee --user carol", "sold-out");
    refused(&sale, "claim nothing --user carol", "unknown-coupon");
    let refusal = run(&sale, "claim coffee --user carol --json");
    let problem: Value = serde_json::from_str(&refusal.stdout).unwrap();
    assert_eq!((refusal.status, &problem["code"]), (1, &"sold-out".into()), "{}", refusal.stderr);

    assert_eq!(
        done(&sale, "coupon edit coffee --total 5 --ends-at none"),
        "coffee changed: open, 3/5 left\n"
    );
    refused(&sale, "coupon edit coffee --total 1", "total-too-low");
    refused(&sale, "coupon show nothing", "unknown-coupon");
    assert_eq!(done(&sale, "coupon pause coffee"), "coffee paused: paused, 3/5 left\n");
    refused(&sale, "claim coffee --user carol", "paused");
    assert_eq!(done(&sale, "coupon resume coffee"), "coffee resumed: open, 3/5 left\n");
    done(&sale, "coupon edit coffee --starts-at 2998-01-01T00:00:00Z");
    let early = run(&sale, "claim coffee --user carol");
    assert!(early.status == 1 && early.stderr.contains("2998-01-01T00:00:00Z"), "{}", early.stderr);

    // The server accepts the printed token.
    let token = done(&sale, "token --user alice --ttl 5m");
    let own = sale.get_as(token.trim_end(), "/v1/coupons/coffee/claims").await;
    assert_eq!(own.body["items"][0]["order"], order, "{}", own.text);

    sale.until_quiet().await;
    let stream = json(&sale, "stream status");
    assert_eq!((&stream["length"], &stream["backlog"]), (&2.into(), &0.into()), "{stream}");
    let status = done(&sale, "stream status");
    assert!(
        status.contains("fence    up: claims are accepted") && status.contains("order-writers"),
        "{status}"
    );
    assert_eq!(done(&sale, "redis-cli HGET seckill:{0}:claims:coffee alice"), format!("{order}\n"));
    assert_eq!(done(&sale, "psql -Atc table\torders").lines().count(), 2);
    assert_eq!(run(&sale, "psql -c nonsense").status, 1);
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_or_a_wrong_token_is_reported_in_one_line() {
    let mut sale = Sale::start().await;
    let wrong = sale.command().env("SECKILL_ADMIN_TOKEN", "wrong").args(["coupon", "list"]).output().unwrap();
    let stderr = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!((wrong.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("[unauthorized]") && stderr.contains("SECKILL_ADMIN_TOKEN"), "{stderr}");

    sale.signal_server(nix::sys::signal::Signal::SIGTERM);
    until("the server has ended", || std::future::ready(sale.server().ended())).await;
    for line in ["coupon list", "claim coffee --user alice", "stream status"] {
        let run = run(&sale, line);
        assert_eq!(
            (run.status, run.stdout.as_str(), run.stderr.lines().count()),
            (1, "", 1),
            "{}",
            run.stderr
        );
        assert!(run.stderr.contains("no server answers at"), "{}", run.stderr);
    }
    let tool = run(&sale, "redis-cli PING");
    assert!(tool.status == 1 && tool.stderr.contains("no stores are running"), "{}", tool.stderr);
    // `token` needs no server: the secret is in the data directory.
    assert_eq!(done(&sale, "token --user alice").lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_joins_a_waiting_list_and_leaves_it_from_the_command_line() {
    let sale = Sale::start().await;
    done(&sale, "coupon create coffee --total 1 --waitlist --reserve-for 15m");
    refused(&sale, "waitlist join coffee --user bob", "not-sold-out");
    done(&sale, "claim coffee --user alice --wait 10s");
    refused(&sale, "waitlist show coffee --user bob", "not-waiting");
    let joined = json(&sale, "waitlist join coffee --user bob");
    let order = joined["order"].as_str().unwrap();
    assert_eq!(
        done(&sale, "waitlist join coffee --user bob"),
        format!("bob waits for coffee already: place 1 of 1, order {order} comes with a unit\n")
    );
    done(&sale, "waitlist join coffee --user a/b?c");
    assert_eq!(json(&sale, "waitlist show coffee --user a/b?c")["place"], 2);
    let line = done(&sale, "waitlist list coffee");
    assert_eq!((line.lines().count(), line.contains("a/b?c")), (3, true), "{line}");
    assert_eq!(done(&sale, "coupon waitlist coffee"), line);
    assert_eq!(done(&sale, "waitlist leave coffee --user a/b?c"), "a/b?c does not wait for coffee\n");
    assert_eq!(json(&sale, "waitlist leave coffee --user a/b?c")["status"], "left");
    done(&sale, "coupon edit coffee --total 2");
    let has_unit = format!("bob has a unit of coffee: order {order} is reserved\n");
    until("bob is served", async || {
        (run(&sale, "waitlist show coffee --user bob").stdout == has_unit).then_some(())
    })
    .await;
    refused(&sale, "waitlist leave coffee --user bob", "already-served");
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_listed_by_coupon_user_and_status_and_the_changes_of_one_are_shown() {
    let sale = Sale::start().await;
    assert_eq!(done(&sale, "order list"), "no such orders are recorded\n");
    for coupon in ["coffee", "tea"] {
        done(&sale, &format!("coupon create {coupon} --total 5"));
        for user in ["alice", "bob&co"] {
            done(&sale, &format!("claim {coupon} --user {user} --wait 10s"));
        }
    }
    let users = |line: &str| -> Vec<String> {
        let listed = json(&sale, line);
        let orders = listed["items"].as_array().unwrap();
        orders.iter().map(|order| format!("{}/{}", order["coupon"], order["user"]).replace('"', "")).collect()
    };
    assert_eq!(users("order list"), ["tea/bob&co", "tea/alice", "coffee/bob&co", "coffee/alice"]);
    assert_eq!(users("order list --user bob&co"), ["tea/bob&co", "coffee/bob&co"]);
    assert_eq!(users("order list --coupon tea --user alice --status confirmed"), ["tea/alice"]);
    assert_eq!(users("order list --status reserved"), [] as [&str; 0]);
    assert_eq!(users("order list --limit 3"), ["tea/bob&co", "tea/alice", "coffee/bob&co"]);
    let text = done(&sale, "order list --limit 3");
    assert!(text.ends_with("there are more: raise --limit\n") && text.lines().count() == 5, "{text}");
    assert!(!done(&sale, "order list --limit 4").contains("there are more"));

    let order = json(&sale, "order list --coupon tea --user alice")["items"][0]["order"].clone();
    let order = order.as_str().unwrap();
    assert_eq!(
        done(&sale, &format!("order log {order}")),
        format!("no admin has changed order {order} yet\n")
    );
    done(&sale, &format!("order revoke {order} --reason twice --return-unit"));
    let log = done(&sale, &format!("order log {order}"));
    assert!(log.contains("revoke") && log.contains("twice") && !log.contains("create"), "{log}");
    // All changes name their coupon.
    let log = done(&sale, "coupon log");
    assert!(log.contains("coupon: coffee") && log.contains("coupon: tea"), "{log}");
}
