//! A coupon's definition, and the limits of a new or edited definition.

use serde_json::Value;
use time::OffsetDateTime;

use super::{ClaimDurability, CouponId, rfc3339};
use crate::config;

/// A coupon as the admin defined it; `version` grows by one with every edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    pub id: CouponId,
    pub title: String,
    pub total: i64,
    pub starts_at: Option<OffsetDateTime>,
    pub ends_at: Option<OffsetDateTime>,
    pub paused: bool,
    pub per_user_limit: i16,
    pub reserve_seconds: Option<i32>,
    pub durability: ClaimDurability,
    /// Whether users may wait for units that come back after the coupon is sold out.
    pub waitlist: bool,
    pub unlisted: bool,
    pub version: i64,
    /// `None` for a coupon of one partition.
    pub spread: Option<Spread>,
}

/// A coupon's spread over several partitions. The definition of each has the total and the version of its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The number of shares, from 2 to 64; never changes.
    pub shares: i16,
    /// The units of all shares.
    pub whole: i64,
}

/// A field of a definition before and after an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldChange {
    pub field: &'static str,
    pub from: Value,
    pub to: Value,
}

/// A coupon that is to be created. Limits are those of the HTTP documentation.
#[derive(Clone, Debug)]
pub struct NewCoupon {
    pub id: CouponId,
    pub total: i64,
    /// The default is the id.
    pub title: Option<String>,
    pub starts_at: Option<OffsetDateTime>,
    pub ends_at: Option<OffsetDateTime>,
    pub per_user_limit: Option<i64>,
    pub reserve_seconds: Option<i64>,
    /// By default as the settings say if those of Redis make an answered claim durable, else `postgres`.
    pub durability: Option<ClaimDurability>,
    pub waitlist: bool,
    pub unlisted: bool,
    /// The number of partitions that get a share; the default is 1.
    pub spread: Option<i64>,
}

/// Changes to a coupon, as a merge patch (RFC 7396): an absent field stays, `Some(None)` clears it.
#[derive(Clone, Debug, Default)]
pub struct CouponPatch {
    pub title: Option<Option<String>>,
    pub total: Option<Option<i64>>,
    pub starts_at: Option<Option<OffsetDateTime>>,
    pub ends_at: Option<Option<OffsetDateTime>>,
    pub paused: Option<Option<bool>>,
}

/// Why a definition breaks a limit; the sentence names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidDefinition(String);

impl Definition {
    /// Each field that an admin sets, with its value as the API shows it. Times are in whole ms, as in Redis.
    #[must_use]
    pub fn fields(&self) -> [(&'static str, Value); 10] {
        let time = |time: Option<OffsetDateTime>| {
            let ms = time.and_then(|time| i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok());
            Value::from(ms.map(rfc3339))
        };
        [
            ("total", self.total.into()),
            ("paused", self.paused.into()),
            ("title", self.title.as_str().into()),
            ("starts_at", time(self.starts_at)),
            ("ends_at", time(self.ends_at)),
            ("per_user_limit", self.per_user_limit.into()),
            ("reserve_seconds", self.reserve_seconds.into()),
            ("durability", self.durability.as_str().into()),
            ("waitlist", self.waitlist.into()),
            ("unlisted", self.unlisted.into()),
        ]
    }

    /// The fields in which another definition of the coupon differs.
    #[must_use]
    pub fn changes(&self, to: &Self) -> Vec<FieldChange> {
        let pairs = self.fields().into_iter().zip(to.fields()).filter(|((_, from), (_, to))| from != to);
        pairs.map(|((field, from), (_, to))| FieldChange { field, from, to }).collect()
    }
}

impl NewCoupon {
    /// The definition, if it is within every limit. Its durability is `redis` if the request names none.
    ///
    /// # Errors
    /// With a sentence that names the field.
    pub fn define(self) -> Result<Definition, InvalidDefinition> {
        let limit = i16::try_from(self.per_user_limit.unwrap_or(1)).unwrap_or(0);
        if !(1..=config::PER_USER_LIMIT_MAX).contains(&limit.into()) {
            return Err(invalid(format!("per_user_limit is 1 to {}", config::PER_USER_LIMIT_MAX)));
        }
        let reserve = self.reserve_seconds;
        if reserve.is_some_and(|seconds| !(1..=config::RESERVE_MAX_SECONDS).contains(&seconds)) {
            return Err(invalid(format!("reserve_seconds is 1 to {}", config::RESERVE_MAX_SECONDS)));
        }
        let shares = self.spread.unwrap_or(1);
        let most = i64::try_from(config::PARTITIONS_MAX).unwrap_or(i64::MAX);
        let shares = i16::try_from(shares).ok().filter(|_| (1..=most).contains(&shares));
        let shares = shares.ok_or_else(|| invalid(format!("spread is 1 to {most}")))?;
        if shares > 1 && self.waitlist {
            return Err(invalid("a coupon with a waiting list has one share: leave spread or waitlist out"));
        }
        let definition = Definition {
            title: self.title.unwrap_or_else(|| self.id.to_string()),
            id: self.id,
            total: self.total,
            starts_at: self.starts_at.map(whole_ms).transpose()?,
            ends_at: self.ends_at.map(whole_ms).transpose()?,
            paused: false,
            per_user_limit: limit,
            reserve_seconds: reserve.and_then(|seconds| i32::try_from(seconds).ok()),
            durability: self.durability.unwrap_or_default(),
            waitlist: self.waitlist,
            unlisted: self.unlisted,
            version: 1,
            spread: (shares > 1).then_some(Spread { shares, whole: self.total }),
        };
        check_title(&definition.title)?;
        check(&definition)?;
        Ok(definition)
    }
}

impl CouponPatch {
    /// The edited definition, if it is within every limit. The version does not change.
    ///
    /// # Errors
    /// With a sentence that names the field.
    pub fn apply(&self, old: &Definition) -> Result<Definition, InvalidDefinition> {
        let mut edited = old.clone();
        if let Some(title) = &self.title {
            edited.title = title.clone().unwrap_or_else(|| old.id.to_string());
            check_title(&edited.title)?;
        }
        match self.total {
            Some(Some(total)) => edited.total = total,
            Some(None) => return Err(invalid("total cannot be cleared")),
            None => {}
        }
        if let Some(starts_at) = self.starts_at {
            edited.starts_at = starts_at.map(whole_ms).transpose()?;
        }
        if let Some(ends_at) = self.ends_at {
            edited.ends_at = ends_at.map(whole_ms).transpose()?;
        }
        if let Some(paused) = self.paused {
            edited.paused = paused.unwrap_or(false);
        }
        check(&edited)?;
        Ok(edited)
    }
}

fn invalid(sentence: impl Into<String>) -> InvalidDefinition {
    InvalidDefinition(sentence.into())
}

fn check(definition: &Definition) -> Result<(), InvalidDefinition> {
    if !(1..=config::TOTAL_MAX_UNITS).contains(&definition.total) {
        return Err(invalid(format!("total is 1 to {}", config::TOTAL_MAX_UNITS)));
    }
    for (name, time) in [("starts_at", definition.starts_at), ("ends_at", definition.ends_at)] {
        if time.is_some_and(|time| time.unix_timestamp() <= 0) {
            return Err(invalid(format!("{name} lies before 1970")));
        }
    }
    if definition.starts_at.zip(definition.ends_at).is_some_and(|(start, end)| start >= end) {
        return Err(invalid("starts_at must be before ends_at"));
    }
    Ok(())
}

/// Whether a text is a title: 1 to `TITLE_MAX_CHARS` characters, none of them control characters.
#[must_use]
pub fn is_title(text: &str) -> bool {
    (1..=config::TITLE_MAX_CHARS).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

/// Checks a title from a request. Stored titles are not checked again: a stored title must not block a pause.
fn check_title(title: &str) -> Result<(), InvalidDefinition> {
    if is_title(title) {
        return Ok(());
    }
    let most = config::TITLE_MAX_CHARS;
    Err(invalid(format!("title is 1 to {most} characters, none of them control characters")))
}

/// Cuts a time to whole milliseconds, as Redis stores it: then Postgres and Redis have the same time.
fn whole_ms(time: OffsetDateTime) -> Result<OffsetDateTime, InvalidDefinition> {
    // A time in the last hours of the year 9999, with an offset west of Greenwich, is in the year 10000 in UTC.
    let utc = time
        .checked_to_offset(time::UtcOffset::UTC)
        .ok_or_else(|| invalid("a time lies beyond the year 9999 in UTC"))?;
    Ok(utc.replace_nanosecond(utc.nanosecond() / 1_000_000 * 1_000_000).unwrap_or(utc))
}
