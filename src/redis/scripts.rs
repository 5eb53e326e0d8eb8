//! The scripts that run while the fence is up, and the one decoding of their codes; the claim's own is in
//! `claim`. The numbers stand in each script's header; a test compares the two.

pub mod claim;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use fred::types::Value;

use super::keys::{GROUP, Keys};
use super::{Redis, RedisError, array, integer, script_args, text};
use crate::domain::{CouponId, Definition, OrderId, UserId};

/// A Lua script.
pub struct Script {
    pub name: &'static str,
    pub source: &'static str,
    sha1: LazyLock<String>,
}

impl Script {
    /// Its name in Redis's cache.
    pub(super) fn sha1(&'static self) -> &'static str {
        &self.sha1
    }
}

macro_rules! script {
    ($name:literal) => {
        Script {
            name: $name,
            source: include_str!(concat!("../../lua/", $name, ".lua")),
            sha1: LazyLock::new(|| fred::util::sha1_hash(include_str!(concat!("../../lua/", $name, ".lua")))),
        }
    };
}

static CLAIM: Script = script!("claim");
static PUBLISH: Script = script!("publish");
static RELEASE: Script = script!("release");
static TRIM: Script = script!("trim");
static REMOVE_CONSUMER: Script = script!("remove_consumer");
static NOTE_LSN: Script = script!("note_lsn");
static ACKNOWLEDGE: Script = script!("acknowledge");
static READD: Script = script!("readd");

/// Scripts that a rebuild loads. Only a rebuild: that Redis does not know one is how a restart shows.
pub static LOADED: [&Script; 8] =
    [&CLAIM, &PUBLISH, &RELEASE, &TRIM, &REMOVE_CONSUMER, &NOTE_LSN, &ACKNOWLEDGE, &READD];

/// Numbers of `publish.lua`'s header.
pub mod publish_code {
    pub const APPLIED: i64 = 0;
    pub const CURRENT: i64 = 1;
    pub const FENCED: i64 = 2;
    pub const LOST: i64 = 3;
}

/// Numbers of `release.lua`'s header.
pub mod release_code {
    pub const RELEASED: i64 = 0;
    pub const NOT_HELD: i64 = 1;
    pub const FENCED: i64 = 2;
    pub const LOST: i64 = 3;
}

/// Numbers of `remove_consumer.lua`'s header.
pub mod remove_consumer_code {
    pub const REMOVED: i64 = 0;
    pub const KEPT: i64 = 1;
    pub const FENCED: i64 = 2;
}

/// Numbers of `recount.lua`'s header.
pub mod recount_code {
    pub const COUNTS: i64 = 0;
    pub const FENCED: i64 = 1;
}

/// Numbers of `settle.lua`'s header.
pub mod settle_code {
    pub const SETTLED: i64 = 0;
    pub const FENCED: i64 = 1;
}

/// Numbers of `note_lsn.lua`'s header.
pub mod note_lsn_code {
    pub const NOTED: i64 = 0;
    pub const FENCED: i64 = 1;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The definition is in force.
    Applied,
    /// Redis had this version or a higher one.
    Current,
    Fenced,
    Lost,
}

/// Brings a definition into force. `just_inserted` only from the request that inserted the coupon's row:
/// nobody else may make the hash, or it would be made anew over claims.
pub async fn publish(
    redis: &Redis,
    ready: &str,
    just_inserted: bool,
    definition: &Definition,
) -> Result<Published, RedisError> {
    let more = [
        ready.into(),
        i64::from(just_inserted).into(),
        Value::from(definition.version),
        definition.total.into(),
    ];
    let mut args = script_args(PUBLISH.sha1(), redis.coupon_keys(&definition.id), more);
    args.extend(definition_fields(definition));
    match integer(&redis.call("EVALSHA", args).await?, "publish")? {
        publish_code::APPLIED => Ok(Published::Applied),
        publish_code::CURRENT => Ok(Published::Current),
        publish_code::FENCED => Ok(Published::Fenced),
        publish_code::LOST => Ok(Published::Lost),
        other => Err(RedisError::Reply(format!("publish: unknown code {other}"))),
    }
}

/// Fields of the coupon hash beside `total`, `stock` and `version`, as name, value, …
pub(crate) fn definition_fields(definition: &Definition) -> [Value; 14] {
    let ms = |time: Option<time::OffsetDateTime>| -> Value {
        time.map_or(0, |t| i64::try_from(t.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)).into()
    };
    [
        "title".into(),
        definition.title.as_str().into(),
        "starts_at_ms".into(),
        ms(definition.starts_at),
        "ends_at_ms".into(),
        ms(definition.ends_at),
        "paused".into(),
        i64::from(definition.paused).into(),
        "per_user_limit".into(),
        i64::from(definition.per_user_limit).into(),
        "reserve_seconds".into(),
        i64::from(definition.reserve_seconds.unwrap_or(0)).into(),
        "unlisted".into(),
        i64::from(definition.unlisted).into(),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// The unit went back.
    Released,
    /// There was nothing to return.
    NotHeld,
    Fenced,
    Lost,
}

/// Returns the unit of an order that has ended.
pub async fn release(
    redis: &Redis,
    ready: &str,
    coupon: &CouponId,
    field: &str,
    order: OrderId,
) -> Result<Released, RedisError> {
    let args = script_args(RELEASE.sha1(), redis.coupon_keys(coupon), [ready, field, &order.to_string()]);
    match integer(&redis.call("EVALSHA", args).await?, "release")? {
        release_code::RELEASED => Ok(Released::Released),
        release_code::NOT_HELD => Ok(Released::NotHeld),
        release_code::FENCED => Ok(Released::Fenced),
        release_code::LOST => Ok(Released::Lost),
        other => Err(RedisError::Reply(format!("release: unknown code {other}"))),
    }
}

/// Trims acknowledged entries; answers how many went, `None` behind a fence.
pub async fn trim(redis: &Redis, ready: &str, tail: u64, keep_from: &str) -> Result<Option<i64>, RedisError> {
    let tail = i64::try_from(tail).unwrap_or(i64::MAX);
    let args = script_args(
        TRIM.sha1(),
        [&*redis.keys.epoch, &*redis.keys.orders, &*redis.keys.tally],
        [ready.into(), Value::from(tail), GROUP.into(), keep_from.into()],
    );
    let removed = integer(&redis.call("EVALSHA", args).await?, "trim")?;
    Ok((removed >= 0).then_some(removed))
}

/// Removes a consumer that holds nothing and was not seen for `gone_after`; answers whether it did.
pub async fn remove_consumer(
    redis: &Redis,
    ready: &str,
    consumer: &str,
    gone_after: Duration,
) -> Result<bool, RedisError> {
    let gone_after_ms = i64::try_from(gone_after.as_millis()).unwrap_or(i64::MAX);
    let more = [ready.into(), GROUP.into(), consumer.into(), Value::from(gone_after_ms)];
    let keys = [&*redis.keys.epoch, &*redis.keys.orders];
    let args = script_args(REMOVE_CONSUMER.sha1(), keys, more);
    match integer(&redis.call("EVALSHA", args).await?, "remove_consumer")? {
        remove_consumer_code::REMOVED => Ok(true),
        remove_consumer_code::KEPT | remove_consumer_code::FENCED => Ok(false),
        other => Err(RedisError::Reply(format!("remove_consumer: unknown code {other}"))),
    }
}

/// Notes a WAL position that Postgres has made durable; answers whether it did, not behind a fence.
pub async fn note_lsn(redis: &Redis, ready: &str, lsn: &str) -> Result<bool, RedisError> {
    let keys = [&*redis.keys.epoch, &*redis.keys.postgres_lsn];
    let args = script_args(NOTE_LSN.sha1(), keys, [ready, lsn]);
    Ok(integer(&redis.call("EVALSHA", args).await?, "note_lsn")? == note_lsn_code::NOTED)
}

/// Acknowledges entries that Postgres has ended by this WAL position; answers how many were pending, `None` behind
/// a fence.
pub async fn acknowledge(
    redis: &Redis,
    ready: &str,
    lsn: &str,
    ids: impl Iterator<Item = &str>,
) -> Result<Option<i64>, RedisError> {
    let Keys { epoch, orders, postgres_lsn, tally, .. } = &redis.keys;
    let keys = [epoch, orders, postgres_lsn, tally].map(|key| &**key);
    let mut args = script_args(ACKNOWLEDGE.sha1(), keys, [ready, lsn, GROUP]);
    args.extend(ids.map(Value::from));
    let acknowledged = integer(&redis.call("EVALSHA", args).await?, "acknowledge")?;
    Ok((acknowledged >= 0).then_some(acknowledged))
}

/// Appends the events of claims that have neither entry nor row; answers how many, `None` behind a fence.
pub async fn readd(
    redis: &Redis,
    ready: &str,
    coupon: &CouponId,
    claims: &[(UserId, OrderId)],
) -> Result<Option<i64>, RedisError> {
    let keys = [&*redis.keys.epoch, &*redis.keys.orders, &redis.keys.claims(coupon)];
    let mut args = script_args(READD.sha1(), keys, [ready, coupon.as_str()]);
    for (user, order) in claims {
        args.extend([user.as_str().into(), order.to_string().into()]);
    }
    let added = integer(&redis.call("EVALSHA", args).await?, "readd")?;
    Ok((added >= 0).then_some(added))
}

/// Whether Redis knows all scripts.
pub async fn all_loaded(redis: &Redis) -> Result<bool, RedisError> {
    let mut args: Vec<Value> = vec!["EXISTS".into()];
    args.extend(LOADED.iter().map(|script| Value::from(script.sha1())));
    let known = array(redis.call("SCRIPT", args).await?, "SCRIPT EXISTS")?;
    Ok(known.len() == LOADED.len() && known.iter().all(|value| value.as_i64() == Some(1)))
}

/// Loads all scripts; a rebuild's last step but one.
pub async fn load_all(redis: &Redis) -> Result<(), RedisError> {
    for script in LOADED {
        let sha1 = redis.call("SCRIPT", vec!["LOAD".into(), script.source.into()]).await?;
        if text(&sha1).as_deref() != Some(script.sha1()) {
            return Err(RedisError::Reply(format!("SCRIPT LOAD {}: another digest than ours", script.name)));
        }
    }
    Ok(())
}

/// The epoch that a marker names, whether `ready:` or `building:`.
#[must_use]
pub fn marker_epoch(marker: &str) -> Option<&str> {
    marker.split_once(':').map(|(_, epoch)| epoch)
}

/// The marker under which claims of this epoch are accepted.
#[must_use]
pub fn ready_marker(epoch: &str) -> Arc<str> {
    format!("ready:{epoch}").into()
}
