//! The result of a check, and the wording that several checks share.

use std::time::Duration;

use serde::Serialize;

use crate::domain::Partition;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Green,
    /// A risk without a loss, or the check cannot read what it needs.
    Yellow,
    /// Claims are refused, or accepted claims may be lost.
    Red,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's id: it does not change between versions.
    pub check: &'static str,
    pub level: Level,
    /// The partition, of a check of one partition; `None` also if there is only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i16>,
    pub what: String,
    /// What the operator should do; `None` if the level is green.
    #[serde(rename = "do")]
    pub what_to_do: Option<String>,
}

impl Finding {
    pub fn green(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, level: Level::Green, partition: None, what: what.into(), what_to_do: None }
    }

    pub fn yellow(check: &'static str, what: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        let what_to_do = Some(what_to_do.into());
        Self { check, level: Level::Yellow, partition: None, what: what.into(), what_to_do }
    }

    pub fn red(check: &'static str, what: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self { level: Level::Red, ..Self::yellow(check, what, what_to_do) }
    }

    /// The finding, as one of this partition.
    #[must_use]
    pub fn of(self, partition: Partition) -> Self {
        Self { partition: Some(partition.number()), ..self }
    }

    /// The server does not allow the query: managed services forbid some.
    pub fn unreadable(check: &'static str, why: &str) -> Self {
        Self::yellow(check, format!("cannot be read: {why}"), "check the service's own settings")
    }
}

pub const REPAIRED_BY_SERVER: &str =
    "a running `seckill serve` or `worker` repairs it within seconds; if it does not, its log says why";

/// `1 entry`, `2 entries`.
pub fn pluralize(count: u64, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// Such as `1h 5s`.
pub fn format_seconds(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}
