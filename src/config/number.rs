//! Parses whole numbers in flags and environment variables.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// A whole number within bounds.
///
/// # Errors
/// For any other text, with the bounds.
pub fn parse_whole<T: FromStr + PartialOrd + Display>(
    text: &str,
    bounds: RangeInclusive<T>,
) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| bounds.contains(number));
    number.ok_or_else(|| format!("must be a whole number from {} to {}", bounds.start(), bounds.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_whole_and_within_its_bounds() {
        assert_eq!(parse_whole("0", 0..=64_u16), Ok(0));
        assert_eq!(parse_whole("64", 0..=64_u16), Ok(64));
        for text in ["65", "-1", "1e1", "1.5", "1_000", "", " 1", "99999999999999999999", "many"] {
            assert_eq!(
                parse_whole(text, 0..=64_u16),
                Err("must be a whole number from 0 to 64".into()),
                "{text}"
            );
        }
    }
}
