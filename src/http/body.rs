//! Parses JSON bodies. An error names the field and says what it must be. `request` reads the bytes.

use std::fmt;

use serde::de::{self, DeserializeOwned, Error as _, IgnoredAny, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;

use super::problem::Problem;
use crate::{config, domain};

/// A point in time in a body.
#[derive(Clone, Copy, Debug)]
pub struct Rfc3339(pub OffsetDateTime);

impl<'de> Deserialize<'de> for Rfc3339 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        domain::parse_time(&text).map(Self).map_err(D::Error::custom)
    }
}

/// A whole number in a body. JSON does not distinguish `100` from `100.0`, and some clients write the latter.
#[derive(Clone, Copy, Debug)]
pub struct Whole(pub i64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_i64(WholeVisitor)
    }
}

struct WholeVisitor;

impl Visitor<'_> for WholeVisitor {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E>(self, number: i64) -> Result<Whole, E> {
        Ok(Whole(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Whole, E> {
        let whole = i64::try_from(number).map(Whole);
        whole.map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Whole, E> {
        // Larger ones may have been rounded.
        if number.fract() != 0.0 || number.abs() >= config::EXACT_FLOAT_MAX {
            return Err(E::invalid_type(Unexpected::Float(number), &self));
        }
        #[expect(clippy::cast_possible_truncation, reason = "it is whole, and an i64 holds it")]
        Ok(Whole(number as i64))
    }
}

/// Parses a JSON object as `T`; `T` decides about unknown fields.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // serde would accept an array of a struct's fields.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::bad_request("the body must be a JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut deserializer);
    let parsed = parsed.map_err(|error| (error.path().to_string(), error.into_inner()));
    let ended = parsed.and_then(|parsed| match deserializer.end() {
        Ok(()) => Ok(parsed),
        Err(error) => Err((String::new(), error)),
    });
    ended.map_err(|(field, error)| {
        if error.is_data() && serde_json::from_slice::<IgnoredAny>(body).is_ok() {
            let place = format!(" at line {} column {}", error.line(), error.column());
            let message = error.to_string();
            Problem::bad_request(in_words(&field, message.strip_suffix(&place).unwrap_or(&message)))
        } else {
            Problem::bad_request(format!(
                "the body is not JSON: see line {}, column {}",
                error.line(),
                error.column()
            ))
        }
    })
}

/// Rewrites serde's message about a field for clients that do not know serde.
fn in_words(field: &str, message: &str) -> String {
    let name = |prefix: &str| message.strip_prefix(prefix).and_then(|rest| rest.split('`').nth(1));
    if let Some(missing) = name("missing field ") {
        return format!("{missing} is missing");
    }
    if let Some(twice) = name("duplicate field ") {
        return format!("{twice} is given twice");
    }
    if let Some(unknown) = name("unknown field ") {
        let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
        return format!("the field {unknown} is not known; known are {}", known.join(", "));
    }
    for prefix in ["invalid type: ", "invalid value: "] {
        let parts = message.strip_prefix(prefix).and_then(|rest| rest.rsplit_once(", expected "));
        if let Some((found, expected)) = parts {
            return format!("{field} must be {}, not {}", expectation(expected), finding(found));
        }
    }
    if field.is_empty() || field == "." { message.to_owned() } else { format!("{field}: {message}") }
}

fn expectation(expected: &str) -> &str {
    match expected {
        "i64" | "u64" | "i32" | "u32" | "i16" | "u16" | "u8" => "a whole number",
        "a boolean" => "true or false",
        "a string" => "text",
        "a sequence" => "a list",
        "a map" => "an object",
        other => other,
    }
}

fn finding(found: &str) -> &str {
    match found {
        "map" => "an object",
        "sequence" => "a list",
        "unit value" => "null",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(dead_code, reason = "only the result of parsing is tested")]
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        total: Whole,
        title: Option<String>,
        paused: Option<bool>,
        starts_at: Option<Rfc3339>,
        id: Option<crate::domain::CouponId>,
    }

    fn refusal(body: &str) -> String {
        let problem = parse::<Sample>(body.as_bytes()).unwrap_err();
        let answer = problem.render("id");
        let body: serde_json::Value = serde_json::from_slice(answer.body().bytes()).unwrap();
        body["detail"].as_str().unwrap().to_owned()
    }

    #[rstest::rstest]
    #[case("100", 100)]
    #[case("100.0", 100)]
    #[case("-1e2", -100)]
    #[case("9223372036854775807", i64::MAX)]
    fn a_whole_number_may_be_written_with_a_fraction_of_zero(#[case] text: &str, #[case] number: i64) {
        let sample = parse::<Sample>(format!(r#"{{"total": {text}}}"#).as_bytes()).unwrap();
        assert_eq!(sample.total.0, number);
    }

    #[rstest::rstest]
    #[case("{}", "total is missing")]
    #[case(r#"{"total": null}"#, "total must be a whole number, not null")]
    #[case(r#"{"total": "ten"}"#, r#"total must be a whole number, not string "ten""#)]
    #[case(r#"{"total": 1.5}"#, "total must be a whole number, not floating point `1.5`")]
    #[case(r#"{"total": 9007199254740993.0}"#, "total must be a whole number, not floating point")]
    #[case(r#"{"total": 1e30}"#, "total must be a whole number, not floating point")]
    #[case(r#"{"total": 99999999999999999999}"#, "total must be a whole number, not floating point")]
    #[case(r#"{"total": 18446744073709551615}"#, "total must be a whole number, not integer")]
    #[case(r#"{"total": {}}"#, "total must be a whole number, not an object")]
    #[case(r#"{"total": [1]}"#, "total must be a whole number, not a list")]
    #[case(r#"{"total": true}"#, "total must be a whole number, not boolean `true`")]
    #[case(r#"{"total": 1, "total": 2}"#, "total is given twice")]
    #[case(r#"{"total": 1, "title": 5}"#, "title must be text, not integer `5`")]
    #[case(r#"{"total": 1, "paused": "yes"}"#, r#"paused must be true or false, not string "yes""#)]
    #[case(r#"{"total": 1, "colour": 2}"#, "the field colour is not known; known are total, title, paused")]
    #[case(r#"{"total": 1, "id": "a b"}"#, "id: a coupon id is 1 to 63")]
    #[case(
        r#"{"total": 1, "starts_at": "2026-12-24T10:00:00"}"#,
        "starts_at: not an RFC 3339 time with its offset: write 2026-"
    )]
    #[case(r#"{"total": 1, "starts_at": "tomorrow"}"#, "starts_at: not an RFC 3339 time")]
    #[case(r#"{"total": 1, "starts_at": 1798106400}"#, "starts_at must be text, not integer")]
    #[case("[1]", "must be a JSON object")]
    #[case("{", "the body is not JSON: see line 1, column")]
    #[case("{}x", "the body is not JSON: see line 1, column")]
    #[case("{\"total\": 1} {}", "the body is not JSON: see line 1, column")]
    #[case(r#"{"total": "ten","#, "the body is not JSON: see line 1, column")]
    fn a_wrong_body_is_answered_in_words_about_its_field(#[case] body: &str, #[case] words: &str) {
        let detail = refusal(body);
        assert!(detail.contains(words), "{body}: {detail}");
        for parsers_word in ["invalid type", "at line", "expected", "i64", "missing field"] {
            assert!(!detail.contains(parsers_word), "{body}: {detail}");
        }
    }
}
