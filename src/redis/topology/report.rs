//! What the operator needs to know of a cluster or of Sentinels; `doctor` judges it. Reads one node's view: a majority
//! decides only where claims go.

use std::collections::BTreeMap;

use fred::types::Value;
use fred::types::config::Config;

use super::super::RedisError;
use super::super::connection::Connection;
use super::views::{self, SlotRange};
use super::{Node, Topology};
use crate::config;

const SLOTS: usize = 16_384;

/// How masters fail over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The address of the master that has each asked slot, in the order of the slots; `None` if no master has it.
    /// Empty with Sentinels.
    pub owners: Vec<Option<String>>,
    pub uncovered_slots: usize,
    /// Masters that no replica can replace.
    pub without_replicas: Vec<String>,
    /// The shortest time without an answer after which a master counts as failed; `None` if it may not be read.
    pub fails_after_ms: Option<u64>,
    /// A cluster that refuses everything while one slot has no master.
    pub needs_full_coverage: bool,
    /// `None` with a cluster.
    pub sentinels: Option<usize>,
}

impl Topology {
    /// `None` for a single server.
    pub(in super::super) async fn report(
        &self,
        config: &Config,
        slots: &[u16],
    ) -> Result<Option<Report>, RedisError> {
        let seeds = match self {
            Self::Single => return Ok(None),
            Self::Cluster { seeds } | Self::Sentinel { seeds, .. } => seeds,
        };
        let mut failures = Vec::new();
        for seed in seeds {
            let reading = async {
                let connection = self.connect_to(config, seed).await?;
                match self {
                    Self::Sentinel { service, .. } => of_sentinel(&connection, seed, service).await,
                    _ => self.of_cluster(config, &connection, seed, slots).await,
                }
            };
            match tokio::time::timeout(config::REDIS_COMMAND_TIMEOUT, reading).await {
                Ok(Ok(report)) => return Ok(Some(report)),
                Ok(Err(error)) => failures.push(format!("{seed}: {error}")),
                Err(_) => failures.push(format!("{seed}: no answer")),
            }
        }
        Err(RedisError::NoMaster(format!("no node of REDIS_URL answers: {}", failures.join("; "))))
    }

    async fn of_cluster(
        &self,
        config: &Config,
        connection: &Connection,
        seed: &Node,
        slots: &[u16],
    ) -> Result<Report, RedisError> {
        let ranges = views::slots(connection, seed).await?;
        let mut report = summary(&ranges, slots);
        let masters: BTreeMap<&String, &Node> = ranges.iter().map(|r| (&r.master.0, &r.master.1)).collect();
        for node in masters.into_values() {
            // A master that is away has no say in how long it may be away.
            let Ok(master) = self.connect_to(config, node).await else { continue };
            let settings = settings(&master).await?;
            let timeout = settings.get("cluster-node-timeout").and_then(|text| text.parse().ok());
            report.fails_after_ms = [report.fails_after_ms, timeout].into_iter().flatten().min();
            report.needs_full_coverage |=
                settings.get("cluster-require-full-coverage").is_some_and(|set| set == "yes");
        }
        Ok(report)
    }
}

fn summary(ranges: &[SlotRange], slots: &[u16]) -> Report {
    let covered: usize = ranges.iter().map(|range| usize::from(range.last - range.first) + 1).sum();
    let owner = |slot: &u16| {
        let range = ranges.iter().find(|range| (range.first..=range.last).contains(slot));
        range.map(|range| range.master.1.to_string())
    };
    let mut without: Vec<String> =
        ranges.iter().filter(|range| range.replicas == 0).map(|range| range.master.1.to_string()).collect();
    without.sort();
    without.dedup();
    Report {
        owners: slots.iter().map(owner).collect(),
        uncovered_slots: SLOTS.saturating_sub(covered),
        without_replicas: without,
        ..Report::default()
    }
}

/// The settings of a node that concern failovers; empty if the user may not read them.
async fn settings(connection: &Connection) -> Result<BTreeMap<String, String>, RedisError> {
    let names = ["GET", "cluster-node-timeout", "cluster-require-full-coverage"];
    match connection.call("CONFIG", names.map(Value::from).into()).await {
        Err(RedisError::Refused(_)) => Ok(BTreeMap::new()),
        pairs => views::pairs(pairs?, "CONFIG GET"),
    }
}

async fn of_sentinel(connection: &Connection, seed: &Node, service: &str) -> Result<Report, RedisError> {
    let args = ["MASTER", service].map(Value::from);
    let master = views::pairs(connection.call("SENTINEL", args.into()).await?, "SENTINEL MASTER")?;
    let number = |name: &str| master.get(name).and_then(|text| text.parse::<u64>().ok());
    let view = views::of_sentinel(connection, seed, service).await?;
    let address = view.master.map(|(address, _)| address);
    Ok(Report {
        without_replicas: address.filter(|_| number("num-slaves") == Some(0)).into_iter().collect(),
        fails_after_ms: number("down-after-milliseconds"),
        sentinels: Some(view.members.len()),
        ..Report::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_the_owner_of_each_slot_and_what_is_not_covered() {
        let range = |first, last, port, replicas| {
            let node = Node { host: "h".into(), port };
            SlotRange { first, last, master: (port.to_string(), node), replicas }
        };
        let ranges = [range(0, 99, 1, 1), range(100, 100, 2, 0), range(200, 16_383, 1, 0)];
        let report = summary(&ranges, &[100, 0, 150]);
        assert_eq!(report.owners, [Some("h:2".to_owned()), Some("h:1".to_owned()), None]);
        assert_eq!(report.uncovered_slots, 99);
        assert_eq!(report.without_replicas, ["h:1", "h:2"]);
    }
}
