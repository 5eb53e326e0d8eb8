//! Coupon definitions as Redis has them, read without trust: hashes may have been edited by hand or be gone. What
//! follows from them is decided in `fence/lost` and `fence/rebuild/definitions`.

use std::collections::{BTreeMap, HashMap};

use futures_util::StreamExt;
use time::OffsetDateTime;

use super::{Redis, RedisError, array, info, rebuild, text};
use crate::config;
use crate::domain::{CouponId, Definition};

/// The version of every coupon that Redis has a key for; `None` where none can be read.
pub async fn versions(redis: &Redis) -> Result<BTreeMap<CouponId, Option<i64>>, RedisError> {
    let mut versions = BTreeMap::new();
    let mut cursor = "0".to_owned();
    loop {
        let (page, next) = info::scan_coupons(redis, &cursor).await?;
        let mut asked = futures_util::stream::iter(page.into_iter().map(|id| async {
            let version = version(redis, &id).await;
            (id, version)
        }))
        .buffer_unordered(config::VERSIONS_IN_FLIGHT);
        while let Some((id, version)) = asked.next().await {
            versions.insert(id, version?);
        }
        drop(asked);
        if next == "0" {
            return Ok(versions);
        }
        cursor = next;
    }
}

async fn version(redis: &Redis, id: &CouponId) -> Result<Option<i64>, RedisError> {
    match redis.call("HGET", vec![redis.keys.coupon(id).into(), "version".into()]).await {
        Err(RedisError::WrongType(_)) => Ok(None),
        version => Ok(text(&version?).and_then(|text| text.parse().ok())),
    }
}

/// Whether no key under our prefix exists.
pub async fn is_empty(redis: &Redis) -> Result<bool, RedisError> {
    let count = i64::try_from(config::SCAN_PAGE_ENTRIES).unwrap_or(i64::MAX);
    let mut cursor = "0".to_owned();
    loop {
        let args =
            vec![cursor.into(), "MATCH".into(), redis.keys.every_key().into(), "COUNT".into(), count.into()];
        let mut reply = array(redis.call("SCAN", args).await?, "SCAN")?.into_iter();
        cursor = reply.next().as_ref().and_then(text).unwrap_or_else(|| "0".into());
        let found = array(reply.next().unwrap_or(fred::types::Value::Null), "SCAN keys")?;
        if !found.is_empty() || cursor == "0" {
            return Ok(found.is_empty());
        }
    }
}

/// A coupon's hash as it stood beside its claims.
#[derive(Default)]
pub struct StoredCoupon {
    fields: HashMap<String, String>,
    /// stock + claims = total.
    pub adds_up: bool,
}

impl StoredCoupon {
    /// Reads the hash, beside `held` units that its claims hash holds.
    pub async fn read(redis: &Redis, id: &CouponId, held: usize) -> Result<Self, RedisError> {
        let fields = rebuild::coupon_hash(redis, id).await?;
        let number = |name| fields.get(name).and_then(|text: &String| text.parse::<i64>().ok());
        let held = i64::try_from(held).unwrap_or(i64::MAX);
        let adds_up = number("total")
            .zip(number("stock"))
            .is_some_and(|(total, stock)| total.checked_sub(stock) == Some(held));
        Ok(Self { fields, adds_up })
    }

    pub fn is_absent(&self) -> bool {
        self.fields.is_empty()
    }

    /// The version that stands there, believed or not; `None` where none could have been made by edits.
    pub fn version(&self) -> Option<i64> {
        self.number("version").filter(|version| (1..=config::VERSION_MAX).contains(version))
    }

    /// The whole definition, if every field is one that the API makes.
    pub fn definition(&self, id: &CouponId) -> Option<Definition> {
        let (starts_at, ends_at) = (self.time("starts_at_ms")?, self.time("ends_at_ms")?);
        let reserve = self.between("reserve_seconds", 0, config::RESERVE_MAX_SECONDS)?;
        let is_window = starts_at.zip(ends_at).is_none_or(|(start, end)| start < end);
        let title = self.title().filter(|_| is_window)?;
        Some(Definition {
            id: id.clone(),
            title: title.to_owned(),
            total: self.between("total", 1, config::TOTAL_MAX_UNITS)?,
            starts_at,
            ends_at,
            paused: self.between("paused", 0, 1)? == 1,
            per_user_limit: i16::try_from(self.between("per_user_limit", 1, config::PER_USER_LIMIT_MAX)?)
                .ok()?,
            reserve_seconds: i32::try_from(reserve).ok().filter(|&seconds| seconds > 0),
            unlisted: self.between("unlisted", 0, 1)? == 1,
            version: self.version()?,
        })
    }

    /// The same with what can be read, for a coupon that nothing else tells of: paused, with room for `held` units.
    pub fn or_as_far_as_it_goes(&self, id: &CouponId, held: usize) -> Definition {
        let held = i64::try_from(held).unwrap_or(i64::MAX).clamp(1, config::TOTAL_MAX_UNITS);
        let total = self.between("total", 1, config::TOTAL_MAX_UNITS).unwrap_or(held).max(held);
        let read = self.definition(id);
        Definition {
            total,
            paused: true,
            version: self.version().map_or(1, |version| version + 1),
            ..read.unwrap_or_else(|| Definition {
                id: id.clone(),
                title: self.title().unwrap_or(id.as_str()).to_owned(),
                total,
                starts_at: None,
                ends_at: None,
                paused: true,
                per_user_limit: 1,
                reserve_seconds: self
                    .between("reserve_seconds", 1, config::RESERVE_MAX_SECONDS)
                    .and_then(|seconds| i32::try_from(seconds).ok()),
                unlisted: self.between("unlisted", 0, 1) == Some(1),
                version: 1,
            })
        }
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.fields.get(name)?.parse().ok()
    }

    fn between(&self, name: &str, least: i64, most: i64) -> Option<i64> {
        self.number(name).filter(|number| (least..=most).contains(number))
    }

    fn title(&self) -> Option<&str> {
        let title = self.fields.get("title")?;
        let is_one = (1..=config::TITLE_MAX_CHARS).contains(&title.chars().count());
        (is_one && !title.chars().any(char::is_control)).then_some(title)
    }

    /// 0 is no time.
    #[expect(clippy::option_option, reason = "no time is not the same as one that cannot be read")]
    fn time(&self, name: &str) -> Option<Option<OffsetDateTime>> {
        match self.number(name)? {
            0 => Some(None),
            ms => OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok().map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(changes: &[(&str, &str)]) -> StoredCoupon {
        let whole = [
            ("title", "Coffee"),
            ("total", "10"),
            ("stock", "10"),
            ("starts_at_ms", "0"),
            ("ends_at_ms", "1893456000000"),
            ("paused", "0"),
            ("per_user_limit", "1"),
            ("reserve_seconds", "0"),
            ("unlisted", "0"),
            ("version", "3"),
        ];
        let all = whole.iter().chain(changes).map(|(name, value)| ((*name).into(), (*value).into()));
        StoredCoupon { fields: all.collect(), adds_up: true }
    }

    #[rstest::rstest]
    #[case(&[], true)]
    #[case(&[("total", "0")], false)]
    #[case(&[("total", "1e3")], false)]
    #[case(&[("version", "0")], false)]
    #[case(&[("version", "9223372036854775807")], false)]
    #[case(&[("title", "")], false)]
    #[case(&[("title", "a\u{0}b")], false)]
    #[case(&[("paused", "yes")], false)]
    #[case(&[("per_user_limit", "17")], false)]
    #[case(&[("reserve_seconds", "-1")], false)]
    #[case(&[("starts_at_ms", "1893456000000")], false)]
    #[case(&[("ends_at_ms", "99999999999999999")], false)]
    fn a_definition_is_read_only_where_the_api_could_have_made_it(
        #[case] changes: &[(&str, &str)],
        #[case] is_one: bool,
    ) {
        let id: CouponId = "coffee".parse().unwrap();
        let stored = stored(changes);
        assert_eq!(stored.definition(&id).is_some(), is_one, "{changes:?}");
        let rest = stored.or_as_far_as_it_goes(&id, 12);
        assert!(rest.paused && rest.total >= 12 && rest.version >= 1, "{rest:?}");
    }
}
