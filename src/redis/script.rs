//! The scripts that run while the fence is up, and the one decoding of their codes. The numbers stand
//! in each script's header; a test compares the two.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use fred::types::Value;

use super::{Redis, RedisError, array, integer, text};
use crate::model::{Claim, ClaimOutcome, CouponId, Definition, OrderId, UserId};

/// A Lua script and its name in Redis's cache.
pub struct Script {
    pub name: &'static str,
    pub source: &'static str,
    sha1: LazyLock<String>,
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
static READD: Script = script!("readd");

/// Scripts that a rebuild loads. Only a rebuild: that Redis does not know one is how a restart shows.
pub static LOADED: [&Script; 7] = [&CLAIM, &PUBLISH, &RELEASE, &TRIM, &REMOVE_CONSUMER, &NOTE_LSN, &READD];

/// Numbers of `claim.lua`'s header.
pub mod claim_code {
    pub const STATUS_DONE: i64 = 0;
    pub const STATUS_FENCED: i64 = 1;
    pub const STATUS_LATE: i64 = 2;
    pub const STATUS_LOST: i64 = 3;
    pub const ACCEPTED: i64 = 0;
    pub const HELD: i64 = 1;
    pub const UNKNOWN_COUPON: i64 = 2;
    pub const ENDED: i64 = 3;
    pub const PAUSED: i64 = 4;
    pub const NOT_STARTED: i64 = 5;
    pub const SOLD_OUT: i64 = 6;
}

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

/// Numbers of `note_lsn.lua`'s header.
pub mod note_lsn_code {
    pub const NOTED: i64 = 0;
    pub const FENCED: i64 = 1;
}

/// What the script made of a whole batch.
#[derive(Debug, PartialEq, Eq)]
pub enum BatchOutcome {
    /// One outcome for each claim, in the order of the batch.
    Done(Vec<ClaimOutcome>),
    /// The marker is not the one sent: another epoch, or a rebuild.
    Fenced,
    /// The deadline had passed.
    Late,
    /// The stream or a coupon does not add up.
    Lost(String),
}

#[derive(Debug)]
pub struct BatchReply {
    pub outcome: BatchOutcome,
    /// Redis's clock when the script ran, ms since 1970.
    pub now_ms: i64,
}

/// Sends a batch of claims as one EVALSHA. `is_published` says whether Postgres knows the coupon as
/// published: then its absence from Redis is a loss, not an unknown id.
///
/// # Errors
/// Any of them leaves open whether the batch ran, except where `RedisError` says that nothing was written.
pub async fn claim_batch(
    redis: &Redis,
    ready: &str,
    deadline_ms: i64,
    claims: &[Claim],
    is_published: impl Fn(&CouponId) -> bool,
) -> Result<BatchReply, RedisError> {
    let groups = group_by_coupon(claims);
    let keys = 2 + 2 * groups.len();
    let mut args: Vec<Value> = Vec::with_capacity(4 + keys + 3 * groups.len() + 2 * claims.len());
    args.push(CLAIM.sha1.as_str().into());
    args.push(i64::try_from(keys).unwrap_or(i64::MAX).into());
    args.push((&*redis.keys.epoch).into());
    args.push((&*redis.keys.orders).into());
    for (coupon, _) in &groups {
        args.push(redis.keys.coupon(coupon).into());
        args.push(redis.keys.claims(coupon).into());
    }
    args.push(ready.into());
    args.push(deadline_ms.into());
    for (coupon, members) in &groups {
        args.push(coupon.as_str().into());
        args.push(i64::from(is_published(coupon)).into());
        args.push(i64::try_from(members.len()).unwrap_or(i64::MAX).into());
        for &member in members {
            args.push(claims[member].user.as_str().into());
            args.push(claims[member].order.to_string().into());
        }
    }
    let reply = array(redis.call("EVALSHA", args).await?, "claim")?;
    decode_claims(&reply, &groups, claims.len())
}

/// The batch's coupons in the order of their first claim, each with its claims in the order of arrival.
fn group_by_coupon(claims: &[Claim]) -> Vec<(&CouponId, Vec<usize>)> {
    let mut groups: Vec<(&CouponId, Vec<usize>)> = Vec::new();
    let mut places: HashMap<&CouponId, usize> = HashMap::new();
    for (index, claim) in claims.iter().enumerate() {
        let place = *places.entry(&claim.coupon).or_insert_with(|| {
            groups.push((&claim.coupon, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(index);
    }
    groups
}

fn decode_claims(
    reply: &[Value],
    groups: &[(&CouponId, Vec<usize>)],
    claims: usize,
) -> Result<BatchReply, RedisError> {
    let mut values = reply.iter();
    let mut next = || values.next().ok_or_else(|| RedisError::Reply("claim: the reply is too short".into()));
    let status = integer(next()?, "claim status")?;
    let now_ms = integer(next()?, "claim time")?;
    let outcome = match status {
        claim_code::STATUS_DONE => {
            let mut outcomes = vec![ClaimOutcome::UnknownCoupon; claims];
            for (_, members) in groups {
                let stock = integer(next()?, "stock left")?;
                let starts_at_ms = integer(next()?, "start")?;
                for &member in members {
                    let code = integer(next()?, "claim code")?;
                    outcomes[member] = decode_claim(code, next()?, stock, starts_at_ms, now_ms)?;
                }
            }
            BatchOutcome::Done(outcomes)
        }
        claim_code::STATUS_FENCED => BatchOutcome::Fenced,
        claim_code::STATUS_LATE => BatchOutcome::Late,
        claim_code::STATUS_LOST => {
            let number = usize::try_from(integer(next()?, "lost coupon")?).unwrap_or(0);
            BatchOutcome::Lost(match number.checked_sub(1).and_then(|i| groups.get(i)) {
                Some((coupon, _)) => format!("coupon {coupon}: stock + claims is not its total"),
                None => "the order stream is gone".into(),
            })
        }
        other => return Err(RedisError::Reply(format!("claim: unknown status {other}"))),
    };
    Ok(BatchReply { outcome, now_ms })
}

fn decode_claim(
    code: i64,
    value: &Value,
    stock: i64,
    starts_at_ms: i64,
    now_ms: i64,
) -> Result<ClaimOutcome, RedisError> {
    Ok(match code {
        claim_code::ACCEPTED => ClaimOutcome::Accepted { stock: integer(value, "stock")?.max(0) },
        claim_code::HELD => ClaimOutcome::Held { order: held_order(value)?, stock: stock.max(0) },
        claim_code::UNKNOWN_COUPON => ClaimOutcome::UnknownCoupon,
        claim_code::ENDED => ClaimOutcome::Ended,
        claim_code::PAUSED => ClaimOutcome::Paused,
        claim_code::NOT_STARTED => ClaimOutcome::NotStarted { starts_at_ms, now_ms },
        claim_code::SOLD_OUT => ClaimOutcome::SoldOut,
        other => return Err(RedisError::Reply(format!("claim: unknown code {other}"))),
    })
}

/// The order in a value of the claims hash, `<order>` or `<order> <key>`.
pub(crate) fn held_order(value: &Value) -> Result<OrderId, RedisError> {
    text(value)
        .and_then(|text| text.split(' ').next().and_then(|order| order.parse().ok()))
        .ok_or_else(|| RedisError::Reply("the claims hash holds something else than an order id".into()))
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
    let mut args = coupon_args(&PUBLISH, redis, &definition.id);
    args.push(ready.into());
    args.push(i64::from(just_inserted).into());
    args.push(definition.version.into());
    args.push(definition.total.into());
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
    let mut args = coupon_args(&RELEASE, redis, coupon);
    args.extend([ready.into(), field.into(), order.to_string().into()]);
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
    let args = vec![
        TRIM.sha1.as_str().into(),
        2.into(),
        (&*redis.keys.epoch).into(),
        (&*redis.keys.orders).into(),
        ready.into(),
        i64::try_from(tail).unwrap_or(i64::MAX).into(),
        super::keys::GROUP.into(),
        keep_from.into(),
    ];
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
    let args = vec![
        REMOVE_CONSUMER.sha1.as_str().into(),
        2.into(),
        (&*redis.keys.epoch).into(),
        (&*redis.keys.orders).into(),
        ready.into(),
        super::keys::GROUP.into(),
        consumer.into(),
        i64::try_from(gone_after.as_millis()).unwrap_or(i64::MAX).into(),
    ];
    match integer(&redis.call("EVALSHA", args).await?, "remove_consumer")? {
        remove_consumer_code::REMOVED => Ok(true),
        remove_consumer_code::KEPT | remove_consumer_code::FENCED => Ok(false),
        other => Err(RedisError::Reply(format!("remove_consumer: unknown code {other}"))),
    }
}

/// Notes a WAL position that Postgres has made durable; answers whether it did, not behind a fence.
pub async fn note_lsn(redis: &Redis, ready: &str, lsn: &str) -> Result<bool, RedisError> {
    let args = vec![
        NOTE_LSN.sha1.as_str().into(),
        2.into(),
        (&*redis.keys.epoch).into(),
        (&*redis.keys.postgres_lsn).into(),
        ready.into(),
        lsn.into(),
    ];
    Ok(integer(&redis.call("EVALSHA", args).await?, "note_lsn")? == note_lsn_code::NOTED)
}

/// Appends the events of claims that have neither entry nor row; answers how many, `None` behind a fence.
pub async fn readd(
    redis: &Redis,
    ready: &str,
    coupon: &CouponId,
    claims: &[(UserId, OrderId)],
) -> Result<Option<i64>, RedisError> {
    let mut args: Vec<Value> = vec![
        READD.sha1.as_str().into(),
        3.into(),
        (&*redis.keys.epoch).into(),
        (&*redis.keys.orders).into(),
        redis.keys.claims(coupon).into(),
        ready.into(),
        coupon.as_str().into(),
    ];
    for (user, order) in claims {
        args.extend([user.as_str().into(), order.to_string().into()]);
    }
    let added = integer(&redis.call("EVALSHA", args).await?, "readd")?;
    Ok((added >= 0).then_some(added))
}

/// Whether Redis knows all scripts.
pub async fn all_loaded(redis: &Redis) -> Result<bool, RedisError> {
    let mut args: Vec<Value> = vec!["EXISTS".into()];
    args.extend(LOADED.iter().map(|script| Value::from(script.sha1.as_str())));
    let known = array(redis.call("SCRIPT", args).await?, "SCRIPT EXISTS")?;
    Ok(known.len() == LOADED.len() && known.iter().all(|value| value.as_i64() == Some(1)))
}

/// Loads all scripts; a rebuild's last step but one.
pub async fn load_all(redis: &Redis) -> Result<(), RedisError> {
    for script in LOADED {
        let sha1 = redis.call("SCRIPT", vec!["LOAD".into(), script.source.into()]).await?;
        if text(&sha1).as_deref() != Some(script.sha1.as_str()) {
            return Err(RedisError::Reply(format!("SCRIPT LOAD {}: another digest than ours", script.name)));
        }
    }
    Ok(())
}

fn coupon_args(script: &Script, redis: &Redis, coupon: &CouponId) -> Vec<Value> {
    vec![
        script.sha1.as_str().into(),
        4.into(),
        (&*redis.keys.epoch).into(),
        (&*redis.keys.orders).into(),
        redis.keys.coupon(coupon).into(),
        redis.keys.claims(coupon).into(),
    ]
}

/// The marker under which claims of this epoch are accepted.
#[must_use]
pub fn ready_marker(epoch: &str) -> Arc<str> {
    format!("ready:{epoch}").into()
}
