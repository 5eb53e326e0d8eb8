//! Why a store failed, for the log and for errors: advice, a full disk, and the last lines of the store's own log.

use std::process::ExitStatus;

use super::store::Store;
use crate::{config, disk};

const LAST_LINES: &str = "last lines of ";

/// The advice or the state of the disk, if there is any, then the last lines that this run of the store has logged.
pub fn reason<S: Store>(store: &S) -> String {
    let path = store.log().path().display();
    let tail = store.log().tail();
    let lines = tail.as_deref().unwrap_or_default();
    let mut parts = Vec::new();
    parts.extend(store.repair_advice(lines).map(|advice| format!("{advice}; ")));
    let shortage = disk::shortage_after(&lines.concat(), &store.folder().path);
    parts.extend(shortage.map(|shortage| format!("{shortage}; ")));
    parts.push(match &tail {
        Err(e) => format!("{LAST_LINES}{path} cannot be read: {e}"),
        Ok(lines) if lines.is_empty() => format!("it wrote nothing to {path}"),
        Ok(lines) => {
            let last = lines.len().saturating_sub(config::STORE_LOG_TAIL_LINES);
            format!("{LAST_LINES}{path}: {}", lines[last..].join(" | "))
        }
    });
    parts.concat()
}

/// A reason without the lines of the log, whose timestamps differ each time.
pub fn without_log_lines(reason: &str) -> &str {
    reason.split(LAST_LINES).next().unwrap_or_default()
}

/// An exit status in words; it is unknown of a server that an earlier program has started.
pub fn describe(status: std::io::Result<Option<ExitStatus>>) -> String {
    let known = |status: ExitStatus| status.to_string();
    status.map_or_else(|e| e.to_string(), |status| status.map_or_else(|| "it was adopted".into(), known))
}
