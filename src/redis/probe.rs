//! The probe of Redis: its identity, marker and scripts, the commands that its user may not run, whether the stream can
//! grow, and whether entries are missed. `fence` judges the result.

use fred::types::Value;

use super::keys::{GROUP, Keys};
use super::lua::{self, PROBE};
use super::scripts::claim;
use super::tally::{self, Tally};
use super::{Redis, RedisError, array, marker, order_stream, script_args, server_info, text, wal_position};

/// Why no claim is accepted while the stream is full.
pub const STREAM_IS_FULL: &str =
    "the order stream in Redis can take no more entries: its last id is at the end of all ids";

/// The state of Redis that the fence compares with its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisProbe {
    /// `None` if the marker is absent or not a string.
    pub marker: Option<String>,
    pub run_id: String,
    pub replid: String,
    pub is_master: bool,
    pub has_group: bool,
    pub stream: StreamState,
    pub tally: Tally,
    /// The recorded WAL position of Postgres.
    pub postgres_lsn: Option<String>,
    pub knows_scripts: bool,
    /// Order events that are not acknowledged.
    pub backlog: u64,
    /// Why Redis refuses the writes of a claim; `None` if it does not.
    pub refusal: Option<String>,
    /// Redis's clock, ms since 1970.
    pub now_ms: i64,
}

pub async fn probe(redis: &Redis) -> Result<RedisProbe, RedisError> {
    // First: without its rights the user may not read anything else.
    let stream = probe_stream(redis).await?;
    if let Some(refusal) = stream.refusal(redis) {
        return Err(refusal);
    }
    let server = server_info::section(redis, "server").await?;
    let replication = server_info::section(redis, "replication").await?;
    let marker = match marker::read(redis).await {
        Err(RedisError::WrongType(_)) => None,
        marker => marker?,
    };
    let groups = match order_stream::groups(redis).await {
        Err(RedisError::WrongType(_)) => Vec::new(),
        groups => groups?,
    };
    let group = groups.iter().find(|group| group.name == GROUP);
    let backlog = match group {
        Some(group) => group.pending + order_stream::unread(redis, group).await?,
        None => 0,
    };
    let knows_scripts = lua::all_loaded(redis).await?;
    let refusal = match marker.as_deref().filter(|_| knows_scripts) {
        Some(marker) => claim::refusal(redis, marker).await?,
        None => None,
    };
    Ok(RedisProbe {
        marker,
        run_id: server.text("run_id"),
        replid: replication.text("master_replid"),
        is_master: replication.text("role") == "master",
        has_group: group.is_some(),
        stream: stream.state,
        tally: stream.tally,
        postgres_lsn: wal_position::read(redis).await?,
        knows_scripts,
        backlog: u64::try_from(backlog).unwrap_or(0),
        refusal,
        now_ms: server_info::now_ms(redis).await?,
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamProbe {
    /// Rules that the user lacks, as ACL SETUSER takes them. If a rule is missing, the other fields are not read.
    pub lacks: Vec<String>,
    pub state: StreamState,
    pub tally: Tally,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    Usable,
    /// The stream's last id is the highest possible: no entry can be added.
    Full,
    /// The group's last delivered id is above the stream's last id: the group would skip new entries.
    Passed,
    /// The stream or the group is gone.
    Absent,
}

impl StreamProbe {
    /// The missing rights and the command that gives them; `None` if the user has all.
    #[must_use]
    pub fn refusal(&self, redis: &Redis) -> Option<RedisError> {
        let (user, rules) = (&redis.user, self.lacks.join(" "));
        let sentence = || format!("Redis's user {user} lacks {rules}: `ACL SETUSER {user} {rules}` gives it");
        (!self.lacks.is_empty()).then(|| RedisError::NotAllowed(sentence()))
    }

    /// The result if Redis refuses the probe's script: the user may not run scripts, or may not use its keys.
    fn refused(redis: &Redis, why: &str) -> Self {
        let lack =
            if why.contains("key") { format!("~{}", redis.keys.every_key()) } else { "+eval".to_owned() };
        Self { lacks: vec![lack], state: StreamState::Absent, tally: Tally::default() }
    }
}

/// The user's rights, the state of the stream, and the tally.
pub async fn probe_stream(redis: &Redis) -> Result<StreamProbe, RedisError> {
    probe_with(redis, "rights").await
}

/// As [`probe_stream`], without the check of the rights, which takes most of the script's time.
pub async fn probe_tally(redis: &Redis) -> Result<StreamProbe, RedisError> {
    probe_with(redis, "").await
}

async fn probe_with(redis: &Redis, rights: &str) -> Result<StreamProbe, RedisError> {
    let Keys { epoch, orders, postgres_lsn, tally, .. } = &redis.keys;
    let any_coupon = redis.keys.any_coupon();
    let keys = [epoch, orders, postgres_lsn, tally].map(|key| &**key);
    let keys = keys.into_iter().chain(any_coupon.iter().map(String::as_str));
    let args = script_args(PROBE.source(), keys, [GROUP, rights]);
    let reply = match redis.call("EVAL", args).await {
        Err(RedisError::Refused(why)) if why.starts_with("NOPERM") => {
            return Ok(StreamProbe::refused(redis, &why));
        }
        reply => array(reply?, "probe")?,
    };
    let [lacks, state, now, settled] = <[Value; 4]>::try_from(reply)
        .map_err(|values| RedisError::Reply(format!("probe: {} values", values.len())))?;
    let state = match text(&state).as_deref() {
        Some("usable") => StreamState::Usable,
        Some("full") => StreamState::Full,
        Some("passed") => StreamState::Passed,
        Some("absent") => StreamState::Absent,
        other => return Err(RedisError::Reply(format!("probe: unknown state {other:?}"))),
    };
    let lacks = array(lacks, "probe: lacks")?.iter().filter_map(text).collect();
    let word = |value| text(&value).unwrap_or_default();
    Ok(StreamProbe { lacks, state, tally: Tally { now: word(now), settled: word(settled) } })
}

/// Makes Redis count again, and reads the tally. A comparison or a rebuild calls this before it reads anything else, so
/// that entries that are missed later change the tally. `None` if the marker is another one, or the stream is gone.
pub async fn recount_tally(redis: &Redis, marker: &str) -> Result<Option<Tally>, RedisError> {
    if !tally::recount(redis, marker).await? {
        return Ok(None);
    }
    Ok(Some(probe_stream(redis).await?.tally))
}
