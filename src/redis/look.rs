//! The look at what shows nowhere else: what Redis's user may not do, a stream that cannot grow, entries that are
//! missed. What comes of it is decided in `fence`.

use fred::types::Value;

use super::keys::{GROUP, Keys};
use super::script::{recount_code, settle_code};
use super::{Redis, RedisError, array, integer, script_args, text};

const LOOK: &str = include_str!("../../lua/look.lua");
const RECOUNT: &str = include_str!("../../lua/recount.lua");
const SETTLE: &str = include_str!("../../lua/settle.lua");

/// What a stream whose ids have come to an end is called.
pub const STREAM_IS_FULL: &str =
    "the order stream in Redis can take no more entries: its last id is at the end of all ids";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamLook {
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

impl StreamLook {
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

pub async fn look(redis: &Redis) -> Result<StreamLook, RedisError> {
    let Keys { epoch, orders, postgres_lsn, tally, .. } = &redis.keys;
    let [coupon, claims] = redis.keys.any_coupon();
    let keys = [epoch, orders, postgres_lsn, tally, &*coupon, &*claims];
    let args = script_args(LOOK, keys, [GROUP]);
    let reply = match redis.call("EVAL", args).await {
        Err(RedisError::Refused(why)) if why.starts_with("NOPERM") => {
            return Ok(StreamLook::refused(redis, &why));
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
    Ok(StreamLook { lacks, state, tally: Tally { now: word(now), settled: word(settled) } })
}

/// The tally that a comparison or a rebuild begins with, before it reads anything: what is missed later changes it.
/// `None` where the marker is another one, or the stream is gone.
pub async fn tally(redis: &Redis, marker: &str) -> Result<Option<Tally>, RedisError> {
    let Keys { epoch, orders, tally, .. } = &redis.keys;
    let args = script_args(RECOUNT, [epoch, orders, tally].map(|key| &**key), [marker, GROUP]);
    match integer(&redis.call("EVAL", args).await?, "recount")? {
        recount_code::COUNTS => Ok(Some(look(redis).await?.tally)),
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
