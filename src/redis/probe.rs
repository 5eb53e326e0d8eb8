//! The look at what shows nowhere else: what Redis's user may not do, a stream that cannot grow, entries that are
//! missed. What comes of it is decided in `fence`.

use fred::types::Value;

use super::keys::{GROUP, Keys};
use super::scripts::{self, claim};
use super::scripts::{recount_code, settle_code};
use super::{Redis, RedisError, array, info, integer, order_stream, script_args, text};

const LOOK: &str = include_str!("../../lua/look.lua");
const RECOUNT: &str = include_str!("../../lua/recount.lua");
const SETTLE: &str = include_str!("../../lua/settle.lua");

/// What a stream whose ids have come to an end is called.
pub const STREAM_IS_FULL: &str =
    "the order stream in Redis can take no more entries: its last id is at the end of all ids";

/// What the fence compares with its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisProbe {
    /// `None` where the marker is absent or no string.
    pub marker: Option<String>,
    pub run_id: String,
    pub replid: String,
    pub is_master: bool,
    pub has_group: bool,
    pub stream: StreamState,
    pub tally: Tally,
    /// The highest WAL position noted; `None` where none was.
    pub postgres_lsn: Option<String>,
    pub knows_scripts: bool,
    /// Unrecorded order events.
    pub backlog: u64,
    /// Why it takes no claims though it could; `None` where it takes them.
    pub refusal: Option<String>,
    /// Redis's clock, ms since 1970.
    pub now_ms: i64,
}

pub async fn probe(redis: &Redis) -> Result<RedisProbe, RedisError> {
    // First: without its rights no other question is answered.
    let of_stream = probe_stream(redis).await?;
    if let Some(refusal) = of_stream.refusal(redis) {
        return Err(refusal);
    }
    let server = info::section(redis, "server").await?;
    let replication = info::section(redis, "replication").await?;
    let marker = match order_stream::marker(redis).await {
        Err(RedisError::WrongType(_)) => None,
        marker => marker?,
    };
    let groups = match order_stream::groups(redis).await {
        Err(RedisError::WrongType(_)) => Vec::new(),
        groups => groups?,
    };
    let group = groups.iter().find(|group| group.name == GROUP);
    let backlog = match group {
        Some(group) => group.pending + info::unread(redis, group).await?,
        None => 0,
    };
    let knows_scripts = scripts::all_loaded(redis).await?;
    let refusal = match marker.as_deref().filter(|_| knows_scripts) {
        Some(marker) => claim::refusal(redis, marker).await?,
        None => None,
    };
    Ok(RedisProbe {
        marker,
        run_id: info::line(&server, "run_id"),
        replid: info::line(&replication, "master_replid"),
        is_master: info::line(&replication, "role") == "master",
        has_group: group.is_some(),
        stream: of_stream.state,
        tally: of_stream.tally,
        postgres_lsn: info::noted_lsn(redis).await?,
        knows_scripts,
        backlog: u64::try_from(backlog).unwrap_or(0),
        refusal,
        now_ms: info::now_ms(redis).await?,
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamProbe {
    /// Rules that the user lacks, in the words of ACL SETUSER; with any of them the rest is not known.
    pub lacks: Vec<String>,
    pub state: StreamState,
    pub tally: Tally,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    Usable,
    /// Its last id is at the end of all ids.
    Full,
    /// The group stands behind the last id, and would skip what comes.
    Passed,
    /// It or the group is gone.
    Absent,
}

/// Entries that are gone or passed though no script of ours accounts for them, in the words of `look.lua`; and the
/// words of the tally whose differences were made good last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub now: String,
    pub settled: String,
}

impl Tally {
    /// Whether entries left the stream, or the group, in a way that no comparison has looked into.
    #[must_use]
    pub fn misses_entries(&self) -> bool {
        !self.now.is_empty() && self.now != self.settled
    }
}

impl StreamProbe {
    /// Why the program cannot work, and the command that helps; `None` where its user may do all it needs.
    #[must_use]
    pub fn refusal(&self, redis: &Redis) -> Option<RedisError> {
        let (user, rules) = (&redis.user, self.lacks.join(" "));
        let sentence = || format!("Redis's user {user} lacks {rules}: `ACL SETUSER {user} {rules}` gives it");
        (!self.lacks.is_empty()).then(|| RedisError::NotAllowed(sentence()))
    }

    /// Without scripts, or without the keys that this one names, nothing can be looked at.
    fn refused(redis: &Redis, why: &str) -> Self {
        let lack =
            if why.contains("key") { format!("~{}", redis.keys.every_key()) } else { "+eval".to_owned() };
        Self { lacks: vec![lack], state: StreamState::Absent, tally: Tally::default() }
    }
}

pub async fn probe_stream(redis: &Redis) -> Result<StreamProbe, RedisError> {
    let Keys { epoch, orders, postgres_lsn, tally, .. } = &redis.keys;
    let [coupon, claims] = redis.keys.any_coupon();
    let keys = [epoch, orders, postgres_lsn, tally, &*coupon, &*claims];
    let args = script_args(LOOK, keys, [GROUP]);
    let reply = match redis.call("EVAL", args).await {
        Err(RedisError::Refused(why)) if why.starts_with("NOPERM") => {
            return Ok(StreamProbe::refused(redis, &why));
        }
        reply => array(reply?, "look")?,
    };
    let [lacks, state, now, settled] = <[Value; 4]>::try_from(reply)
        .map_err(|values| RedisError::Reply(format!("look: {} values", values.len())))?;
    let state = match text(&state).as_deref() {
        Some("usable") => StreamState::Usable,
        Some("full") => StreamState::Full,
        Some("passed") => StreamState::Passed,
        Some("absent") => StreamState::Absent,
        other => return Err(RedisError::Reply(format!("look: unknown state {other:?}"))),
    };
    let lacks = array(lacks, "look: lacks")?.iter().filter_map(text).collect();
    let word = |value| text(&value).unwrap_or_default();
    Ok(StreamProbe { lacks, state, tally: Tally { now: word(now), settled: word(settled) } })
}

/// The tally that a comparison or a rebuild begins with, before it reads anything: what is missed later changes it.
/// `None` where the marker is another one, or the stream is gone.
pub async fn tally(redis: &Redis, marker: &str) -> Result<Option<Tally>, RedisError> {
    let Keys { epoch, orders, tally, .. } = &redis.keys;
    let args = script_args(RECOUNT, [epoch, orders, tally].map(|key| &**key), [marker, GROUP]);
    match integer(&redis.call("EVAL", args).await?, "recount")? {
        recount_code::COUNTS => Ok(Some(probe_stream(redis).await?.tally)),
        recount_code::FENCED => Ok(None),
        other => Err(RedisError::Reply(format!("recount: unknown code {other}"))),
    }
}

/// Notes a tally whose differences were made good; `false` where the marker is another one.
pub async fn settle(redis: &Redis, marker: &str, tally: &Tally) -> Result<bool, RedisError> {
    if !tally.misses_entries() {
        return Ok(true);
    }
    let keys = [&*redis.keys.epoch, &*redis.keys.tally];
    let args = script_args(SETTLE, keys, [marker, &tally.now]);
    match integer(&redis.call("EVAL", args).await?, "settle")? {
        settle_code::SETTLED => Ok(true),
        settle_code::FENCED => Ok(false),
        other => Err(RedisError::Reply(format!("settle: unknown code {other}"))),
    }
}
