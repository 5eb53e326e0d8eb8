//! The tally: how many entries left the stream, or were passed by the group, without a script of ours. A difference
//! from the tally that was settled last means missed entries. `lua/probe.lua` counts; this file has the key's writes.

use super::keys::{GROUP, Keys};
use super::lua::{RECOUNT_TALLY, SETTLE_TALLY, decode_done};
use super::{Redis, RedisError, script_args};

/// Both are texts of `probe.lua`; empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub now: String,
    /// The tally whose missed entries a comparison or a rebuild has sent again.
    pub settled: String,
}

impl Tally {
    /// Whether entries are missed that no comparison has searched for yet.
    #[must_use]
    pub fn misses_entries(&self) -> bool {
        !self.now.is_empty() && self.now != self.settled
    }
}

/// Makes Redis count the entries that the group reads, where it has stopped to count; `false` where the marker is
/// another one, or stream or group is absent.
pub(super) async fn recount(redis: &Redis, marker: &str) -> Result<bool, RedisError> {
    let Keys { epoch, orders, tally, .. } = &redis.keys;
    let keys = [epoch, orders, tally].map(|key| &**key);
    let args = script_args(RECOUNT_TALLY.source(), keys, [marker, GROUP]);
    decode_done(&redis.call("EVAL", args).await?, &RECOUNT_TALLY)
}

/// Records a tally whose missed entries were sent again; `false` where the marker is another one.
pub async fn settle(redis: &Redis, marker: &str, tally: &Tally) -> Result<bool, RedisError> {
    if !tally.misses_entries() {
        return Ok(true);
    }
    let keys = [&*redis.keys.epoch, &*redis.keys.tally];
    let args = script_args(SETTLE_TALLY.source(), keys, [marker, &tally.now]);
    decode_done(&redis.call("EVAL", args).await?, &SETTLE_TALLY)
}
