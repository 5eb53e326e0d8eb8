//! The claims hash of a coupon: which order holds each unit that is taken. Owns the format of its fields and values,
//! and the reads. Scripts write the hash; `scripts.rs` and `rebuild.rs` call these scripts.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use fred::types::Value;

use super::{Redis, RedisError, array, integer, text};
use crate::config;
use crate::domain::{CouponId, OrderId, UserId, is_idempotency_key};

/// Separates the user from the slot in a field. No user id contains a control character.
const SLOT_SEPARATOR: char = '\u{1f}';

/// Separates the order from the Idempotency-Key in a value.
const KEY_SEPARATOR: char = ' ';

/// One unit of a user. Slots are numbered from 1 to the coupon's limit for each user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimField {
    pub user: UserId,
    pub slot: i16,
}

impl ClaimField {
    fn decode(field: &[u8]) -> Option<Self> {
        let field = std::str::from_utf8(field).ok()?;
        let (user, slot) = match field.split_once(SLOT_SEPARATOR) {
            Some((user, slot)) => (user, decode_slot(slot)?),
            None => (field, 1),
        };
        Some(Self { user: user.parse().ok()?, slot })
    }
}

/// A slot above 1; refuses spellings that the program does not write, such as a leading zero.
fn decode_slot(text: &str) -> Option<i16> {
    let slot: i16 = text.parse().ok()?;
    ((2..=config::PER_USER_LIMIT_MAX).contains(&i64::from(slot)) && slot.to_string() == text).then_some(slot)
}

/// `<user>` for slot 1, `<user>\x1f<slot>` for each slot above.
#[must_use]
pub fn encode_field(user: &str, slot: i16) -> String {
    if slot == 1 { user.to_owned() } else { format!("{user}{SLOT_SEPARATOR}{slot}") }
}

/// One field of the claims hash with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredClaim<'a> {
    pub field: ClaimField,
    pub order: OrderId,
    /// The claim's Idempotency-Key.
    pub key: Option<&'a str>,
}

impl<'a> StoredClaim<'a> {
    /// `None` for a foreign field: this program never writes it.
    #[must_use]
    pub fn decode(field: &[u8], value: &'a [u8]) -> Option<Self> {
        let (order, key) = decode_value(value)?;
        Some(Self { field: ClaimField::decode(field)?, order, key })
    }

    /// The field and its value.
    #[must_use]
    pub fn encode(&self) -> (String, String) {
        let order = self.order.to_string();
        let value = match self.key {
            Some(key) => format!("{order}{KEY_SEPARATOR}{key}"),
            None => order,
        };
        (encode_field(self.field.user.as_str(), self.field.slot), value)
    }
}

/// `<order>` or `<order> <key>`.
fn decode_value(value: &[u8]) -> Option<(OrderId, Option<&str>)> {
    let value = std::str::from_utf8(value).ok()?;
    match value.split_once(KEY_SEPARATOR) {
        Some((order, key)) if is_idempotency_key(key.as_bytes()) => Some((order.parse().ok()?, Some(key))),
        Some(_) => None,
        None => Some((value.parse().ok()?, None)),
    }
}

/// The order in a value of the claims hash.
pub(super) fn decode_order(value: &Value) -> Result<OrderId, RedisError> {
    let decoded = value.as_bytes().and_then(decode_value);
    let decoded = decoded.map(|(order, _)| order);
    decoded.ok_or_else(|| RedisError::Reply("the claims hash holds a value that is not an order id".into()))
}

/// Units held of a coupon, recorded or not.
pub async fn held_units(redis: &Redis, coupon: &CouponId) -> Result<i64, RedisError> {
    integer(&redis.call("HLEN", vec![redis.keys.claims(coupon).into()]).await?, "HLEN")
}

/// The order in the user's slot 1.
pub async fn held_by(redis: &Redis, coupon: &CouponId, user: &UserId) -> Result<Option<OrderId>, RedisError> {
    let args = vec![redis.keys.claims(coupon).into(), user.as_str().into()];
    match redis.call("HGET", args).await? {
        Value::Null => Ok(None),
        value => decode_order(&value).map(Some),
    }
}

/// The order in slot 1 of each user, in the order of the users; `None` also for a value that is not a claim.
pub async fn held_by_each(
    redis: &Redis,
    coupon: &CouponId,
    users: &[&UserId],
) -> Result<Vec<Option<OrderId>>, RedisError> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let mut args: Vec<Value> = vec![redis.keys.claims(coupon).into()];
    args.extend(users.iter().map(|user| Value::from(user.as_str())));
    let values = array(redis.call("HMGET", args).await?, "HMGET")?;
    Ok(values.iter().map(|value| decode_order(value).ok()).collect())
}

/// One page of fields with their values, not decoded, and the cursor of the next page; `0` is the end.
pub async fn scan(
    redis: &Redis,
    coupon: &CouponId,
    cursor: &str,
) -> Result<(Vec<(Bytes, Bytes)>, String), RedisError> {
    let count = i64::try_from(config::SCAN_PAGE_ENTRIES).unwrap_or(i64::MAX);
    let args = vec![redis.keys.claims(coupon).into(), cursor.into(), "COUNT".into(), count.into()];
    let mut reply = array(redis.call("HSCAN", args).await?, "HSCAN")?.into_iter();
    let cursor = reply.next().as_ref().and_then(text).unwrap_or_else(|| "0".into());
    let mut fields = array(reply.next().unwrap_or(Value::Null), "HSCAN fields")?
        .into_iter()
        .map(|value| value.into_bytes().unwrap_or_default());
    let mut page = Vec::new();
    while let (Some(field), Some(value)) = (fields.next(), fields.next()) {
        page.push((field, value));
    }
    Ok((page, cursor))
}

/// A whole claims hash.
#[derive(Default)]
pub struct ClaimsHash {
    /// Claims in slot 1.
    pub claims: HashMap<UserId, OrderId>,
    /// Claims in the slots above 1. For now no coupon has a limit above 1; a rebuild leaves these claims as they are.
    pub in_higher_slots: HashSet<ClaimField>,
    /// Fields that are not claims. Each takes a unit that no user holds.
    pub foreign_fields: HashSet<Bytes>,
}

impl ClaimsHash {
    /// Reads the hash in pages.
    pub async fn read(redis: &Redis, coupon: &CouponId) -> Result<Self, RedisError> {
        let mut hash = Self::default();
        let (mut page, mut cursor) = scan(redis, coupon, "0").await?;
        while cursor != "0" {
            // Decodes one page while Redis sends the next.
            let (next, ()) = tokio::join!(scan(redis, coupon, &cursor), async {
                hash.add_page(std::mem::take(&mut page));
            });
            (page, cursor) = next?;
        }
        hash.add_page(page);
        let claims = hash.in_higher_slots.len();
        if claims > 0 {
            tracing::warn!(%coupon, claims, "coupon {coupon}: {claims} claims in slots above 1 stay as they are");
        }
        Ok(hash)
    }

    /// The number of units that its fields hold.
    #[must_use]
    pub fn held(&self) -> usize {
        self.claims.len() + self.in_higher_slots.len() + self.foreign_fields.len()
    }

    /// HSCAN may return a field twice.
    fn add_page(&mut self, page: Vec<(Bytes, Bytes)>) {
        for (field, value) in page {
            match StoredClaim::decode(&field, &value) {
                Some(StoredClaim { field: ClaimField { user, slot: 1 }, order, .. }) => {
                    self.claims.insert(user, order);
                }
                Some(claim) => {
                    self.in_higher_slots.insert(claim.field);
                }
                // A copy: a reference to the field would keep its whole page in memory.
                None => {
                    self.foreign_fields.insert(Bytes::copy_from_slice(&field));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = "01a20dfc-6229-756f-bc31-2593204e6701";

    fn claim<'a>(user: &str, slot: i16, key: Option<&'a str>) -> StoredClaim<'a> {
        let field = ClaimField { user: user.parse().unwrap(), slot };
        StoredClaim { field, order: ORDER.parse().unwrap(), key }
    }

    #[test]
    fn a_claim_is_read_with_its_slot_and_key() {
        let with_key = format!("{ORDER} key-1");
        let longest = "k".repeat(config::IDEMPOTENCY_KEY_MAX_BYTES);
        let with_longest = format!("{ORDER} {longest}");
        for (field, value, expected) in [
            ("alice", ORDER, claim("alice", 1, None)),
            ("alice", &with_key, claim("alice", 1, Some("key-1"))),
            ("alice\u{1f}2", ORDER, claim("alice", 2, None)),
            ("alice\u{1f}2", &with_key, claim("alice", 2, Some("key-1"))),
            ("дейв smith\u{1f}16", &with_longest, claim("дейв smith", 16, Some(&longest))),
        ] {
            let decoded = StoredClaim::decode(field.as_bytes(), value.as_bytes());
            assert_eq!(decoded, Some(expected), "{field:?} {value:?}");
        }
    }

    #[test]
    fn an_encoded_claim_decodes_to_itself() {
        for slot in 1..=i16::try_from(config::PER_USER_LIMIT_MAX).unwrap() {
            for key in [None, Some("!"), Some("key-1")] {
                let claim = claim("e:v{e}", slot, key);
                let (field, value) = claim.encode();
                assert_eq!(StoredClaim::decode(field.as_bytes(), value.as_bytes()), Some(claim));
            }
        }
    }

    #[test]
    fn fields_that_the_program_never_writes_are_foreign() {
        for field in [
            "",
            "\u{1f}2",
            "alice\u{1f}",
            "alice\u{1f}1",
            "alice\u{1f}0",
            "alice\u{1f}17",
            "alice\u{1f}x",
            "alice\u{1f}02",
            "alice\u{1f}+2",
            "alice\u{1f}-2",
            "alice\u{1f}2\u{1f}2",
            "alice\n",
        ] {
            assert_eq!(StoredClaim::decode(field.as_bytes(), ORDER.as_bytes()), None, "{field:?}");
        }
        assert_eq!(StoredClaim::decode(b"\xff", ORDER.as_bytes()), None);
        let too_long = "k".repeat(config::IDEMPOTENCY_KEY_MAX_BYTES + 1);
        for key in [" ", "  key", " a b", " a\u{7f}", " клю", &format!(" {too_long}"), "x", "\u{1f}key"] {
            let value = format!("{ORDER}{key}");
            assert_eq!(StoredClaim::decode(b"alice", value.as_bytes()), None, "{value:?}");
        }
        for value in ["", "nonsense", "01a20dfc6229756fbc312593204e6701", " key-1"] {
            assert_eq!(StoredClaim::decode(b"alice", value.as_bytes()), None, "{value:?}");
        }
    }

    #[test]
    fn a_whole_hash_is_split_into_claims_and_foreign_fields() {
        let value = format!("{ORDER} key-1");
        let fields = [("alice", ORDER), ("bob", &value), ("bob\u{1f}2", &value), ("carol", "nonsense")];
        let page = fields.map(|(field, value)| {
            (Bytes::copy_from_slice(field.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
        });
        let mut hash = ClaimsHash::default();
        hash.add_page(page.to_vec());
        hash.add_page(page.to_vec());
        assert_eq!(hash.held(), 4);
        assert_eq!(hash.claims.len(), 2);
        assert_eq!(hash.in_higher_slots, HashSet::from([claim("bob", 2, None).field]));
        assert_eq!(hash.foreign_fields, HashSet::from([Bytes::from_static(b"carol")]));
    }
}
