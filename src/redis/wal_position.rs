//! The key `postgres_lsn`: the highest durable WAL position that Postgres has reported. A Postgres that is behind this
//! position has lost commits.

use super::lua::{RECORD_WAL_POSITION, decode_done};
use super::{Redis, RedisError, script_args, text};

/// The recorded position; a key of another type counts as none.
pub async fn read(redis: &Redis) -> Result<Option<String>, RedisError> {
    match redis.call("GET", vec![(&*redis.keys.postgres_lsn).into()]).await {
        Err(RedisError::WrongType(_)) => Ok(None),
        lsn => Ok(text(&lsn?)),
    }
}

/// Records a position up to which Postgres is durable; `false` if the marker is another one.
pub async fn record(redis: &Redis, ready: &str, lsn: &str) -> Result<bool, RedisError> {
    let keys = [&*redis.keys.epoch, &*redis.keys.postgres_lsn];
    let args = script_args(RECORD_WAL_POSITION.sha1(), keys, [ready, lsn]);
    decode_done(&RECORD_WAL_POSITION.run(redis, args).await?, &RECORD_WAL_POSITION)
}
