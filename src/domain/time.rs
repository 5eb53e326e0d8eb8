//! Points in time as the API reads and writes them: RFC 3339.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Why a text is not a time; the sentence shows the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an RFC 3339 time with its offset: write 2026-11-11T20:00:00+01:00, or 2026-11-11T19:00:00Z for UTC"
)]
pub struct InvalidTime;

/// Reads an RFC 3339 time, which always names its offset from UTC.
pub fn parse_time(text: &str) -> Result<OffsetDateTime, InvalidTime> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTime)
}

/// Writes ms since 1970 as RFC 3339, in UTC.
#[must_use]
pub fn rfc3339(ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}
