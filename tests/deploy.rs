//! The files in `deploy/`: promtool accepts them, every alert is tried and described, every query of the dashboard is a
//! query. `tests/system/monitoring.rs` compares them with the metrics of a server.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use seckill::config::{self, StoreAddresses};
use seckill::domain::Partition;
use seckill::redis::RedisServer;
use serde_json::Value;

/// Runs promtool in `deploy/`; fails with its output.
fn promtool(args: &[&str]) {
    let output = Command::new("promtool")
        .args(args)
        .current_dir("deploy")
        .output()
        .expect("promtool of Debian's package prometheus");
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "promtool {args:?}:\n{}", text.concat());
}

/// The values of a key in alerts.yml: one line each.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let value =
        |line: &'a str| line.trim_start().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(": ");
    text.lines().filter_map(value).collect()
}

#[test]
fn promtool_accepts_the_scrape_and_the_alerts() {
    promtool(&["check", "rules", "alerts.yml"]);
    // Without the token's file, which the operator adds.
    promtool(&["check", "config", "--syntax-only", "prometheus.yml"]);
}

#[test]
fn every_alert_fires_and_does_not_fire_as_its_test_says() {
    promtool(&["test", "rules", "alerts_test.yml"]);
    let alerts = fs::read_to_string("deploy/alerts.yml").unwrap();
    let tests = fs::read_to_string("deploy/alerts_test.yml").unwrap();
    let tried: BTreeSet<&str> = values(&tests, "name").into_iter().collect();
    let names = values(&alerts, "alert");
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        for end in ["fires", "does not fire"] {
            assert!(tried.contains(&*format!("{name} {end}")), "no test `{name} {end}`");
        }
        let fires = format!("          - labels: '{{alertname=\"{name}\"}}'\n            value: 1\n");
        assert_eq!(tests.matches(&fires).count(), 1, "{name} fires in its own test alone");
    }
}

#[test]
fn every_alert_says_how_urgent_it_is_and_has_a_section_for_the_operator() {
    let alerts = fs::read_to_string("deploy/alerts.yml").unwrap();
    let page = fs::read_to_string("docs/OPERATING.md").unwrap();
    let sections: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let names: BTreeSet<&str> = values(&alerts, "alert").into_iter().collect();
    assert_eq!(names, sections);
    for alert in alerts.split("      - alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        let severity = values(alert, "severity");
        assert!(matches!(severity[..], ["critical" | "warning"]), "{name}: {severity:?}");
        for key in ["expr", "summary", "description"] {
            assert!(values(alert, key)[0].len() > 10, "{name} has no {key}");
        }
        let runbook = format!("docs/OPERATING.md#{}", name.to_lowercase());
        assert_eq!(values(alert, "runbook_url"), [runbook], "{name}");
    }
    for section in page.split("\n### ").skip(1) {
        let section = section.split("\n## ").next().unwrap();
        let has = |part| section.contains(&format!("\n- {part}: "));
        assert!(has("Look at") && has("Do"), "a section without what to look at or to do:\n{section}");
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string("deploy/grafana.json").unwrap()).unwrap()
}

#[test]
fn every_query_of_the_dashboard_is_one() {
    let dashboard = dashboard();
    let targets =
        dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array());
    let queries: Vec<String> = targets
        .flatten()
        .map(|target| {
            let expr = target["expr"].as_str().unwrap();
            let expr = expr.replace("$__rate_interval", "5m").replace("$job", "seckill");
            assert!(!expr.contains('$'), "{expr}");
            expr
        })
        .collect();
    assert!(queries.len() > 40, "only {} queries", queries.len());
    let rule = |(number, expr): (usize, &String)| {
        format!("      - record: panel:query:{number}\n        expr: {}\n", Value::from(expr.as_str()))
    };
    let rules: String = queries.iter().enumerate().map(rule).collect();
    let rules = format!("groups:\n  - name: dashboard\n    rules:\n{rules}");
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    fs::write(file.path(), rules).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()]);
}

#[test]
fn the_panels_of_the_dashboard_have_their_own_ids_and_places() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "an id that stands twice");
    let mut cells = BTreeSet::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_i64().unwrap());
        assert!(x >= 0 && w > 0 && x + w <= 24, "{}", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{} lies on another panel", panel["title"]);
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{}", panel["title"]);
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "job"]);
}

const DEPLOYMENTS: [&str; 5] = [
    "deploy/compose.yml",
    "deploy/compose-cluster.yml",
    "deploy/compose-sentinel.yml",
    "deploy/kubernetes.yaml",
    "deploy/seckill.service",
];

/// The names of settings that a file gives to the program's environment.
fn settings_in(text: &str) -> BTreeSet<&str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let line = line.trim_start_matches("- {name: ").trim_start_matches("Environment=");
            let end = line.find([':', ',', '='])?;
            Some(&line[..end])
        })
        .filter(|name| name.starts_with("SECKILL_") || ["REDIS_URL", "DATABASE_URL"].contains(name))
        .collect()
}

#[test]
fn the_deployments_give_the_program_only_settings_that_it_has() {
    let help = |command| {
        let output = Command::new(env!("CARGO_BIN_EXE_seckill")).args([command, "--help"]).output().unwrap();
        // Without the breaks of long lines.
        String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let help = ["serve", "worker"].map(help).concat();
    for file in DEPLOYMENTS {
        let text = fs::read_to_string(file).unwrap();
        let settings = settings_in(&text);
        assert!(!settings.is_empty(), "{file}");
        for name in settings {
            let is_setting = ["=", "]"].iter().any(|end| help.contains(&format!("[env: {name}{end}")));
            assert!(is_setting, "{file} sets {name}: no setting of `serve` or `worker`");
        }
    }
}

#[test]
fn the_deployments_wait_for_the_programs_own_stop() {
    for (file, key) in [
        ("deploy/compose.yml", "  stop_grace_period: "),
        ("deploy/compose-cluster.yml", "  stop_grace_period: "),
        ("deploy/compose-sentinel.yml", "  stop_grace_period: "),
        ("deploy/kubernetes.yaml", "terminationGracePeriodSeconds: "),
        ("deploy/seckill.service", "TimeoutStopSec="),
    ] {
        let text = fs::read_to_string(file).unwrap();
        let pause =
            text.split_once("preStop:").and_then(|(_, after)| seconds(after, "seconds: ")).unwrap_or(0);
        let waits = seconds(&text, key).unwrap();
        assert!(waits > pause + config::STOP_FORCED_EXIT_AFTER.as_secs(), "{file}: {waits} s");
    }
}

#[test]
fn the_deployments_with_several_redises_name_services_that_they_have_and_fail_over_late_enough() {
    for (file, key) in [
        ("deploy/compose-cluster.yml", "--cluster-node-timeout "),
        ("deploy/compose-sentinel.yml", "sentinel down-after-milliseconds sale "),
    ] {
        let text = fs::read_to_string(file).unwrap();
        let (_, url) = text.split_once("REDIS_URL: ").unwrap();
        let url = url.lines().next().unwrap().replace("${REDIS_PASSWORD:?set REDIS_PASSWORD}", "secret");
        let address = StoreAddresses { redis_url: url.clone(), database_url: String::new() };
        assert!(RedisServer::new(&address, "seckill", Partition::DEFAULT).is_ok(), "{file}: {url}");
        let hosts: Vec<&str> = url
            .split(['@', '&', '?'])
            .filter_map(|part| part.trim_start_matches("node=").rsplit_once(':'))
            .filter(|(_, port)| ["6379", "26379"].contains(port))
            .map(|(host, _)| host)
            .collect();
        assert_eq!(hosts.len(), 3, "{url}");
        for host in hosts {
            assert!(text.contains(&format!("\n  {host}: {{<<: ")), "{file} has no service {host}");
        }
        let milliseconds = Duration::from_millis(seconds(&text, key).unwrap());
        assert!(milliseconds >= config::FAILOVER_MIN, "{file}: {milliseconds:?}");
        for setting in ["appendonly yes", "appendfsync always", "maxmemory-policy noeviction"] {
            assert!(text.contains(setting), "{file}: {setting}");
        }
    }
    let cluster = fs::read_to_string("deploy/compose-cluster.yml").unwrap();
    assert!(cluster.contains("--cluster-require-full-coverage no"));
    let partitions = seconds(&cluster, "SECKILL_PARTITIONS: \"").unwrap();
    assert_eq!(partitions, 3, "one for each master");
}

/// The number after the first such key.
fn seconds(text: &str, key: &str) -> Option<u64> {
    let digits = text.split_once(key)?.1;
    digits[..digits.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}
