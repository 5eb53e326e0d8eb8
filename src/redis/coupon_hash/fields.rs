//! The fields of a coupon hash, and the values that a publication of a definition sets.

use fred::types::Value;
use time::OffsetDateTime;

use crate::domain::{Definition, Spread};

/// The fields of every coupon, in the order in which they are read.
pub const FIELDS: [&str; 12] = [
    "stock",
    "total",
    "version",
    "title",
    "starts_at_ms",
    "ends_at_ms",
    "paused",
    "per_user_limit",
    "reserve_seconds",
    "durability",
    "waitlist",
    "unlisted",
];

/// The fields that only a coupon of several shares has: the units of all shares, their number, and the note of a take, which
/// `take.lua` writes and every publication clears.
pub const SPREAD_FIELDS: [&str; 4] = ["whole", "spread", "taken", "taken_for"];

pub const ALL_FIELDS: usize = FIELDS.len() + SPREAD_FIELDS.len();

/// The names of all fields.
pub fn names() -> impl Iterator<Item = &'static str> {
    FIELDS.into_iter().chain(SPREAD_FIELDS)
}

/// Every field of every coupon but `stock`, with the value that a publication of this definition sets.
pub fn encode(definition: &Definition) -> [(&'static str, String); FIELDS.len() - 1] {
    let ms = |time: Option<OffsetDateTime>| {
        time.map_or(0, |t| i64::try_from(t.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX))
    };
    let number = |number: i64| number.to_string();
    let flag = |is_set: bool| number(i64::from(is_set));
    [
        ("total", number(definition.total)),
        ("version", number(definition.version)),
        ("title", definition.title.clone()),
        ("starts_at_ms", number(ms(definition.starts_at))),
        ("ends_at_ms", number(ms(definition.ends_at))),
        ("paused", flag(definition.paused)),
        ("per_user_limit", number(definition.per_user_limit.into())),
        ("reserve_seconds", number(definition.reserve_seconds.unwrap_or(0).into())),
        ("durability", definition.durability.as_str().to_owned()),
        ("waitlist", flag(definition.waitlist)),
        ("unlisted", flag(definition.unlisted)),
    ]
}

/// The further fields that a publication sets for a coupon of several shares.
pub fn encode_spread(definition: &Definition) -> impl Iterator<Item = (&'static str, String)> {
    definition.spread.into_iter().flat_map(|Spread { shares, whole }| {
        let values = [whole, shares.into(), 0, 0].map(|number| number.to_string());
        SPREAD_FIELDS.into_iter().zip(values)
    })
}

/// Arguments of the scripts that set a definition: name and value of every field but `stock`, `total` and `version`.
pub fn other_fields(definition: &Definition) -> impl Iterator<Item = Value> {
    let fields = encode(definition).into_iter().skip(2).chain(encode_spread(definition));
    fields.flat_map(|(name, value)| [name.into(), value.into()])
}
