//! Parsers for the values of flags. `config` has the limits.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{config, domain};

/// The value of a time flag; `none` removes the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeOrNone {
    None,
    At(OffsetDateTime),
}

pub fn parse_time(text: &str) -> Result<OffsetDateTime, String> {
    domain::parse_time(text).map_err(|error| error.to_string())
}

pub fn parse_time_or_none(text: &str) -> Result<TimeOrNone, String> {
    if text == "none" {
        return Ok(TimeOrNone::None);
    }
    parse_time(text).map(TimeOrNone::At).map_err(|error| format!("{error}; `none` removes it"))
}

/// The format of times in the API.
pub fn rfc3339(time: OffsetDateTime) -> anyhow::Result<String> {
    Ok(time.format(&Rfc3339)?)
}

pub fn parse_reserve_seconds(text: &str) -> Result<i64, String> {
    let seconds = i64::try_from(parse_whole_seconds(text)?.as_secs()).unwrap_or(i64::MAX);
    if (1..=config::RESERVE_MAX_SECONDS).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("must be between 1s and 30d".to_owned())
    }
}

pub fn parse_wait(text: &str) -> Result<Duration, String> {
    let wait = parse_whole_seconds(text)?;
    if wait > config::PREFER_WAIT_MAX {
        return Err(format!("must be at most {}", humantime::format_duration(config::PREFER_WAIT_MAX)));
    }
    Ok(wait)
}

pub fn parse_token_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = parse_whole_seconds(text)?;
    if lifetime.is_zero() || lifetime > config::TOKEN_LIFETIME_MAX {
        return Err("must be between 1s and 3650d".to_owned());
    }
    Ok(lifetime)
}

/// A duration of whole seconds, the unit of the API and of tokens.
pub fn parse_whole_seconds(text: &str) -> Result<Duration, String> {
    let duration = config::parse_duration(text)?;
    if duration.subsec_nanos() != 0 {
        return Err("must be whole seconds, such as 15m, 4s or 1h30m".to_owned());
    }
    Ok(duration)
}

pub fn parse_title(text: &str) -> Result<String, String> {
    if (1..=config::TITLE_MAX_CHARS).contains(&text.chars().count()) {
        Ok(text.to_owned())
    } else {
        Err(format!("must be 1 to {} characters", config::TITLE_MAX_CHARS))
    }
}

pub fn parse_reason(text: &str) -> Result<String, String> {
    if domain::is_reason(text) {
        Ok(text.to_owned())
    } else {
        let most = config::REASON_MAX_CHARS;
        Err(format!("must be 1 to {most} characters, none of them control characters"))
    }
}
