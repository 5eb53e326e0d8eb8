//! The claims hash of a coupon: which order holds each unit that is taken. Owns the format of its fields and values,
//! and the reads. Scripts write the hash; `scripts.rs` and `rebuild.rs` call these scripts.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use fred::types::Value;

use super::{Redis, RedisError, array, integer, text};
use crate::config;
use crate::domain::{CouponId, IdempotencyKey, OrderId, UserId};

/// Separates the user from the slot in a field. No user id contains a control character.
const SLOT_SEPARATOR: char = '\u{1f}';

/// Separates the order from the Idempotency-Key in a value.
const KEY_SEPARATOR: char = ' ';

/// A field of the hash: one unit of a user. Slots are numbered from 1 to the coupon's limit for each user. Stores only
/// the field's text, because a rebuild may have millions of fields in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimField(Arc<str>);

impl ClaimField {
    #[must_use]
    pub fn new(user: &UserId, slot: i16) -> Self {
        Self(encode_field(user.as_str(), slot).into())
    }

    /// `None` for a field that this program never writes.
    #[must_use]
    pub fn decode(field: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(field).ok()?;
        let user = match text.split_once(SLOT_SEPARATOR) {
            Some((user, slot)) => decode_slot(slot).map(|_| user)?,
            None => text,
        };
        user.parse::<UserId>().is_ok().then(|| Self(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// # Panics
    /// Never: the user was checked when the field was made.
    #[must_use]
    pub fn user(&self) -> UserId {
        self.split().0.parse().expect("a field has a valid user")
    }

    /// The user and the slot.
    #[must_use]
    pub fn split(&self) -> (&str, i16) {
        match self.0.split_once(SLOT_SEPARATOR) {
            Some((user, slot)) => (user, decode_slot(slot).unwrap_or(1)),
            None => (&self.0, 1),
        }
    }
}

impl Borrow<str> for ClaimField {
    fn borrow(&self) -> &str {
        &self.0
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
pub struct StoredClaim {
    pub field: ClaimField,
    pub order: OrderId,
    /// The claim's Idempotency-Key. Only a coupon of which a user may hold several units has keys.
    pub key: Option<IdempotencyKey>,
}

impl StoredClaim {
    /// `None` for a foreign field: this program never writes it.
    #[must_use]
    pub fn decode(field: &[u8], value: &[u8]) -> Option<Self> {
        let (order, key) = decode_value(value)?;
        Some(Self { field: ClaimField::decode(field)?, order, key })
    }
}

/// `<order>` or `<order> <key>`.
#[must_use]
pub fn encode_value(order: OrderId, key: Option<&IdempotencyKey>) -> String {
    match key {
        Some(key) => format!("{order}{KEY_SEPARATOR}{key}"),
        None => order.to_string(),
    }
}

pub(super) fn decode_value(value: &[u8]) -> Option<(OrderId, Option<IdempotencyKey>)> {
    let value = std::str::from_utf8(value).ok()?;
    match value.split_once(KEY_SEPARATOR) {
        Some((order, key)) => Some((order.parse().ok()?, Some(key.parse().ok()?))),
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

/// The orders in all slots of the user, the lowest slot first.
pub async fn held_by(redis: &Redis, coupon: &CouponId, user: &UserId) -> Result<Vec<OrderId>, RedisError> {
    let most = i16::try_from(config::PER_USER_LIMIT_MAX).unwrap_or(i16::MAX);
    let fields: Vec<ClaimField> = (1..=most).map(|slot| ClaimField::new(user, slot)).collect();
    Ok(held_in(redis, coupon, &fields).await?.into_iter().flatten().map(|(order, _)| order).collect())
}

/// The order and Idempotency-Key in each of these fields; `None` for an absent field or an unreadable value.
pub async fn held_in(
    redis: &Redis,
    coupon: &CouponId,
    fields: &[ClaimField],
) -> Result<Vec<Option<(OrderId, Option<IdempotencyKey>)>>, RedisError> {
    if fields.is_empty() {
        return Ok(Vec::new());
    }
    let mut args: Vec<Value> = vec![redis.keys.claims(coupon).into()];
    args.extend(fields.iter().map(|field| Value::from(field.as_str())));
    let values = array(redis.call("HMGET", args).await?, "HMGET")?;
    Ok(values.iter().map(|value| value.as_bytes().and_then(decode_value)).collect())
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

/// The Idempotency-Keys of claims. They are separate from the claims to save memory, because most coupons have no keys.
pub type KeysByOrder = HashMap<OrderId, IdempotencyKey>;

/// A whole claims hash.
#[derive(Default)]
pub struct ClaimsHash {
    pub claims: HashMap<ClaimField, OrderId>,
    pub keys: KeysByOrder,
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
        Ok(hash)
    }

    /// The number of units that its fields hold.
    #[must_use]
    pub fn held(&self) -> usize {
        self.claims.len() + self.foreign_fields.len()
    }

    /// HSCAN may return a field twice.
    fn add_page(&mut self, page: Vec<(Bytes, Bytes)>) {
        for (field, value) in page {
            match StoredClaim::decode(&field, &value) {
                Some(StoredClaim { field, order, key }) => {
                    self.claims.insert(field, order);
                    self.keys.extend(key.map(|key| (order, key)));
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

    fn claim(user: &str, slot: i16, key: Option<&str>) -> StoredClaim {
        let field = ClaimField::new(&user.parse().unwrap(), slot);
        StoredClaim { field, order: ORDER.parse().unwrap(), key: key.map(|key| key.parse().unwrap()) }
    }

    #[test]
    fn a_claim_is_read_with_its_slot_and_key() {
        let with_key = format!("{ORDER} key-1");
        let longest = "k".repeat(config::IDEMPOTENCY_KEY_MAX_BYTES);
        let with_longest = format!("{ORDER} {longest}");
        for (field, value, user, slot, key) in [
            ("alice", ORDER, "alice", 1, None),
            ("alice", &with_key, "alice", 1, Some("key-1")),
            ("alice\u{1f}2", ORDER, "alice", 2, None),
            ("alice\u{1f}2", &with_key, "alice", 2, Some("key-1")),
            ("дейв smith\u{1f}16", &with_longest, "дейв smith", 16, Some(longest.as_str())),
        ] {
            let decoded = StoredClaim::decode(field.as_bytes(), value.as_bytes()).unwrap();
            assert_eq!(decoded, claim(user, slot, key), "{field:?} {value:?}");
            assert_eq!(decoded.field.split(), (user, slot), "{field:?}");
        }
    }

    #[test]
    fn an_encoded_claim_decodes_to_itself() {
        for slot in 1..=i16::try_from(config::PER_USER_LIMIT_MAX).unwrap() {
            for key in [None, Some("!"), Some("key-1")] {
                let claim = claim("e:v{e}", slot, key);
                let value = encode_value(claim.order, claim.key.as_ref());
                let decoded = StoredClaim::decode(claim.field.as_str().as_bytes(), value.as_bytes());
                assert_eq!(decoded, Some(claim));
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
        let order = ORDER.parse().unwrap();
        let expected =
            [("alice", 1), ("bob", 1), ("bob", 2)].map(|(user, slot)| (claim(user, slot, None).field, order));
        assert_eq!(hash.claims, HashMap::from(expected));
        assert_eq!(hash.keys, HashMap::from([(order, "key-1".parse().unwrap())]));
        assert_eq!(hash.foreign_fields, HashSet::from([Bytes::from_static(b"carol")]));
    }
}
