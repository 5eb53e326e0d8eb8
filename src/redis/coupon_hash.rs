//! The coupon hash: a coupon's definition and stock. Owns the format: field names, encoding, decoding, and the
//! comparison with Postgres's definition. `coupon_hash/fields.rs` has the names and what a publication writes,
//! `coupon_hash/read.rs` reads the hash; scripts write it.

mod fields;
mod read;

use std::collections::BTreeMap;

use time::OffsetDateTime;

use fred::types::Value;

use super::{RedisError, text};
use crate::config;
use crate::domain::{
    ClaimDurability, CouponId, CouponSnapshot, Definition, FieldDifference, Spread, is_title,
};

pub(super) use fields::other_fields;
use fields::{ALL_FIELDS, encode, encode_spread, names};
pub use fields::{FIELDS, SPREAD_FIELDS};
pub use read::{first_inconsistent, read, read_hash, read_one, scan, snapshot, versions};

/// The definition in fields as a publication writes them; `None` if a field is missing, unknown, or has a value that the
/// program does not write.
#[must_use]
pub fn definition_of(id: &CouponId, fields: &BTreeMap<String, String>) -> Option<Definition> {
    let hash = CouponHash::from_lookup(|field| fields.get(field).cloned(), None);
    let definition = hash.definition(id)?;
    let expected = if definition.spread.is_some() { ALL_FIELDS } else { FIELDS.len() };
    let is_whole = fields.len() == expected && hash.number("stock").is_some();
    (is_whole && hash.differences(&definition).is_empty()).then_some(definition)
}

/// A whole number as the program writes it; the scripts read no other spelling.
fn whole(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number: &i64| number.to_string() == text)
}

/// The hash as Redis has it. Any field may be absent or edited by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CouponHash {
    /// In the order of `names`; `None` if a field is absent or not text.
    values: [Option<String>; ALL_FIELDS],
    /// Units that the claims hash holds; `None` if they were not read.
    held: Option<i64>,
}

impl CouponHash {
    fn from_lookup(mut value_of: impl FnMut(&'static str) -> Option<String>, held: Option<i64>) -> Self {
        let mut names = names();
        Self { values: [(); ALL_FIELDS].map(|()| names.next().and_then(&mut value_of)), held }
    }

    /// From a reply that has the values in the order of `names`.
    fn from_values(values: &[Value], held: i64) -> Self {
        let mut values = values.iter();
        Self::from_lookup(|_| values.next().and_then(text), Some(held))
    }

    /// From a reply of HGETALL: names and values in turn.
    fn from_pairs(pairs: &[Value]) -> Self {
        let value_of = |field: &str| {
            let pair = pairs.chunks_exact(2).find(|pair| pair[0].as_str().as_deref() == Some(field))?;
            text(&pair[1])
        };
        Self::from_lookup(value_of, None)
    }

    /// Adds the number of held units, which was read from the claims hash before this hash.
    #[must_use]
    pub fn with_held(self, held: usize) -> Self {
        Self { held: i64::try_from(held).ok(), ..self }
    }

    /// Units that the claims hash held at the same moment; `None` if they were not read.
    #[must_use]
    pub const fn held(&self) -> Option<i64> {
        self.held
    }

    /// Whether the hash has none of the fields.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.values.iter().all(Option::is_none)
    }

    /// The version; 0 if it cannot be read, so that any publication replaces it.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.number("version").unwrap_or(0)
    }

    /// The version; `None` if edits cannot have made it.
    #[must_use]
    pub fn valid_version(&self) -> Option<i64> {
        self.between("version", 1, config::VERSION_MAX)
    }

    /// Whether stock + held units is the total.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let sum = self.number("stock").zip(self.held).and_then(|(stock, held)| stock.checked_add(held));
        sum.is_some() && sum == self.number("total")
    }

    /// The stock; 0 if it cannot be read.
    #[must_use]
    pub fn stock(&self) -> i64 {
        self.number("stock").unwrap_or(0)
    }

    /// The total without the units of a take; 0 if it cannot be read.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.number("total").unwrap_or(0)
    }

    /// The units of all shares of the coupon; `None` for a coupon of one partition.
    #[must_use]
    pub fn units_of_all_shares(&self) -> Option<i64> {
        self.number("whole")
    }

    /// Units that a take has removed for a move that is not committed yet: `total` and `stock` lack them.
    #[must_use]
    pub fn taken(&self) -> i64 {
        let is_for_next = self.number("taken_for") == self.version().checked_add(1);
        if is_for_next { self.between("taken", 0, config::TOTAL_MAX_UNITS).unwrap_or(0) } else { 0 }
    }

    /// Every field but `stock` whose value is not the one that a publication of this definition sets. A take that is not
    /// committed yet is no difference.
    #[must_use]
    pub fn differences(&self, definition: &Definition) -> Vec<FieldDifference> {
        let spread = encode_spread(definition).filter(|(field, _)| !field.starts_with("taken"));
        let expected = encode(definition).into_iter().chain(spread);
        let differing = expected.filter(|(field, postgres)| match *field {
            "total" => self.whole_total() != whole(postgres),
            field => self.text(field) != Some(postgres),
        });
        differing
            .map(|(field, postgres)| FieldDifference {
                field,
                redis: self.text(field).map(str::to_owned),
                postgres,
            })
            .collect()
    }

    /// The total with the units of a take.
    fn whole_total(&self) -> Option<i64> {
        self.number("total").and_then(|total| total.checked_add(self.taken()))
    }

    /// Whether the hash is already as a rebuild sets it for this definition and `held` units.
    #[must_use]
    pub fn is_rebuilt(&self, definition: &Definition, held: usize) -> bool {
        let held = i64::try_from(held).unwrap_or(i64::MAX);
        self.text("stock") == Some(&(definition.total - held).to_string())
            && self.differences(definition).is_empty()
    }

    /// The definition; `None` if a field has a value that the API does not make.
    #[must_use]
    pub fn definition(&self, id: &CouponId) -> Option<Definition> {
        let (starts_at, ends_at) = (self.time("starts_at_ms")?, self.time("ends_at_ms")?);
        let reserve = self.between("reserve_seconds", 0, config::RESERVE_MAX_SECONDS)?;
        let is_window = starts_at.zip(ends_at).is_none_or(|(start, end)| start < end);
        let title = self.title().filter(|_| is_window)?;
        let spread = self.spread();
        let least = i64::from(spread.is_none());
        Some(Definition {
            id: id.clone(),
            title: title.to_owned(),
            total: self.whole_total().filter(|total| (least..=config::TOTAL_MAX_UNITS).contains(total))?,
            starts_at,
            ends_at,
            paused: self.between("paused", 0, 1)? == 1,
            per_user_limit: i16::try_from(self.between("per_user_limit", 1, config::PER_USER_LIMIT_MAX)?)
                .ok()?,
            reserve_seconds: i32::try_from(reserve).ok().filter(|&seconds| seconds > 0),
            durability: self.durability()?,
            waitlist: self.between("waitlist", 0, 1)? == 1,
            unlisted: self.between("unlisted", 0, 1)? == 1,
            version: self.valid_version()?,
            spread,
        })
    }

    /// A definition from the fields that can be read, for a coupon that only Redis has. It is paused, and its total is
    /// at least `held` units.
    #[must_use]
    pub fn partial_definition(&self, id: &CouponId, held: usize) -> Definition {
        let held = i64::try_from(held).unwrap_or(i64::MAX).clamp(1, config::TOTAL_MAX_UNITS);
        let total = self.between("total", 1, config::TOTAL_MAX_UNITS).unwrap_or(held).max(held);
        let whole = self.definition(id);
        Definition {
            total,
            paused: true,
            version: self.valid_version().map_or(1, |version| version + 1),
            ..whole.unwrap_or_else(|| Definition {
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
                // If the hash does not show the durability, clients may have got the stronger promise.
                durability: self.durability().unwrap_or(ClaimDurability::Postgres),
                waitlist: self.between("waitlist", 0, 1) == Some(1),
                unlisted: self.between("unlisted", 0, 1) == Some(1),
                version: 1,
                spread: self.spread(),
            })
        }
    }

    /// The spread; `None` also if a field has a value that the program does not write.
    fn spread(&self) -> Option<Spread> {
        let shares = self.between("spread", 2, i64::try_from(config::PARTITIONS_MAX).ok()?)?;
        let whole = self.between("whole", 1, config::TOTAL_MAX_UNITS)?;
        Some(Spread { shares: i16::try_from(shares).ok()?, whole })
    }

    /// What a buyer sees of the coupon. `now_ms` is Redis's clock, ms since 1970.
    fn snapshot(&self, id: &CouponId, waiting: i64, now_ms: i64) -> Result<CouponSnapshot, RedisError> {
        let (Some(total), Some(stock)) = (self.number("total"), self.number("stock")) else {
            return Err(RedisError::Reply(format!("coupon {id}: total or stock is not a number")));
        };
        // In the hash, 0 stands for no value.
        let unless_0 = |field| self.number(field).filter(|&number| number != 0);
        Ok(CouponSnapshot {
            id: id.clone(),
            title: self.text("title").unwrap_or_default().to_owned(),
            total: self.units_of_all_shares().unwrap_or(total),
            stock: stock.max(0),
            starts_at_ms: unless_0("starts_at_ms"),
            ends_at_ms: unless_0("ends_at_ms"),
            paused: self.number("paused") == Some(1),
            per_user_limit: self.number("per_user_limit").unwrap_or(1),
            reserve_seconds: unless_0("reserve_seconds"),
            durability: self.durability().unwrap_or_default(),
            waitlist: self.number("waitlist") == Some(1),
            waiting,
            unlisted: self.number("unlisted") == Some(1),
            version: self.version(),
            now_ms,
        })
    }

    fn text(&self, field: &str) -> Option<&str> {
        let index = names().position(|name| name == field)?;
        self.values[index].as_deref()
    }

    fn number(&self, field: &str) -> Option<i64> {
        self.text(field).and_then(whole)
    }

    fn between(&self, field: &str, least: i64, most: i64) -> Option<i64> {
        self.number(field).filter(|number| (least..=most).contains(number))
    }

    fn title(&self) -> Option<&str> {
        self.text("title").filter(|title| is_title(title))
    }

    fn durability(&self) -> Option<ClaimDurability> {
        self.text("durability")?.parse().ok()
    }

    /// 0 stands for no time.
    #[expect(clippy::option_option, reason = "no time is not the same as one that cannot be read")]
    fn time(&self, field: &str) -> Option<Option<OffsetDateTime>> {
        match self.number(field)? {
            0 => Some(None),
            ms => OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok().map(Some),
        }
    }
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
            ends_at: OffsetDateTime::from_unix_timestamp(1_893_456_000).ok(),
            paused: false,
            per_user_limit: 1,
            reserve_seconds: Some(9),
            durability: ClaimDurability::Postgres,
            waitlist: true,
            unlisted: true,
            version: 3,
            spread: None,
        }
    }

    /// The hash of that definition with 2 held units, with some fields changed.
    fn hash(changes: &[(&str, Option<&str>)]) -> CouponHash {
        let values = ["8", "10", "3", "Coffee", "0", "1893456000000", "0", "1", "9", "postgres", "1", "1"];
        let values = values.map(Value::from);
        let mut hash = CouponHash::from_values(&values, 2);
        for (field, value) in changes {
            let index = FIELDS.iter().position(|name| name == field).unwrap();
            hash.values[index] = value.map(str::to_owned);
        }
        hash
    }

    #[test]
    fn each_field_that_is_another_or_absent_is_a_difference() {
        let same = hash(&[]);
        assert!(same.differences(&definition()).is_empty() && same.adds_up());
        assert!(same.is_rebuilt(&definition(), 2) && !same.is_rebuilt(&definition(), 3));
        for field in &FIELDS[1..] {
            for value in [None, Some("77")] {
                let found = hash(&[(field, value)]).differences(&definition());
                let named: Vec<_> = found.iter().map(|found| (found.field, found.redis.as_deref())).collect();
                assert_eq!(named, [(*field, value)]);
            }
        }
        assert!(hash(&[("stock", None)]).differences(&definition()).is_empty(), "the stock is not compared");
    }

    #[test]
    fn every_field_is_encoded_in_the_order_in_which_it_is_read() {
        let names = encode(&definition()).map(|(name, _)| name);
        assert_eq!(names, FIELDS[1..]);
    }

    #[test]
    fn numbers_that_cannot_be_read_do_not_add_up_and_such_a_version_is_the_lowest() {
        for (field, value) in [("stock", None), ("stock", Some("08")), ("total", Some("11")), ("total", None)]
        {
            assert!(!hash(&[(field, value)]).adds_up(), "{field} {value:?}");
        }
        let versions = [None, Some("x")].map(|version| hash(&[("version", version)]).version());
        assert_eq!(versions, [0, 0]);
        assert!(CouponHash::from_values(&FIELDS.map(|_| Value::Null), 2).is_absent());
        assert!(!CouponHash::from_pairs(&["stock".into(), "x".into()]).is_absent());
        assert!(CouponHash::from_pairs(&[]).is_absent());
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
    #[case(&[("durability", "disk")], false)]
    #[case(&[("waitlist", "2")], false)]
    #[case(&[("starts_at_ms", "1893456000000")], false)]
    #[case(&[("ends_at_ms", "99999999999999999")], false)]
    fn a_definition_is_read_only_where_the_api_can_have_made_it(
        #[case] changes: &[(&str, &str)],
        #[case] is_valid: bool,
    ) {
        let id: CouponId = "coffee".parse().unwrap();
        let changes: Vec<_> = changes.iter().map(|&(field, value)| (field, Some(value))).collect();
        let hash = hash(&changes);
        assert_eq!(hash.definition(&id), is_valid.then(definition), "{changes:?}");
        let partial = hash.partial_definition(&id, 12);
        assert!(partial.paused && partial.total >= 12 && partial.version >= 1, "{partial:?}");
    }
}
