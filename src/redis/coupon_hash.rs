//! Coupons' definitions as Redis has them, read with the sum at one moment, and how they differ from Postgres's. What
//! is done about a difference is `fence/publish`'s part.

use super::scripts::definition_fields;
use super::{Redis, RedisError, array, integer, script_args, text};
use crate::config;
use crate::domain::{CouponId, Definition, FieldDifference};
use fred::types::Value;

const DEFINITIONS: &str = include_str!("../../lua/definitions.lua");

/// The fields of a coupon's hash, in the order in which they are read.
const FIELDS: [&str; 10] = [
    "stock",
    "total",
    "version",
    "title",
    "starts_at_ms",
    "ends_at_ms",
    "paused",
    "per_user_limit",
    "reserve_seconds",
    "unlisted",
];

/// A coupon's hash, and the units held of it at the same moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptDefinition {
    held: i64,
    /// As they stand, in the order of `FIELDS`; `None` where one is absent or no text.
    values: [Option<String>; FIELDS.len()],
}

impl KeptDefinition {
    /// The version that Redis took last; 0 where it cannot be read, so that any publication goes over it.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.number("version").unwrap_or(0)
    }

    /// Whether stock + claims is the total.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let sum = self.number("stock").and_then(|stock| stock.checked_add(self.held));
        sum.is_some() && sum == self.number("total")
    }

    /// Every field in which the hash is not what a publication of this definition makes of it.
    #[must_use]
    pub fn differences(&self, definition: &Definition) -> Vec<FieldDifference> {
        let numbers = ["total".into(), definition.total.into(), "version".into(), definition.version.into()];
        let expected: Vec<Value> = numbers.into_iter().chain(definition_fields(definition)).collect();
        let expected: Vec<(Option<String>, Option<String>)> =
            expected.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
        let value_of = |field: &str| {
            expected
                .iter()
                .find(|(name, _)| name.as_deref() == Some(field))
                .and_then(|(_, value)| value.clone())
        };
        let compared = FIELDS.iter().zip(&self.values).filter_map(|(&field, redis)| {
            value_of(field).map(|postgres| FieldDifference { field, postgres, redis: redis.clone() })
        });
        compared.filter(|compared| compared.redis.as_ref() != Some(&compared.postgres)).collect()
    }

    fn number(&self, field: &str) -> Option<i64> {
        let index = FIELDS.iter().position(|name| *name == field)?;
        let value = self.values[index].as_deref()?;
        // In its one spelling, or the scripts would not read it.
        value.parse().ok().filter(|number: &i64| number.to_string() == value)
    }

    fn read(reply: Value) -> Result<Option<Self>, RedisError> {
        let mut reply = array(reply, "definitions")?.into_iter();
        let held = integer(&reply.next().unwrap_or(Value::Null), "definitions")?;
        let mut are_absent = true;
        let values = [(); FIELDS.len()].map(|()| {
            let value = reply.next().unwrap_or(Value::Null);
            are_absent &= value.is_null();
            text(&value)
        });
        Ok((!are_absent).then_some(Self { held, values }))
    }
}

/// The coupons' hashes in their order, each with its sum at one moment; `None` for one that is absent.
pub async fn read(redis: &Redis, coupons: &[CouponId]) -> Result<Vec<Option<KeptDefinition>>, RedisError> {
    let mut kept = Vec::with_capacity(coupons.len());
    for chunk in coupons.chunks(config::DEFINITIONS_MAX_COUPONS) {
        let keys = chunk.iter().flat_map(|id| [redis.keys.coupon(id), redis.keys.claims(id)]);
        let args = script_args(DEFINITIONS, keys, FIELDS);
        for reply in array(redis.call("EVAL", args).await?, "definitions")? {
            kept.push(KeptDefinition::read(reply)?);
        }
    }
    if kept.len() == coupons.len() {
        return Ok(kept);
    }
    Err(RedisError::Reply(format!("definitions: {} instead of {}", kept.len(), coupons.len())))
}

/// One coupon's hash, with its sum at one moment.
pub async fn read_one(redis: &Redis, coupon: &CouponId) -> Result<Option<KeptDefinition>, RedisError> {
    Ok(read(redis, std::slice::from_ref(coupon)).await?.pop().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Definition {
        Definition {
            id: "coffee".parse().unwrap(),
            title: "Coffee".into(),
            total: 10,
            starts_at: None,
            ends_at: time::OffsetDateTime::from_unix_timestamp(5).ok(),
            paused: false,
            per_user_limit: 1,
            reserve_seconds: Some(9),
            unlisted: true,
            version: 3,
        }
    }

    fn kept(field: &str, value: Option<&str>) -> KeptDefinition {
        let values = ["8", "10", "3", "Coffee", "0", "5000", "0", "1", "9", "1"];
        let mut reply: Vec<Value> = std::iter::once(2.into()).chain(values.map(Value::from)).collect();
        let index = FIELDS.iter().position(|name| *name == field).unwrap();
        reply[1 + index] = value.map_or(Value::Null, Value::from);
        KeptDefinition::read(Value::Array(reply)).unwrap().unwrap()
    }

    #[test]
    fn each_field_that_is_another_or_absent_is_a_difference_of_its_own() {
        let whole = kept("stock", Some("8"));
        assert!(whole.differences(&definition()).is_empty() && whole.adds_up());
        for field in &FIELDS[1..] {
            for value in [None, Some("77")] {
                let found = kept(field, value).differences(&definition());
                let named: Vec<_> = found.iter().map(|found| (found.field, found.redis.as_deref())).collect();
                assert_eq!(named, [(*field, value)]);
            }
        }
        assert!(kept("stock", None).differences(&definition()).is_empty(), "the sum is looked at elsewhere");
    }

    #[test]
    fn a_sum_that_cannot_be_read_does_not_add_up_and_such_a_version_is_the_lowest() {
        for (field, value) in [("stock", None), ("stock", Some("08")), ("total", Some("11")), ("total", None)]
        {
            assert!(!kept(field, value).adds_up(), "{field} {value:?}");
        }
        assert_eq!((kept("version", None).version(), kept("version", Some("x")).version()), (0, 0));
        let absent = std::iter::once(Value::from(2)).chain(FIELDS.map(|_| Value::Null)).collect();
        assert_eq!(KeptDefinition::read(Value::Array(absent)).unwrap(), None);
    }
}
