//! Checks whether a failover of Postgres to a standby would lose recorded orders, and would need an operator. Nothing to
//! check without a standby.

use super::finding::{Finding, pluralize};
use crate::postgres::health::Server;
use crate::postgres::timeline;

/// `own` is `synchronous_commit` of the program's own sessions.
pub fn judge(server: &Server, own: &str) -> Vec<Finding> {
    if server.in_recovery || (server.synchronous_standby_names.is_empty() && server.standbys == 0) {
        return Vec::new();
    }
    vec![standby(server, own), promotion(server)]
}

fn standby(server: &Server, own: &str) -> Finding {
    let check = "postgres-standby";
    let connected = match server.standbys {
        1 => "1 standby is connected".to_owned(),
        count => pluralize(count.unsigned_abs(), "standby is connected", "standbys are connected"),
    };
    if server.synchronous_standby_names.is_empty() {
        let what = format!("{connected}, but commits wait for none: a failover may lose recorded orders");
        let what_to_do = "alter system set synchronous_standby_names = 'ANY 1 (*)'; select pg_reload_conf(). With \
                          Patroni: synchronous_mode: true";
        return Finding::yellow(check, what, what_to_do);
    }
    if ["off", "local", "remote_write"].contains(&own) {
        let what =
            format!("synchronous_commit is {own}: a commit does not wait until a standby has it on disk");
        return Finding::yellow(
            check,
            what,
            "let a pooler pass `options` on: this program sets synchronous_commit to on",
        );
    }
    if server.standbys == 0 {
        let what = format!(
            "no standby is connected, and commits wait for one (synchronous_standby_names is {})",
            server.synchronous_standby_names
        );
        let what_to_do = "bring a standby back, or empty synchronous_standby_names: a failover may then lose recorded \
                          orders";
        return Finding::red(check, what, what_to_do);
    }
    Finding::green(check, format!("{connected}, and commits wait for synchronous_standby_names"))
}

fn promotion(server: &Server) -> Finding {
    let check = "postgres-promotion";
    if server.may_read_history {
        return Finding::green(check, "a promoted standby that has every commit needs no operator");
    }
    let what = "this role may not read which commits a promoted standby has: after each failover, claims wait for an \
                operator";
    Finding::yellow(check, what, timeline::grant(&server.role))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn server(names: &str, standbys: i64, may_read_history: bool) -> Server {
        Server {
            version_number: 150_000,
            version: "15".into(),
            in_recovery: false,
            fsync: "on".into(),
            full_page_writes: "on".into(),
            synchronous_commit: "on".into(),
            max_connections: 100,
            connections: 1,
            reserved_connections: 3,
            processes: 1,
            other_connections: 0,
            synchronous_standby_names: names.into(),
            standbys,
            may_read_history,
            role: "shop".into(),
            now_ms: 0,
        }
    }

    #[test]
    fn what_a_failover_would_lose_or_wait_for_is_named() {
        use Level::{Green, Red, Yellow};
        let levels = |server: &Server, own: &str| -> Vec<Level> {
            judge(server, own).iter().map(|finding| finding.level).collect()
        };
        assert!(judge(&server("", 0, false), "on").is_empty(), "no standby");
        assert_eq!(levels(&server("", 1, true), "on"), [Yellow, Green], "asynchronous");
        assert_eq!(levels(&server("*", 1, true), "on"), [Green, Green]);
        assert_eq!(levels(&server("*", 1, true), "local"), [Yellow, Green]);
        assert_eq!(levels(&server("*", 0, true), "on"), [Red, Green], "commits wait");
        assert_eq!(levels(&server("*", 1, false), "on"), [Green, Yellow]);
        let grant = judge(&server("*", 1, false), "on")[1].what_to_do.clone().unwrap_or_default();
        assert_eq!(grant, "grant execute on function pg_read_file(text) to \"shop\"");
    }
}
