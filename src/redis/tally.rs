//! The tally: how many entries were removed from the stream, or skipped by the group, without one of our scripts. A
//! difference from the last settled tally means that entries are missed. `lua/probe.lua` counts; this file has the
//! key's writes.

use super::keys::{GROUP, Keys};
use super::lua::{RECOUNT_TALLY, SETTLE_TALLY, decode_done};
use super::{Redis, RedisError, script_args};

/// Both texts come from `probe.lua`; a text is empty if there is no tally.
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

/// Makes Redis count the entries that the group reads, if Redis has stopped counting; `false` if the marker is another
/// one, or if the stream or the group is absent.
pub(super) async fn recount(redis: &Redis, marker: &str) -> Result<bool, RedisError> {
    let Keys { epoch, orders, tally, .. } = &redis.keys;
    let keys = [epoch, orders, tally].map(|key| &**key);
    let args = script_args(RECOUNT_TALLY.source(), keys, [marker, GROUP]);
    decode_done(&redis.call("EVAL", args).await?, &RECOUNT_TALLY)
}

/// Records a tally whose missed entries were sent again; `false` if the marker is another one.
pub async fn settle(redis: &Redis, marker: &str, tally: &Tally) -> Result<bool, RedisError> {
    if !tally.misses_entries() {
        return Ok(true);
    }
    let keys = [&*redis.keys.epoch, &*redis.keys.tally];
    let args = script_args(SETTLE_TALLY.source(), keys, [marker, &tally.now]);
    decode_done(&redis.call("EVAL", args).await?, &SETTLE_TALLY)
}
