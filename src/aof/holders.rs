//! The stock, the claims hash and the waiting list of a coupon during a replay.

use bytes::Bytes;

use super::coupons::Held;
use super::state::State;
use super::stream::{Misfit, number};
use super::transaction::{Changes, Claimed};
use crate::domain::CouponId;
use crate::redis::claims_hash::{ClaimField, StoredClaim, encode_value};

/// A claim in the one form that the program writes.
fn claim_of(field: &[u8], value: &[u8]) -> Option<StoredClaim> {
    let claim = StoredClaim::decode(field, value)?;
    (encode_value(claim.order, claim.key.as_ref()).as_bytes() == value).then_some(claim)
}

impl State {
    pub(super) fn move_stock(
        &mut self,
        id: CouponId,
        words: &[Bytes],
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let coupon = self.coupons.entry(id.clone()).or_default();
        changes.coupons.insert(id);
        let [field, by] = words else { return Err("HINCRBY has another form".into()) };
        if field != "stock" {
            return Err("a field of the coupon is counted that is not its stock".into());
        }
        let stock = coupon.number("stock").ok_or("the stock is not a number")? + number::<i64>(by)?;
        coupon.hash.insert("stock".into(), stock.to_string());
        Ok(())
    }

    pub(super) fn hold(
        &mut self,
        id: &CouponId,
        words: &[Bytes],
        changes: &mut Changes,
        is_strict: bool,
    ) -> Result<(), Misfit> {
        let place = changes.place;
        let coupon = self.coupons.entry(id.clone()).or_default();
        changes.coupons.insert(id.clone());
        for pair in words.chunks(2) {
            let claim = match pair {
                [field, value] => claim_of(field, value),
                _ => None,
            };
            let StoredClaim { field, order, key } =
                claim.ok_or("a field of the claims hash is not a claim")?;
            if is_strict && i64::from(field.split().1) > coupon.limit() {
                return Err(format!("a slot of {} above the limit", field.user()).into());
            }
            let held = Held { order, key: key.clone(), place };
            if let Some(before) = coupon.held.insert(field.clone(), held) {
                if is_strict {
                    return Err(format!("a unit of {} is given away while it is held", field.user()).into());
                }
                self.holders.remove(&before.order);
            }
            if let Some((other, holder)) = self.holders.insert(order, (id.clone(), field.clone()))
                && (&other, &holder) != (id, &field)
            {
                return Err(format!(
                    "order {order} holds two units, of {} and {}",
                    holder.user(),
                    field.user()
                )
                .into());
            }
            changes.claims.push(Claimed { coupon: id.clone(), field, order, key });
        }
        Ok(())
    }

    pub(super) fn release(
        &mut self,
        id: &CouponId,
        words: &[Bytes],
        changes: &mut Changes,
        is_strict: bool,
    ) -> Result<(), Misfit> {
        let coupon = self.coupons.entry(id.clone()).or_default();
        changes.coupons.insert(id.clone());
        for (number, word) in words.iter().enumerate() {
            let field = ClaimField::decode(word).ok_or("a field of the claims hash is not a user")?;
            match coupon.held.remove(&field) {
                Some(held) => {
                    self.holders.remove(&held.order);
                    self.released.insert(held.order, changes.place);
                }
                // A call may name a field twice.
                None if !is_strict || words[..number].contains(word) => {}
                None => return Err(format!("a unit of {} is returned that is not held", field.user()).into()),
            }
        }
        Ok(())
    }

    /// Joins: each gets the place after the last one.
    pub(super) fn place(
        &mut self,
        id: &CouponId,
        words: &[Bytes],
        changes: &mut Changes,
        is_strict: bool,
    ) -> Result<(), Misfit> {
        let coupon = self.coupons.entry(id.clone()).or_default();
        for pair in words.chunks(2) {
            let [score, user] = pair else { return Err("ZADD has another form".into()) };
            let score: u64 = number(score)?;
            let last = coupon.line.last_key_value().map_or(0, |(last, _)| *last);
            if is_strict && score != last + 1 {
                return Err("a place in a waiting list is not the last one".into());
            }
            if let Some(old) = coupon.scores.insert(user.clone(), score) {
                coupon.line.remove(&old);
            }
            coupon.line.insert(score, user.clone());
            changes.placed.push((id.clone(), user.clone()));
        }
        Ok(())
    }

    pub(super) fn unplace(
        &mut self,
        id: &CouponId,
        words: &[Bytes],
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let coupon = self.coupons.entry(id.clone()).or_default();
        for user in words {
            let score = coupon.scores.remove(user).ok_or("a user leaves a waiting list without a place")?;
            coupon.line.remove(&score);
            changes.placed.push((id.clone(), user.clone()));
        }
        Ok(())
    }

    pub(super) fn promise(
        &mut self,
        id: &CouponId,
        words: &[Bytes],
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let coupon = self.coupons.entry(id.clone()).or_default();
        for pair in words.chunks(2) {
            let [user, value] = pair else { return Err("HSET has another form".into()) };
            if claim_of(user, value).is_none() {
                return Err("a place in a waiting list has no order".into());
            }
            coupon.promises.insert(user.clone(), (value.clone(), changes.place));
            changes.promised.push((id.clone(), user.clone()));
        }
        Ok(())
    }

    /// Leaves the line, or is served: then with the order of the place.
    pub(super) fn unpromise(
        &mut self,
        id: &CouponId,
        words: &[Bytes],
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let coupon = self.coupons.entry(id.clone()).or_default();
        for user in words {
            let promised = coupon.promises.remove(user);
            let (value, place) = promised.ok_or("a user leaves a waiting list without an order")?;
            changes.kept.push((id.clone(), user.clone(), value, place));
            changes.promised.push((id.clone(), user.clone()));
        }
        Ok(())
    }
}
