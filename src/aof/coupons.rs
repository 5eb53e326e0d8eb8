//! One coupon during a replay: its hash, its holders and its waiting list.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde_json::Value;

use super::Place;
use super::stream::{Misfit, number};
use crate::domain::{CouponId, Definition, IdempotencyKey, OrderId};
use crate::postgres::known::KnownCoupon;
use crate::redis::claims_hash::ClaimField;
use crate::redis::coupon_hash;

/// Who holds a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub order: OrderId,
    pub key: Option<IdempotencyKey>,
    /// The transaction that wrote it.
    pub place: Place,
}

/// The fields that an edit cannot change.
const FIXED: [&str; 6] =
    ["per_user_limit", "reserve_seconds", "durability", "waitlist", "unlisted", "spread"];

/// The fields that a take writes, in its order.
const TAKE: [&str; 4] = ["stock", "total", "taken", "taken_for"];

#[derive(Debug, Default)]
pub struct Coupon {
    /// The coupon hash; empty if it is absent.
    pub hash: BTreeMap<String, String>,
    /// The transactions that wrote the last two versions, the older one first.
    versions: [Option<(i64, Place)>; 2],
    pub held: HashMap<ClaimField, Held>,
    /// Users in line by their scores, and their scores.
    pub line: BTreeMap<u64, Bytes>,
    pub scores: HashMap<Bytes, u64>,
    /// The value of the order that each user in line gets, and the transaction that wrote it.
    pub promises: HashMap<Bytes, (Bytes, Place)>,
}

impl Coupon {
    pub fn number(&self, field: &str) -> Option<i64> {
        number(self.hash.get(field)?.as_bytes()).ok()
    }

    /// The transaction that wrote the present definition.
    pub fn defined_at(&self) -> Option<Place> {
        self.versions[1].map(|(_, place)| place)
    }

    pub fn held_units(&self) -> i64 {
        i64::try_from(self.held.len()).unwrap_or(i64::MAX)
    }

    pub fn limit(&self) -> i64 {
        self.number("per_user_limit").unwrap_or(1)
    }

    /// Why stock + held is not the total; `None` if it is.
    pub fn wrong_sum(&self) -> Option<String> {
        let (Some(stock), Some(total)) = (self.number("stock"), self.number("total")) else {
            return Some("stock or total is not a number".into());
        };
        let held = self.held_units();
        (stock + held != total).then(|| format!("stock {stock} + held {held} is not the total {total}"))
    }

    /// Sets fields of the hash without a check.
    pub fn set(&mut self, fields: &[Bytes], place: Place) -> Result<(), Misfit> {
        for pair in fields.chunks(2) {
            let [name, value] = pair else { return Err("a field without a value".into()) };
            let text = |bytes: &Bytes| {
                String::from_utf8(bytes.to_vec()).map_err(|_| "a field is not UTF-8".to_owned())
            };
            self.hash.insert(text(name)?, text(value)?);
        }
        if let Some(version) = self.number("version")
            && self.versions[1].map(|(version, _)| version) != Some(version)
        {
            self.versions = [self.versions[1], Some((version, place))];
        }
        Ok(())
    }

    /// Whether the fields are those of a take.
    pub fn is_take(fields: &[Bytes]) -> bool {
        fields.iter().step_by(2).eq(TAKE)
    }

    /// Takes free units from a share, as `lua/take.lua` does: they leave stock and total, with a note for the next version.
    pub fn take(&mut self, fields: &[Bytes], place: Place) -> Result<(), Misfit> {
        let before = ["stock", "total"].map(|field| self.number(field).unwrap_or(0));
        let (version, noted) = (self.number("version").unwrap_or(0), self.number("taken_for").unwrap_or(0));
        self.set(fields, place)?;
        let [stock, total, units, taken_for] = TAKE.map(|field| self.number(field).unwrap_or(-1));
        let is_take = units > 0
            && stock >= 0
            && before == [stock + units, total + units]
            && self.number("spread").is_some()
            && taken_for == version + 1
            && noted != taken_for;
        if is_take {
            Ok(())
        } else {
            Err("units leave a share in a way that the program does not take them".into())
        }
    }

    /// Sets the hash to a new definition, as a publication does: all fields, a higher version, and the fixed ones as
    /// before.
    pub fn publish(
        &mut self,
        id: &CouponId,
        fields: &[Bytes],
        place: Place,
        known: Option<&KnownCoupon>,
    ) -> Result<(), Misfit> {
        let before = self.hash.clone();
        let version_before = self.number("version");
        let of_one = coupon_hash::FIELDS.len();
        let of_a_share = of_one + coupon_hash::SPREAD_FIELDS.len();
        if ![of_one, of_a_share].contains(&(fields.len() / 2)) {
            return Err("a definition without all of its fields".into());
        }
        let versions = self.versions;
        self.set(fields, place)?;
        let definition = coupon_hash::definition_of(id, &self.hash)
            .ok_or("a definition that the program does not write")?;
        if let Some(field) = known.and_then(|known| unknown_value(&definition, known)) {
            return Err(format!("the coupon's {field} has a value that no admin has set").into());
        }
        let version = self.number("version").unwrap_or(0);
        match version_before {
            None if self.hash.get("paused").is_some_and(|paused| paused != "0") => {
                return Err("a coupon is created that is paused".into());
            }
            None if version != 1 => return Err("the first version of a coupon is not 1".into()),
            Some(old) if version <= old => {
                // The older version may be the wrong one: it has skipped the numbers before it.
                let oldest = versions[0].map_or(0, |(version, _)| version);
                let earlier =
                    versions[1].filter(|_| old > oldest + 1 && version > oldest).map(|(_, place)| place);
                let why = format!("version {version} after version {old}");
                return Err(Misfit { why, earlier, if_delivered: None });
            }
            _ => {}
        }
        if let Some(name) =
            FIXED.iter().find(|name| !before.is_empty() && before.get(**name) != self.hash.get(**name))
        {
            return Err(format!("the coupon's {name} has changed").into());
        }
        Ok(())
    }
}

/// The first field with a value that Postgres does not have for this version. The totals of revocations that withdraw a
/// unit are not in the audit log as definitions; the sum checks totals.
fn unknown_value(definition: &Definition, known: &KnownCoupon) -> Option<&'static str> {
    let present = &known.row.definition;
    // A later edit than Postgres had when it was read.
    if definition.version > present.version {
        return None;
    }
    let is_present = definition.version == present.version;
    let fields = definition.fields().into_iter().zip(present.fields());
    let is_wrong = |((field, value), (_, now)): &((&'static str, Value), (&'static str, Value))| {
        if is_present { value != now } else { *field != "total" && !known.may_have(field, value) }
    };
    fields.into_iter().find(is_wrong).map(|((field, _), _)| field)
}
