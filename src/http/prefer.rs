//! `Prefer: wait=N` (RFC 7240): how long the answer to a claim may wait for the order to be recorded.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::config;

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The first `wait` of all lines of the header, at most `PREFER_WAIT_MAX`. A value that is not a number of seconds is
/// ignored.
pub fn preferred_wait(headers: &HeaderMap) -> Duration {
    let lines = headers.get_all(&PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut preferences = lines.flat_map(|line| split(line, ','));
    let wait = preferences.find_map(|preference| {
        // Parameters of a preference follow a semicolon.
        let (name, value) = split(preference, ';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then_some(value.trim())
    });
    wait.and_then(seconds).unwrap_or(Duration::ZERO).min(config::PREFER_WAIT_MAX)
}

fn seconds(text: &str) -> Option<Duration> {
    let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // A number beyond u64 means the maximum.
    is_number.then(|| Duration::from_secs(digits.parse().unwrap_or(u64::MAX)))
}

/// Splits at each separator that is not inside a quoted string.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |c| {
        let is_here = c == separator && !is_quoted;
        is_quoted ^= c == '"' && !is_escaped;
        is_escaped = is_quoted && c == '\\' && !is_escaped;
        is_here
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(&["wait=3"], 3)]
    #[case(&["WAIT=3"], 3)]
    #[case(&["wait = 3"], 3)]
    #[case(&["wait=\"3\""], 3)]
    #[case(&["wait=3; x=y"], 3)]
    #[case(&["respond-async, wait=3"], 3)]
    #[case(&["respond-async", "wait=3"], 3)]
    #[case(&["wait=3, wait=5"], 3)]
    #[case(&["wait=3", "wait=5"], 3)]
    #[case(&["wait=x, wait=5"], 0)]
    #[case(&["foo=\"a, wait=9\", wait=2"], 2)]
    #[case(&["foo=\"a\\\", wait=9\", wait=2"], 2)]
    #[case(&["foo=\"a; wait=9\"; wait=8"], 0)]
    #[case(&["wait=10"], 10)]
    #[case(&["wait=11"], 10)]
    #[case(&["wait=3600"], 10)]
    #[case(&["wait=18446744073709551616"], 10)]
    #[case(&["wait=99999999999999999999999999"], 10)]
    #[case(&["wait=0"], 0)]
    #[case(&["wait=00003"], 3)]
    #[case(&["wait"], 0)]
    #[case(&["wait="], 0)]
    #[case(&["wait=-1"], 0)]
    #[case(&["wait=+1"], 0)]
    #[case(&["wait=1.5"], 0)]
    #[case(&["wait=1e3"], 0)]
    #[case(&["wait=\"3"], 0)]
    #[case(&["wait=\u{663}"], 0)]
    #[case(&["waiting=3"], 0)]
    #[case(&[""], 0)]
    #[case(&[], 0)]
    fn a_wait_is_read_as_the_standard_says_and_clamped(#[case] lines: &[&str], #[case] seconds: u64) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PREFER, http::HeaderValue::from_str(line).unwrap());
        }
        assert_eq!(preferred_wait(&headers), Duration::from_secs(seconds));
    }
}
