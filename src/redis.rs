//! The only module that knows fred. This file has the classes of Redis's errors and reads replies; each key has its own
//! file below.

pub mod claims_hash;
mod connection;
pub mod coupon_hash;
pub mod deleted_entries;
pub mod health;
pub mod keys;
pub mod lua;
pub mod marker;
pub mod order_stream;
pub mod probe;
pub mod rebuild;
pub mod reclaim;
pub mod scripts;
mod server;
pub mod server_info;
pub mod tally;
mod topology;
pub mod units;
pub mod waitlist;
pub mod wal_position;

use fred::error::ErrorKind;
use fred::types::Value;

pub use server::{Redis, RedisServer};
pub use topology::Report as TopologyReport;

/// Why a command failed, classified by what the caller has to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RedisError {
    /// No answer: it is unknown whether the command ran.
    #[error("Redis gave no answer: {0}")]
    Unknown(String),
    /// Redis refused the whole command, or it was not sent: nothing was written. A later try may succeed.
    #[error("Redis cannot serve now: {0}")]
    Busy(String),
    /// Redis restarted, failed over or lost its scripts to SCRIPT FLUSH.
    #[error("Redis does not know our script")]
    NoScript,
    #[error("the consumer group is gone: {0}")]
    NoGroup(String),
    /// No majority of the cluster's masters, or of the Sentinels, names one master: nothing was sent.
    #[error("{0}")]
    NoMaster(String),
    /// Another node has the slot, or gets it: this one wrote nothing.
    #[error("the slot of this partition has moved to another node: {0}")]
    Moved(String),
    #[error("a key of ours holds another type: {0}")]
    WrongType(String),
    #[error("Redis refused the command: {0}")]
    Refused(String),
    /// Redis's user may not run a command that the program sends.
    #[error("{0}")]
    NotAllowed(String),
    #[error("unexpected reply from Redis: {0}")]
    Reply(String),
}

impl RedisError {
    /// Whether Redis still reads and refuses only to write: memory full, too few replicas, no disk space.
    #[must_use]
    pub fn is_about_writes(&self) -> bool {
        let words = ["OOM", "NOREPLICAS", "MISCONF"];
        matches!(self, Self::Busy(details) if words.iter().any(|word| details.starts_with(word)))
    }

    /// Whether a slot is on its way to another node and a command's keys are not on one node: the command may be sent
    /// again to the same node.
    #[must_use]
    pub fn is_about_moving_slot(&self) -> bool {
        matches!(self, Self::Busy(details) if details.starts_with("TRYAGAIN"))
    }

    /// Whether it is certain that the command wrote nothing, because Redis refused it before it ran. The error of a
    /// script that failed half-way names a line of the script.
    #[must_use]
    pub fn wrote_nothing(&self) -> bool {
        match self {
            Self::NoScript | Self::NotAllowed(_) | Self::NoMaster(_) => true,
            Self::Busy(details)
            | Self::Moved(details)
            | Self::NoGroup(details)
            | Self::WrongType(details)
            | Self::Refused(details) => !details.contains("user_script"),
            Self::Unknown(_) | Self::Reply(_) => false,
        }
    }
}

/// The only place that classifies errors of Redis.
fn classify(error: &fred::error::Error) -> RedisError {
    let details = plain(error.details());
    match details.split_whitespace().next().unwrap_or_default() {
        "NOSCRIPT" => RedisError::NoScript,
        "MOVED" | "ASK" => RedisError::Moved(details),
        // The error of a reader that was blocked when the stream was deleted or moved, or its server became a replica.
        "NOGROUP" | "UNBLOCKED" => RedisError::NoGroup(details),
        "WRONGTYPE" => RedisError::WrongType(details),
        "OOM" | "LOADING" | "BUSY" | "READONLY" | "MASTERDOWN" | "NOREPLICAS" | "MISCONF" | "CLUSTERDOWN"
        | "TRYAGAIN" => RedisError::Busy(details),
        _ => match error.kind() {
            ErrorKind::IO
            | ErrorKind::Timeout
            | ErrorKind::Canceled
            | ErrorKind::Routing
            | ErrorKind::Tls => RedisError::Unknown(details),
            ErrorKind::Backpressure => RedisError::Busy(details),
            ErrorKind::Parse | ErrorKind::Protocol => RedisError::Reply(details),
            _ => RedisError::Refused(details),
        },
    }
}

/// fred shows a system error as Rust prints it: `Os { code: 111, …, message: "Connection refused" }`.
fn plain(details: &str) -> String {
    let message = details.starts_with("Os {").then(|| details.split('"').nth(1)).flatten();
    message.unwrap_or(details).trim_end_matches('.').to_owned()
}

/// Arguments of EVAL or EVALSHA: source or digest, the number of keys, the keys, the other arguments.
pub(crate) fn script_args<K: Into<Value>, A: Into<Value>>(
    script: &'static str,
    keys: impl IntoIterator<Item = K>,
    more: impl IntoIterator<Item = A>,
) -> Vec<Value> {
    let keys: Vec<Value> = keys.into_iter().map(Into::into).collect();
    let count = i64::try_from(keys.len()).unwrap_or(i64::MAX);
    let mut args: Vec<Value> = vec![script.into(), count.into()];
    args.extend(keys);
    args.extend(more.into_iter().map(Into::into));
    args
}

/// The reply's elements; empty for nil. `what` names the reply in the error.
pub(crate) fn array(value: Value, what: &str) -> Result<Vec<Value>, RedisError> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Null => Ok(Vec::new()),
        other => Err(RedisError::Reply(format!("{what}: {:?} instead of an array", other.kind()))),
    }
}

pub(crate) fn integer(value: &Value, what: &str) -> Result<i64, RedisError> {
    value
        .as_i64()
        .ok_or_else(|| RedisError::Reply(format!("{what}: {:?} instead of an integer", value.kind())))
}

/// Text that may be absent. Bytes that are not UTF-8 count as absent.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::Integer(number) => Some(number.to_string()),
        other => other.as_str().map(std::borrow::Cow::into_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_was_refused_before_it_ran_has_written_nothing() {
        let oom = "OOM command not allowed when used memory > 'maxmemory'.".to_owned();
        let half_way = "ERR the ID is too small script: 5f1c, on @user_script:83.".to_owned();
        assert!(RedisError::Busy(oom.clone()).wrote_nothing());
        assert!(RedisError::NoScript.wrote_nothing());
        assert!(RedisError::Refused("NOPERM no permission".into()).wrote_nothing());
        assert!(!RedisError::Busy(format!("{oom} script: 5f1c, on @user_script:83.")).wrote_nothing());
        assert!(!RedisError::Refused(half_way).wrote_nothing());
        assert!(!RedisError::Unknown("timed out".into()).wrote_nothing());
        assert!(!RedisError::Reply("a map".into()).wrote_nothing());
    }

    #[test]
    fn an_error_about_a_slot_says_whether_the_session_ends() {
        let error = |text: &'static str| classify(&fred::error::Error::new(ErrorKind::Cluster, text));
        for text in ["MOVED 13907 127.0.0.1:17006", "ASK 13907 127.0.0.1:17006"] {
            let moved = error(text);
            assert!(matches!(moved, RedisError::Moved(_)) && moved.wrote_nothing(), "{moved:?}");
            assert!(moved.to_string().contains("has moved"), "{moved}");
        }
        let moving = error("TRYAGAIN Multiple keys request during rehashing of slot");
        assert!(moving.is_about_moving_slot() && moving.wrote_nothing(), "{moving:?}");
        assert!(!error("CLUSTERDOWN Hash slot not served").is_about_moving_slot());
    }

    #[test]
    fn a_system_error_is_shown_by_its_message() {
        let refused = r#"Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }"#;
        assert_eq!(plain(refused), "Connection refused");
        assert_eq!(plain(r#"ERR unknown command "X""#), r#"ERR unknown command "X""#);
        assert_eq!(plain("LOADING Redis is loading."), "LOADING Redis is loading");
    }
}
