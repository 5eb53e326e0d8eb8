//! The oracle: claim, publish and release in plain Rust, on plain values instead of Redis. `line_oracle.rs` has the
//! waiting list.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use seckill::domain::{ClaimOutcome, CouponId, Definition, OrderId, Refusal};
use seckill::redis::scripts::Published;
use seckill::redis::scripts::release::{EndedUnit, ReleaseOutcome, Released};
use seckill::redis::waitlist::Served;
use time::OffsetDateTime;

use crate::harness::READY;
use crate::history::{Batch, COUPONS, Edit, SentMarker, Time};
use crate::line_oracle::SERVES;

const ANOTHER_EPOCH: &str = "ready:6-c0ffee";
pub const PAST_SECONDS: i64 = 1_000_000_000;
const FUTURE_SECONDS: i64 = 32_503_680_000;

pub type Fields = BTreeMap<String, String>;

/// A key of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key<T> {
    Absent,
    WrongType,
    Is(T),
}

/// Why a script failed and wrote nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The script found a key of a wrong type.
    WrongType,
    /// Redis's user may not run a command that the script needs.
    Forbidden,
}
pub use Refused::WrongType;

impl<T> Key<T> {
    /// The content for a command of the right type.
    pub fn get(&self) -> Result<Option<&T>, Refused> {
        match self {
            Self::Absent => Ok(None),
            Self::WrongType => Err(WrongType),
            Self::Is(content) => Ok(Some(content)),
        }
    }
}

impl Key<Fields> {
    /// Creates the hash if it is absent, as HSET does.
    pub fn fields(&mut self) -> &mut Fields {
        if !matches!(self, Self::Is(_)) {
            *self = Self::Is(Fields::new());
        }
        match self {
            Self::Is(fields) => fields,
            _ => unreachable!("just made"),
        }
    }

    pub fn settle(&mut self) {
        if matches!(self, Self::Is(fields) if fields.is_empty()) {
            *self = Self::Absent;
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coupon {
    pub hash: Key<Fields>,
    pub claims: Key<Fields>,
    /// The users who wait, in order.
    pub line: Key<Vec<String>>,
    pub line_orders: Key<Fields>,
}

/// All of Redis: the actual or the expected content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oracle {
    pub marker: Key<String>,
    /// The recorded WAL position of Postgres.
    pub position: Key<String>,
    /// Fields of the order events, oldest first.
    pub stream: Key<Vec<Vec<String>>>,
    pub coupons: [Coupon; COUPONS],
    /// Number of all other keys.
    pub strays: i64,
    /// How many entries the stream can still take; `None` for any number.
    pub room: Option<usize>,
    /// A command that Redis's user may not run.
    pub forbidden: Option<&'static str>,
}

/// The expected reply to a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    Done(Vec<ExpectedClaim>),
    Fenced,
    Late,
    NoStream,
    InconsistentCoupon(usize),
    /// The stream is full: only the claims whose events fitted are made.
    Full,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedClaim {
    Outcome(ClaimOutcome),
    /// The real outcome also has the time of the script.
    NotStarted {
        starts_at_ms: i64,
    },
}

/// Whether stock + claims is the total.
pub enum Sum {
    Holds { stock: i64, total: i64 },
    Broken,
    Absent,
}

/// A whole number in the spelling that the program writes.
fn whole(text: Option<&String>) -> Option<i64> {
    let number: i64 = text?.parse().ok()?;
    (number.to_string() == *text?).then_some(number)
}

pub fn count<T>(items: impl Iterator<Item = T>) -> i64 {
    i64::try_from(items.count()).unwrap()
}

impl Coupon {
    pub fn sum(&self) -> Result<Sum, Refused> {
        let hash = self.hash.get()?;
        let held = self.claims.get()?.map_or(0, |claims| count(claims.iter()));
        let Some(hash) = hash else {
            return Ok(if held == 0 { Sum::Absent } else { Sum::Broken });
        };
        Ok(match (whole(hash.get("stock")), whole(hash.get("total"))) {
            (Some(stock), Some(total)) if stock + held == total => Sum::Holds { stock, total },
            _ => Sum::Broken,
        })
    }

    /// 0 if the field is not a whole number.
    pub fn number(&self, field: &str) -> i64 {
        match &self.hash {
            Key::Is(hash) => whole(hash.get(field)).unwrap_or(0),
            _ => 0,
        }
    }

    /// The slots of each user; 1 if a hand edit of the limit left no number.
    pub fn limit(&self) -> i64 {
        let Key::Is(hash) = &self.hash else { return 1 };
        whole(hash.get("per_user_limit")).unwrap_or(1).clamp(1, 16)
    }

    /// The user's held order with this key. Without a key: any held order of the user.
    pub fn held_with(&self, user: &str, key: Option<&str>) -> Option<OrderId> {
        let Some(key) = key else { return self.held_order(user) };
        let Key::Is(claims) = &self.claims else { return None };
        let mut fields = (1..=self.limit()).map(|slot| field(user, slot));
        let found = fields.find(|field| {
            let value = claims.get(field).and_then(|value| value.split_once(' '));
            value.is_some_and(|(_, of)| of == key)
        });
        self.held_order(&found?)
    }

    /// The stock. It is not for sale while users wait.
    fn for_sale(&self) -> i64 {
        let stock = self.number("stock");
        if self.is_awaited() == Ok(true) { stock.min(0) } else { stock }
    }

    pub fn held_order(&self, user: &str) -> Option<OrderId> {
        let Key::Is(claims) = &self.claims else { return None };
        claims.get(user)?.split(' ').next()?.parse().ok()
    }

    pub fn any_holder(&self) -> Option<(String, OrderId)> {
        let Key::Is(claims) = &self.claims else { return None };
        let (user, _) = claims.first_key_value()?;
        Some((user.clone(), self.held_order(user)?))
    }

    /// Why a claim is refused now for another reason than the stock.
    fn closed(&self) -> Option<ExpectedClaim> {
        let now_ms = now_ms();
        let (starts_at_ms, ends_at_ms) = (self.number("starts_at_ms"), self.number("ends_at_ms"));
        if ends_at_ms > 0 && now_ms >= ends_at_ms {
            return Some(ExpectedClaim::Outcome(ClaimOutcome::Refused(Refusal::Ended)));
        }
        if self.number("paused") == 1 {
            return Some(ExpectedClaim::Outcome(ClaimOutcome::Refused(Refusal::Paused)));
        }
        (now_ms < starts_at_ms).then_some(ExpectedClaim::NotStarted { starts_at_ms })
    }
}

impl Oracle {
    pub fn new() -> Self {
        let coupon =
            Coupon { hash: Key::Absent, claims: Key::Absent, line: Key::Absent, line_orders: Key::Absent };
        Self {
            marker: Key::Is(READY.into()),
            position: Key::Absent,
            stream: Key::Is(Vec::new()),
            coupons: std::array::from_fn(|_| coupon.clone()),
            strays: 0,
            room: None,
            forbidden: None,
        }
    }

    pub fn is_fenced(&self, sent: SentMarker) -> Result<bool, Refused> {
        Ok(self.marker.get()?.is_none_or(|marker| marker != marker_text(sent)))
    }

    /// Runs a script; a script that needs a forbidden command changes nothing.
    pub fn unless_forbidden<T>(
        &mut self,
        needed: &[&str],
        script: impl FnOnce(&mut Self) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let before = self.clone();
        let answer = script(self)?;
        if *self != before && self.forbidden.is_some_and(|forbidden| needed.contains(&forbidden)) {
            *self = before;
            return Err(Refused::Forbidden);
        }
        Ok(answer)
    }

    pub fn claim(&mut self, batch: &Batch, orders: &[OrderId]) -> Result<Expected, Refused> {
        self.unless_forbidden(&["XADD", "HSET", "HINCRBY"], |oracle| oracle.claim_all(batch, orders))
    }

    fn claim_all(&mut self, batch: &Batch, orders: &[OrderId]) -> Result<Expected, Refused> {
        if self.is_fenced(batch.marker)? {
            return Ok(Expected::Fenced);
        }
        if batch.deadline_passed {
            return Ok(Expected::Late);
        }
        if !matches!(self.stream, Key::Is(_)) {
            return Ok(Expected::NoStream);
        }
        let mut coupons = Vec::new();
        for &(coupon, ..) in &batch.claims {
            if !coupons.contains(&coupon) {
                coupons.push(coupon);
            }
        }
        // All checks come before all writes.
        for &coupon in &coupons {
            match self.coupons[coupon].sum()? {
                // Without stock there is nothing that users in line could be owed.
                Sum::Holds { stock, .. } if stock > 0 => drop(self.coupons[coupon].is_awaited()?),
                Sum::Holds { .. } => {}
                Sum::Absent if !batch.published[coupon] => {}
                Sum::Absent | Sum::Broken => return Ok(Expected::InconsistentCoupon(coupon)),
            }
        }
        let mut outcomes =
            vec![ExpectedClaim::Outcome(ClaimOutcome::Refused(Refusal::UnknownCoupon)); batch.claims.len()];
        for coupon in coupons {
            let members: Vec<usize> =
                (0..orders.len()).filter(|&index| batch.claims[index].0 == coupon).collect();
            for &index in &members {
                let (_, user, key) = batch.claims[index];
                let Some(outcome) = self.claim_one(coupon, user_name(user), key.map(key_name), orders[index])
                else {
                    return Ok(Expected::Full);
                };
                outcomes[index] = outcome;
            }
            // The outcome `Held` has the stock that is left after the whole batch.
            let left = self.coupons[coupon].for_sale().max(0);
            for index in members {
                if let ExpectedClaim::Outcome(ClaimOutcome::Held { stock, .. }) = &mut outcomes[index] {
                    *stock = left;
                }
            }
        }
        Ok(Expected::Done(outcomes))
    }

    /// One claim of a coupon that adds up or is unknown; `None` if its event does not fit into the stream.
    fn claim_one(
        &mut self,
        coupon: usize,
        user: &str,
        key: Option<&str>,
        order: OrderId,
    ) -> Option<ExpectedClaim> {
        let id = coupon_id(coupon);
        let coupon = &mut self.coupons[coupon];
        if coupon.hash == Key::Absent {
            return Some(ExpectedClaim::Outcome(ClaimOutcome::Refused(Refusal::UnknownCoupon)));
        }
        let limit = coupon.limit();
        let key = key.filter(|_| limit > 1);
        if limit > 1 && key.is_none() {
            return Some(ExpectedClaim::Outcome(ClaimOutcome::Refused(Refusal::KeyRequired)));
        }
        if let Some(order) = coupon.held_with(user, key) {
            return Some(ExpectedClaim::Outcome(ClaimOutcome::Held { order, stock: 0 }));
        }
        if let Some(closed) = coupon.closed() {
            return Some(closed);
        }
        let Some(slot) = (1..=limit).find(|&slot| coupon.held_order(&field(user, slot)).is_none()) else {
            return Some(ExpectedClaim::Outcome(ClaimOutcome::Refused(Refusal::LimitReached)));
        };
        let stock = coupon.for_sale();
        if stock <= 0 {
            return Some(ExpectedClaim::Outcome(ClaimOutcome::Refused(Refusal::SoldOut)));
        }
        if let Some(room) = &mut self.room {
            *room = room.checked_sub(1)?;
        }
        coupon.hash.fields().insert("stock".into(), (stock - 1).to_string());
        let mut value = order.to_string();
        let mut event = ["order", &value, "coupon", id.as_str(), "user", user].map(str::to_owned).to_vec();
        if let Some(key) = key {
            value = format!("{order} {key}");
            event.extend(["slot", &slot.to_string(), "key", key].map(str::to_owned));
        }
        coupon.claims.fields().insert(field(user, slot), value);
        if let Key::Is(stream) = &mut self.stream {
            stream.push(event);
        }
        Some(ExpectedClaim::Outcome(ClaimOutcome::Accepted { stock: stock - 1 }))
    }

    pub fn publish(&mut self, edit: &Edit, definition: &Definition) -> Result<Published, Refused> {
        self.unless_forbidden(&["HSET"], |oracle| oracle.publish_any(edit, definition))
    }

    fn publish_any(&mut self, edit: &Edit, definition: &Definition) -> Result<Published, Refused> {
        if self.is_fenced(edit.marker)? {
            return Ok(Published::Fenced);
        }
        if !matches!(self.stream, Key::Is(_)) {
            return Ok(Published::Inconsistent);
        }
        let coupon = &mut self.coupons[edit.coupon];
        let (stock, old_total) = match coupon.sum()? {
            Sum::Absent if edit.just_inserted => (0, 0),
            Sum::Absent | Sum::Broken => return Ok(Published::Inconsistent),
            Sum::Holds { stock, total } => (stock, total),
        };
        if matches!(&coupon.hash, Key::Is(_)) && coupon.number("version") >= definition.version {
            return Ok(Published::Current);
        }
        let seconds = |time: Option<OffsetDateTime>| time.map_or(0, |t| t.unix_timestamp() * 1_000);
        let fields = [
            ("stock", (stock + definition.total - old_total).to_string()),
            ("total", definition.total.to_string()),
            ("version", definition.version.to_string()),
            ("title", definition.title.clone()),
            ("starts_at_ms", seconds(definition.starts_at).to_string()),
            ("ends_at_ms", seconds(definition.ends_at).to_string()),
            ("paused", i64::from(definition.paused).to_string()),
            ("per_user_limit", definition.per_user_limit.to_string()),
            ("reserve_seconds", "0".into()),
            ("durability", "redis".into()),
            ("waitlist", i64::from(definition.waitlist).to_string()),
            ("unlisted", "0".into()),
        ];
        let hash = coupon.hash.fields();
        hash.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        Ok(Published::Applied)
    }

    pub fn release(
        &mut self,
        coupon: usize,
        units: &[EndedUnit],
        marker: SentMarker,
    ) -> Result<ReleaseOutcome, Refused> {
        let gives = self.gives_to_line(coupon) == Ok(true);
        let needed = if gives { &SERVES[..] } else { &["HDEL", "HINCRBY"] };
        self.unless_forbidden(needed, |oracle| oracle.release_all(coupon, units, marker))
    }

    fn release_all(
        &mut self,
        coupon: usize,
        units: &[EndedUnit],
        marker: SentMarker,
    ) -> Result<ReleaseOutcome, Refused> {
        if self.is_fenced(marker)? {
            return Ok(ReleaseOutcome::Fenced);
        }
        if !matches!(self.stream, Key::Is(_)) {
            return Ok(ReleaseOutcome::Inconsistent);
        }
        let number = coupon;
        let coupon = &mut self.coupons[number];
        let Sum::Holds { stock, total } = coupon.sum()? else { return Ok(ReleaseOutcome::Inconsistent) };
        if coupon.has_damaged_line()? {
            return Ok(ReleaseOutcome::Inconsistent);
        }
        let version = coupon.number("version");
        let result = |unit: &EndedUnit| match unit.after_version {
            _ if coupon.held_order(&unit.field) != Some(unit.order) => Released::NotHeld,
            Some(after) if after > 0 && version < after => Released::TooEarly,
            _ => Released::Released,
        };
        let released: Vec<Released> = units.iter().map(result).collect();
        if !released.contains(&Released::Released) {
            return Ok(ReleaseOutcome::Done { units: released, served: Served::default() });
        }
        let gives = self.gives_to_line(number)?;
        let coupon = &mut self.coupons[number];
        for (unit, _) in units.iter().zip(&released).filter(|(_, r)| **r == Released::Released) {
            coupon.claims.fields().remove(&unit.field);
        }
        coupon.claims.settle();
        let held = coupon.claims.get()?.map_or(0, |claims| count(claims.iter()));
        let now = total - held;
        assert!(stock < now, "a unit is back");
        coupon.hash.fields().insert("stock".into(), now.to_string());
        // Only units that came back now, and none while more units are held than the total allows.
        let served = if gives { self.serve_line(number, now.min(now - stock)).0 } else { Served::default() };
        Ok(ReleaseOutcome::Done { units: released, served })
    }
}

pub fn coupon_id(number: usize) -> CouponId {
    ["coffee", "tea", "cake"][number].parse().unwrap()
}

/// Names with characters that must arrive unchanged in arguments and fields.
pub fn user_name(number: usize) -> &'static str {
    ["alice", "bob", "carol smith", "дейв", "e:v{e}"][number]
}

pub fn key_name(number: usize) -> &'static str {
    ["key-1", "!", "a:b{c}", "~~~"][number]
}

/// `<user>` for slot 1, `<user>\x1f<slot>` for each higher slot.
pub fn field(user: &str, slot: i64) -> String {
    if slot == 1 { user.to_owned() } else { format!("{user}\u{1f}{slot}") }
}

pub fn marker_text(sent: SentMarker) -> &'static str {
    match sent {
        SentMarker::Ours => READY,
        SentMarker::OfAnotherEpoch => ANOTHER_EPOCH,
    }
}

pub fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

pub fn moment(time: Time) -> Option<OffsetDateTime> {
    let seconds = match time {
        Time::None => return None,
        Time::Past => PAST_SECONDS,
        Time::Future => FUTURE_SECONDS,
    };
    Some(OffsetDateTime::from_unix_timestamp(seconds).unwrap())
}
