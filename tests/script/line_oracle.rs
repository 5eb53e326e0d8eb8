//! The oracle of the waiting list: join, leave, serve, and the units of a release, in plain Rust.

use seckill::domain::{JoinRefusal, OrderId};
use seckill::redis::waitlist::{LineOutcome, Served, Standing, Standings};

use crate::history::{Join, SentMarker};
use crate::oracle::{Coupon, Key, Oracle, Refused, Sum, coupon_id, field, key_name, now_ms, user_name};

/// What a script needs to give units to users in line.
pub const SERVES: [&str; 5] = ["XADD", "HSET", "HINCRBY", "ZREM", "HDEL"];

impl Key<Vec<String>> {
    fn users(&self) -> Vec<String> {
        match self {
            Self::Is(users) => users.clone(),
            _ => Vec::new(),
        }
    }

    fn set(&mut self, users: Vec<String>) {
        *self = if users.is_empty() { Self::Absent } else { Self::Is(users) };
    }
}

impl Coupon {
    fn has_waitlist(&self) -> bool {
        self.number("waitlist") == 1
    }

    /// Whether users wait, so that no unit is for sale.
    pub fn is_awaited(&self) -> Result<bool, Refused> {
        Ok(self.has_waitlist() && self.line.get()?.is_some())
    }

    /// Whether there is an order for each user in line; a line without that is damaged.
    fn line_is_whole(&self) -> Result<bool, Refused> {
        let users = self.line.get()?.map_or(0, Vec::len);
        Ok(users == self.line_orders.get()?.map_or(0, std::collections::BTreeMap::len))
    }

    /// Whether users who wait would be passed over.
    pub fn has_damaged_line(&self) -> Result<bool, Refused> {
        Ok(self.has_waitlist() && !self.line_is_whole()?)
    }

    fn has_ended(&self) -> bool {
        let ends_at_ms = self.number("ends_at_ms");
        ends_at_ms > 0 && now_ms() >= ends_at_ms
    }

    /// Whether units may go to users in line now.
    fn serves(&self) -> bool {
        self.has_waitlist() && !self.has_ended() && self.number("paused") != 1
    }

    /// The lowest slot without a unit.
    fn free_slot(&self, user: &str) -> Option<i64> {
        (1..=self.limit()).find(|&slot| self.held_order(&field(user, slot)).is_none())
    }

    fn waiting_value(&self, user: &str) -> Option<String> {
        let Key::Is(orders) = &self.line_orders else { return None };
        orders.get(user).cloned()
    }

    pub fn waiting(&self) -> i64 {
        i64::try_from(self.line.users().len()).unwrap()
    }

    pub fn first_in_line(&self) -> Option<String> {
        self.line.users().into_iter().next()
    }

    /// Puts a user in front of the line, as a person with redis-cli could.
    pub fn put_first_in_line(&mut self, user: &str) {
        let mut users = self.line.users();
        users.retain(|other| other != user);
        users.insert(0, user.to_owned());
        self.line.set(users);
        self.line_orders.fields().insert(user.to_owned(), OrderId::mint().to_string());
    }

    fn leave_line(&mut self, user: &str) {
        let mut users = self.line.users();
        users.retain(|other| other != user);
        self.line.set(users);
        if let Key::Is(orders) = &mut self.line_orders {
            orders.remove(user);
        }
        self.line_orders.settle();
    }

    /// Why a user who is not in line may not join; `None` if the user may.
    fn refuses(&self, user: &str, key: Option<&str>, waiting: i64) -> Option<Standing> {
        let key = key.filter(|_| self.limit() > 1);
        if self.limit() > 1 && key.is_none() {
            return Some(Standing::Refused(JoinRefusal::KeyRequired));
        }
        if let Some(order) = self.held_with(user, key) {
            return Some(Standing::Held(order));
        }
        let refusal = if self.free_slot(user).is_none() {
            JoinRefusal::LimitReached
        } else if self.has_ended() {
            JoinRefusal::Ended
        } else if self.number("stock") > 0 && waiting == 0 {
            JoinRefusal::NotSoldOut
        } else {
            return None;
        };
        Some(Standing::Refused(refusal))
    }
}

fn order_of(value: &str) -> OrderId {
    value.split(' ').next().unwrap().parse().unwrap()
}

impl Oracle {
    pub fn join(&mut self, join: &Join, orders: &[OrderId]) -> Result<LineOutcome<Standings>, Refused> {
        self.unless_forbidden(&["ZADD", "HSET", "SET"], |oracle| oracle.join_all(join, orders))
    }

    fn join_all(&mut self, join: &Join, orders: &[OrderId]) -> Result<LineOutcome<Standings>, Refused> {
        if self.is_fenced(join.marker)? {
            return Ok(LineOutcome::Fenced);
        }
        if !matches!(self.stream, Key::Is(_)) {
            return Ok(LineOutcome::Inconsistent);
        }
        let coupon = &mut self.coupons[join.coupon];
        if matches!(coupon.sum()?, Sum::Broken) || !coupon.line_is_whole()? {
            return Ok(LineOutcome::Inconsistent);
        }
        let recorded = self.position.get()?.cloned();
        // Every user is told the place in the line as it was before the batch, or the place that the batch gave.
        let mut line = coupon.line.users();
        let mut joined: Vec<(&str, i64, OrderId, Option<&str>)> = Vec::new();
        let mut waiting = coupon.waiting();
        let mut standings = Vec::new();
        for (&(user, key), &order) in join.users.iter().zip(orders) {
            let (user, key) = (user_name(user), key.map(key_name));
            if !coupon.has_waitlist() {
                standings.push(Standing::Refused(JoinRefusal::NoWaitlist));
                continue;
            }
            let rank = line.iter().position(|other| other == user);
            let before = joined.iter().find(|(other, ..)| *other == user && join.position.is_some());
            if let Some(&(_, place, order, _)) = before {
                standings.push(Standing::Waits { place, order });
            } else if let (Some(rank), Some(value)) = (rank, coupon.waiting_value(user)) {
                let place = i64::try_from(rank).unwrap() + 1;
                standings.push(Standing::Waits { place, order: order_of(&value) });
            } else if let Some(refused) = coupon.refuses(user, key, waiting) {
                standings.push(refused);
            } else {
                // A place without an order does not count: its user is the last now.
                waiting += i64::from(rank.is_none());
                joined.push((user, waiting, order, key));
                standings.push(Standing::Joined(waiting));
            }
        }
        if let Some(position) = join.position.filter(|_| !joined.is_empty()) {
            let position = position_text(position);
            self.position = Key::Is(recorded.unwrap_or_default().max(position));
            for (user, _, order, key) in joined {
                line.retain(|other| other != user);
                line.push(user.to_owned());
                let value = match key.filter(|_| coupon.limit() > 1) {
                    Some(key) => format!("{order} {key}"),
                    None => order.to_string(),
                };
                coupon.line_orders.fields().insert(user.to_owned(), value);
            }
            coupon.line.set(line);
        }
        let waiting = coupon.waiting();
        Ok(LineOutcome::Done(Standings { waiting, users: standings }))
    }

    pub fn leave(
        &mut self,
        coupon: usize,
        user: usize,
        marker: SentMarker,
    ) -> Result<LineOutcome<Option<OrderId>>, Refused> {
        self.unless_forbidden(&["ZREM", "HDEL"], |oracle| {
            if oracle.is_fenced(marker)? {
                return Ok(LineOutcome::Fenced);
            }
            let (coupon, user) = (&mut oracle.coupons[coupon], user_name(user));
            coupon.line.get()?;
            coupon.line_orders.get()?;
            let is_in_line = coupon.line.users().iter().any(|other| other == user);
            let value = coupon.waiting_value(user).filter(|_| is_in_line);
            if is_in_line {
                coupon.leave_line(user);
            }
            Ok(LineOutcome::Done(value.map(|value| order_of(&value))))
        })
    }

    pub fn serve(
        &mut self,
        coupon: usize,
        marker: SentMarker,
    ) -> Result<LineOutcome<(Served, i64)>, Refused> {
        self.unless_forbidden(&SERVES, |oracle| {
            let nothing = LineOutcome::Done((Served::default(), 0));
            if oracle.is_fenced(marker)? {
                return Ok(LineOutcome::Fenced);
            }
            if !oracle.coupons[coupon].line_is_whole()? {
                return Ok(LineOutcome::Inconsistent);
            }
            if oracle.coupons[coupon].line.get()?.is_none() {
                return Ok(nothing);
            }
            if !matches!(oracle.stream, Key::Is(_)) {
                return Ok(LineOutcome::Inconsistent);
            }
            let Sum::Holds { stock, .. } = oracle.coupons[coupon].sum()? else {
                return Ok(LineOutcome::Inconsistent);
            };
            if stock <= 0 || !oracle.coupons[coupon].serves() {
                return Ok(nothing);
            }
            let (served, is_full) = oracle.serve_line(coupon, stock);
            let waiting = oracle.coupons[coupon].waiting();
            let left = if is_full { 0 } else { waiting.min(stock - served.units) };
            Ok(LineOutcome::Done((served, left)))
        })
    }

    /// Whether units that come back go to users in line.
    pub fn gives_to_line(&self, coupon: usize) -> Result<bool, Refused> {
        let coupon = &self.coupons[coupon];
        if !coupon.is_awaited()? || !coupon.serves() {
            return Ok(false);
        }
        Ok(true)
    }

    /// One unit for each of the first `units` users, except for those who may hold no more. Returns the units that were
    /// given, and whether the stream became full.
    pub fn serve_line(&mut self, coupon: usize, units: i64) -> (Served, bool) {
        let id = coupon_id(coupon);
        let coupon = &mut self.coupons[coupon];
        let mut given = Served::default();
        for user in coupon.line.users().into_iter().take(usize::try_from(units).unwrap_or(0)) {
            let value = coupon.waiting_value(&user);
            let key = value.as_deref().and_then(|value| value.split_once(' ')).map(|(_, key)| key.to_owned());
            let is_repeat = match coupon.limit() {
                1 => false,
                _ => key.is_some() && coupon.held_with(&user, key.as_deref()).is_some(),
            };
            if let (Some(value), Some(slot), false) = (value, coupon.free_slot(&user), is_repeat) {
                match self.room.as_mut() {
                    Some(0) => return (given, true),
                    Some(room) => *room -= 1,
                    None => {}
                }
                let order = order_of(&value).to_string();
                let mut event =
                    ["order", &order, "coupon", id.as_str(), "user", &user].map(str::to_owned).to_vec();
                if slot > 1 || key.is_some() {
                    event.extend(["slot".to_owned(), slot.to_string()]);
                }
                event.extend(key.into_iter().flat_map(|key| ["key".to_owned(), key]));
                if let Key::Is(stream) = &mut self.stream {
                    stream.push(event);
                }
                coupon.claims.fields().insert(field(&user, slot), value);
                let stock = coupon.number("stock") - 1;
                coupon.hash.fields().insert("stock".into(), stock.to_string());
                given.units += 1;
                given.orders.push(order.parse().unwrap());
            }
            coupon.leave_line(&user);
        }
        (given, false)
    }
}

pub fn position_text(number: u8) -> String {
    format!("00000000/{number:08X}")
}
