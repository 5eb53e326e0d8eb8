//! Checks how a Redis Cluster or Sentinels replace a failed master. Nothing to check for a single server.

use super::finding::{Finding, pluralize};
use crate::config;
use crate::domain::Partition;
use crate::redis::{RedisServer, TopologyReport};

pub async fn examine(server: &RedisServer, partitions: &[Partition]) -> Vec<Finding> {
    match server.topology(partitions).await {
        Ok(None) => Vec::new(),
        Ok(Some(report)) => judge(&report, partitions),
        Err(error) => {
            let what_to_do = "check the nodes in REDIS_URL, their user and password";
            vec![Finding::red("redis-topology", error.to_string(), what_to_do)]
        }
    }
}

fn judge(report: &TopologyReport, partitions: &[Partition]) -> Vec<Finding> {
    let first = match report.sentinels {
        Some(count) => vec![sentinels(count)],
        None => vec![coverage(report), masters(report, partitions)],
    };
    first.into_iter().chain([timeout(report), replicas(report)]).collect()
}

fn sentinels(count: usize) -> Finding {
    let check = "redis-sentinels";
    let what = pluralize(count as u64, "Sentinel watches the master", "Sentinels watch the master");
    if count < 3 {
        return Finding::yellow(
            check,
            format!("{what}: without one of them there is no majority, and claims are refused"),
            "run at least three, on different machines",
        );
    }
    Finding::green(check, what)
}

fn coverage(report: &TopologyReport) -> Finding {
    let check = "redis-coverage";
    if report.uncovered_slots > 0 {
        let what = format!("{} of the cluster's slots have no master", report.uncovered_slots);
        return Finding::red(
            check,
            what,
            "run `redis-cli --cluster check` and `--cluster fix` against a node",
        );
    }
    if report.needs_full_coverage {
        let what =
            "cluster-require-full-coverage yes: while one master fails over, all partitions are refused";
        return Finding::yellow(check, what, "set it to no on every node, by CONFIG SET and in redis.conf");
    }
    Finding::green(check, "every slot has a master")
}

fn masters(report: &TopologyReport, partitions: &[Partition]) -> Finding {
    let check = "redis-partitions";
    let mut by_master: Vec<(&str, Vec<String>)> = Vec::new();
    for (partition, owner) in partitions.iter().zip(&report.owners) {
        let Some(owner) = owner else {
            let what = format!("the slot of partition {partition} has no master: its claims are refused");
            return Finding::red(check, what, "run `redis-cli --cluster check` against a node");
        };
        match by_master.iter_mut().find(|(master, _)| master == owner) {
            Some((_, found)) => found.push(partition.to_string()),
            None => by_master.push((owner, vec![partition.to_string()])),
        }
    }
    let shared = by_master.iter().any(|(_, found)| found.len() > 1);
    let named = by_master.iter().map(|(master, found)| {
        let word = if found.len() == 1 { "partition" } else { "partitions" };
        format!("{word} {} on {master}", found.join(", "))
    });
    let named = named.collect::<Vec<_>>().join("; ");
    let note = if shared { " (partitions on one master share its core and fail together)" } else { "" };
    Finding::green(check, format!("{named}{note}"))
}

fn timeout(report: &TopologyReport) -> Finding {
    let check = "redis-failover";
    let setting = if report.sentinels.is_some() { "down-after-milliseconds" } else { "cluster-node-timeout" };
    let Some(ms) = report.fails_after_ms else {
        return Finding::unreadable(check, &format!("{setting} is not shown"));
    };
    let least = config::FAILOVER_MIN.as_millis();
    if u128::from(ms) < least {
        let what = format!(
            "{setting} {ms}: a replica may be promoted before a stopped master has lost its session here, and claims that \
             it then accepts are lost"
        );
        return Finding::red(check, what, format!("set {setting} to at least {least}"));
    }
    Finding::green(check, format!("{setting} {ms}"))
}

fn replicas(report: &TopologyReport) -> Finding {
    let check = "redis-replicas";
    if report.without_replicas.is_empty() {
        return Finding::green(check, "every master has a replica");
    }
    let what = format!("{}: no replica can take over", report.without_replicas.join(", "));
    Finding::yellow(check, what, "add a replica to each master")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::finding::Level::{self, Green, Red, Yellow};
    use super::*;

    fn cluster() -> TopologyReport {
        let owners = ["a:1", "b:1", "a:1"].map(|owner| Some(owner.to_owned())).into();
        TopologyReport { owners, fails_after_ms: Some(5_000), ..TopologyReport::default() }
    }

    #[rstest]
    #[case(cluster(), [Green, Green, Green, Green], "partitions 0, 3 on a:1; partition 2 on b:1 (partitions on one")]
    #[case(TopologyReport { uncovered_slots: 7, ..cluster() }, [Red, Green, Green, Green], "7 of the cluster's slots")]
    #[case(TopologyReport { needs_full_coverage: true, ..cluster() }, [Yellow, Green, Green, Green], "coverage yes")]
    #[case(TopologyReport { owners: vec![None], ..cluster() }, [Green, Red, Green, Green], "slot of partition 0")]
    #[case(TopologyReport { fails_after_ms: Some(2_999), ..cluster() }, [Green, Green, Red, Green], "node-timeout 2999")]
    #[case(TopologyReport { fails_after_ms: None, ..cluster() }, [Green, Green, Yellow, Green], "cannot be read")]
    #[case(
        TopologyReport { without_replicas: vec!["b:1".into()], ..cluster() },
        [Green, Green, Green, Yellow],
        "b:1: no replica"
    )]
    fn a_cluster_is_judged_by_what_a_failover_would_do(
        #[case] report: TopologyReport,
        #[case] levels: [Level; 4],
        #[case] what: &str,
    ) {
        let partitions = [0, 2, 3].map(Partition::new);
        let findings = judge(&report, &partitions);
        let found: Vec<Level> = findings.iter().map(|finding| finding.level).collect();
        assert_eq!(found, levels, "{findings:?}");
        assert!(findings.iter().any(|finding| finding.what.contains(what)), "{findings:?}");
    }

    #[rstest]
    #[case(2, 5_000, [Yellow, Green, Green])]
    #[case(3, 2_000, [Green, Red, Green])]
    fn sentinels_are_counted_and_their_timeout_is_checked(
        #[case] count: usize,
        #[case] ms: u64,
        #[case] levels: [Level; 3],
    ) {
        let report =
            TopologyReport { sentinels: Some(count), fails_after_ms: Some(ms), ..Default::default() };
        let found: Vec<Level> = judge(&report, &[Partition::DEFAULT]).iter().map(|f| f.level).collect();
        assert_eq!(found, levels);
    }
}
