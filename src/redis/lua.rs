//! The Lua scripts: their texts and digests, the codes of their replies, and the script cache of Redis. `scripts.rs`,
//! `rebuild.rs` and the files of the keys call them.

use std::sync::LazyLock;
use std::time::Duration;

use fred::types::Value;

use super::{Redis, RedisError, array, integer, text};
use crate::metrics;

/// The codes of the scripts' replies. `lua/lib/codes.lua` has the same; a test compares the two.
pub mod code {
    pub const DONE: i64 = 0;
    pub const FENCED: i64 = 1;
    pub const INCONSISTENT: i64 = 2;
    pub const LATE: i64 = 3;
    pub const FULL: i64 = 4;
    pub const CURRENT: i64 = 5;
    pub const NOT_HELD: i64 = 6;
    pub const KEPT: i64 = 7;
    pub const CLAIMS_CHANGED: i64 = 8;
    pub const TOO_EARLY: i64 = 9;
    pub const OTHER_VERSION: i64 = 10;
}

/// Parts that scripts share. A script takes one in by a line `--@include lib/<name>`.
const LIBRARY: [(&str, &str); 10] = [
    ("lib/codes", include_str!("../../lua/lib/codes.lua")),
    ("lib/entry_id", include_str!("../../lua/lib/entry_id.lua")),
    ("lib/event", include_str!("../../lua/lib/event.lua")),
    ("lib/fields", include_str!("../../lua/lib/fields.lua")),
    ("lib/line", include_str!("../../lua/lib/line.lua")),
    ("lib/marker", include_str!("../../lua/lib/marker.lua")),
    ("lib/may", include_str!("../../lua/lib/may.lua")),
    ("lib/serve", include_str!("../../lua/lib/serve.lua")),
    ("lib/slots", include_str!("../../lua/lib/slots.lua")),
    ("lib/sum", include_str!("../../lua/lib/sum.lua")),
];

const INCLUDE: &str = "--@include ";

/// The text of `lua/<script>.lua` with the parts that it includes.
fn expand(text: &'static str) -> String {
    let lines = text.lines().flat_map(|line| [line.strip_prefix(INCLUDE).map_or(line, part), "\n"]);
    lines.collect()
}

fn part(name: &str) -> &'static str {
    let found = LIBRARY.iter().find(|(known, _)| *known == name);
    found.map(|(_, text)| *text).expect("a script includes parts of lua/lib only")
}

/// A Lua script.
pub struct Script {
    pub name: &'static str,
    source: LazyLock<String>,
    sha1: LazyLock<String>,
}

impl Script {
    /// The text that Redis gets, shared parts included.
    #[must_use]
    pub fn source(&'static self) -> &'static str {
        &self.source
    }

    /// The script's digest, which EVALSHA takes as its name.
    pub(super) fn sha1(&'static self) -> &'static str {
        &self.sha1
    }

    /// Sends the EVALSHA of a script that a rebuild has loaded; `args` begin with the digest.
    pub(super) async fn run(&self, redis: &Redis, args: Vec<Value>) -> Result<Value, RedisError> {
        metrics::EVALSHA_DURATION.time(self.name, redis.call("EVALSHA", args)).await
    }

    /// As [`run`](Self::run), with a WAIT in the same write. Also returns whether a replica has received, within this
    /// time, everything that Redis had written when the script ended. All later commands of the connection wait too.
    pub(super) async fn run_replicated(
        &self,
        redis: &Redis,
        args: Vec<Value>,
        within: Duration,
    ) -> Result<(Value, bool), RedisError> {
        // Zero would mean for ever.
        let ms = i64::try_from(within.as_millis()).unwrap_or(i64::MAX).max(1);
        let commands = [("EVALSHA", args), ("WAIT", vec![1.into(), ms.into()])];
        let [reply, replicas] = metrics::EVALSHA_DURATION.time(self.name, redis.call_both(commands)).await?;
        let has_replica = match replicas.and_then(|count| integer(&count, "WAIT")) {
            Ok(count) => count > 0,
            Err(error) => {
                tracing::debug!("WAIT: {error}");
                false
            }
        };
        Ok((reply?, has_replica))
    }
}

macro_rules! scripts {
    ($($constant:ident = $name:literal),+ $(,)?) => {
        $(pub(super) static $constant: Script = Script {
            name: $name,
            source: LazyLock::new(|| expand(include_str!(concat!("../../lua/", $name, ".lua")))),
            sha1: LazyLock::new(|| fred::util::sha1_hash($constant.source())),
        };)+

        /// Every script.
        pub static ALL: &[&Script] = &[$(&$constant),+];
    };
}

scripts! {
    ACKNOWLEDGE = "acknowledge",
    ACKNOWLEDGE_DELETED = "acknowledge_deleted",
    CLAIM = "claim",
    DEFINITIONS = "definitions",
    DELETED_ENTRIES = "deleted_entries",
    LINE_PAGE = "line_page",
    PENDING = "pending",
    PROBE = "probe",
    PUBLISH = "publish",
    REBUILD_BEGIN = "rebuild_begin",
    REBUILD_CHUNK = "rebuild_chunk",
    REBUILD_COUPON = "rebuild_coupon",
    REBUILD_EVENTS = "rebuild_events",
    REBUILD_LINE = "rebuild_line",
    REBUILD_READY = "rebuild_ready",
    REBUILD_TYPES = "rebuild_types",
    RECLAIM = "reclaim",
    RECORD_WAL_POSITION = "record_wal_position",
    RECOUNT_TALLY = "recount_tally",
    RELEASE = "release",
    REMOVE_CONSUMER = "remove_consumer",
    REQUEUE = "requeue",
    SETTLE_TALLY = "settle_tally",
    SUMS = "sums",
    TAKE = "take",
    TRIM = "trim",
    UNITS = "units",
    WAITLIST_JOIN = "waitlist_join",
    WAITLIST_LEAVE = "waitlist_leave",
    WAITLIST_SERVE = "waitlist_serve",
}

/// Scripts that only a rebuild loads. A restarted Redis does not know them, so that a probe detects the restart.
static LOADED: [&Script; 12] = [
    &CLAIM,
    &PUBLISH,
    &TAKE,
    &RELEASE,
    &TRIM,
    &REMOVE_CONSUMER,
    &RECORD_WAL_POSITION,
    &ACKNOWLEDGE,
    &REQUEUE,
    &WAITLIST_JOIN,
    &WAITLIST_LEAVE,
    &WAITLIST_SERVE,
];

/// Whether Redis knows all scripts that a rebuild loads.
pub async fn all_loaded(redis: &Redis) -> Result<bool, RedisError> {
    let mut args: Vec<Value> = vec!["EXISTS".into()];
    args.extend(LOADED.iter().map(|script| Value::from(script.sha1())));
    let known = array(redis.call("SCRIPT", args).await?, "SCRIPT EXISTS")?;
    Ok(known.len() == LOADED.len() && known.iter().all(|value| value.as_i64() == Some(1)))
}

/// Loads these scripts, after the rebuild has set the `ready` marker.
pub async fn load_all(redis: &Redis) -> Result<(), RedisError> {
    for script in LOADED {
        let sha1 = redis.call("SCRIPT", vec!["LOAD".into(), script.source().into()]).await?;
        if text(&sha1).as_deref() != Some(script.sha1()) {
            return Err(RedisError::Reply(format!("SCRIPT LOAD {}: another digest than ours", script.name)));
        }
    }
    Ok(())
}

/// Decodes the reply `code` of a script that may be fenced: `false` if nothing was written, because the marker is
/// another one or the stream is absent.
pub(super) fn decode_done(reply: &Value, script: &Script) -> Result<bool, RedisError> {
    match integer(reply, script.name)? {
        code::DONE => Ok(true),
        code::FENCED | code::INCONSISTENT => Ok(false),
        other => Err(unknown_code(script, other)),
    }
}

/// Decodes the reply `{ code, count }` of a script that may be fenced: `None` if nothing was written.
pub(super) fn decode_count(reply: Value, script: &Script) -> Result<Option<i64>, RedisError> {
    let reply = array(reply, script.name)?;
    if decode_done(reply.first().unwrap_or(&Value::Null), script)? {
        integer(reply.get(1).unwrap_or(&Value::Null), script.name).map(Some)
    } else {
        Ok(None)
    }
}

pub(super) fn unknown_code(script: &Script, code: i64) -> RedisError {
    RedisError::Reply(format!("{}: unknown code {code}", script.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_is_sent_with_the_parts_that_it_includes() {
        for script in ALL {
            let source = script.source();
            assert!(source.starts_with("#!lua"), "{}: the engine is not in the first line", script.name);
            assert!(!source.contains(INCLUDE), "{}: a part is missing", script.name);
        }
    }

    #[test]
    fn the_time_of_every_loaded_script_is_measured() {
        let unknown = LOADED.iter().find(|script| !metrics::EVALSHA_DURATION.knows(script.name));
        assert_eq!(unknown.map(|script| script.name), None);
    }

    #[test]
    fn a_reply_is_decoded_by_its_code() {
        let reply = |code, count: i64| Value::Array(vec![Value::from(code), count.into()]);
        assert_eq!(decode_count(reply(code::DONE, 7), &TRIM).unwrap(), Some(7));
        assert_eq!(decode_count(Value::Array(vec![code::FENCED.into()]), &TRIM).unwrap(), None);
        assert!(!decode_done(&code::INCONSISTENT.into(), &TRIM).unwrap());
        let unknown = decode_count(reply(code::NOT_HELD, 7), &TRIM);
        assert!(matches!(unknown, Err(RedisError::Reply(_))), "{unknown:?}");
    }
}
