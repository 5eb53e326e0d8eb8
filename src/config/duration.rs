//! Parses durations in flags and environment variables.

use std::time::Duration;

const EXAMPLE: &str = "write a duration such as 15m, 4s or 1h30m";
/// Units without a fixed length, and `M`, which is most often a typing error for `m`.
const AMBIGUOUS: [&str; 8] = ["M", "month", "months", "y", "yr", "yrs", "year", "years"];

/// A duration such as `15m`, `4s`, `1h30m`, `500ms` or `30days`; units are milliseconds to weeks.
///
/// # Errors
/// When the text is not a duration, or has an ambiguous unit.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = text.split(|c: char| !c.is_alphabetic()).filter(|unit| !unit.is_empty());
    for unit in units {
        if AMBIGUOUS.contains(&unit) {
            return Err(match unit {
                "M" => format!("`M` may be minutes or months: {EXAMPLE}, and days as 30d"),
                _ => format!("a {} has no fixed length: {EXAMPLE}, and days as 30d", unit_word(unit)),
            });
        }
    }
    humantime::parse_duration(text).map_err(|error| match error {
        humantime::DurationError::NumberOverflow => format!("too long: {EXAMPLE}"),
        humantime::DurationError::UnknownUnit { unit, .. } if unit.is_empty() => {
            format!("no unit is given: {EXAMPLE}")
        }
        humantime::DurationError::UnknownUnit { unit, .. } => {
            format!("`{unit}` is not a unit: {EXAMPLE} (units are ms, s, m, h, d and w)")
        }
        _ => EXAMPLE.to_owned(),
    })
}

fn unit_word(unit: &str) -> &'static str {
    if unit.starts_with('m') { "month" } else { "year" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("4s", 4)]
    #[case("15m", 900)]
    #[case("15min", 900)]
    #[case("1h30m", 5_400)]
    #[case("1h 30m", 5_400)]
    #[case("2hours", 7_200)]
    #[case("30days", 2_592_000)]
    #[case("1w", 604_800)]
    #[case("1.5h", 5_400)]
    fn a_duration_is_parsed_with_its_units(#[case] text: &str, #[case] seconds: u64) {
        assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)));
    }

    #[rstest::rstest]
    #[case("5M", "`M` may be minutes or months")]
    #[case("1h5M", "`M` may be minutes or months")]
    #[case("1month", "month has no fixed length")]
    #[case("2 months", "month has no fixed length")]
    #[case("1y", "year has no fixed length")]
    #[case("10years", "year has no fixed length")]
    #[case("5H", "`H` is not a unit")]
    #[case("5S", "`S` is not a unit")]
    #[case("5x", "`x` is not a unit")]
    #[case("15", "no unit is given")]
    #[case("99999999999999999999s", "too long")]
    #[case("", "")]
    #[case("m", "")]
    #[case("-5m", "")]
    #[case("PT15M", "")]
    #[case("五m", "")]
    fn an_ambiguous_or_invalid_duration_is_refused_with_an_example(#[case] text: &str, #[case] what: &str) {
        let refused = parse_duration(text).unwrap_err();
        assert!(refused.contains(what) && refused.contains("1h30m"), "{refused}");
    }
}
