//! Disturbances of the oracle's Redis, and their repair.

use seckill::domain::OrderId;

use crate::harness::READY;
use crate::history::Disturbance;
use crate::oracle::{Key, Oracle};

impl Oracle {
    /// Changes Redis as a person with redis-cli or a failure does.
    pub fn disturb(&mut self, disturbance: &Disturbance) {
        use Disturbance as D;
        match *disturbance {
            D::MarkerGone => self.marker = Key::Absent,
            D::MarkerBuilding => self.marker = Key::Is(READY.replace("ready", "building")),
            D::MarkerOfWrongType => self.marker = Key::WrongType,
            D::StreamGone => self.stream = Key::Absent,
            D::StreamOfWrongType => self.stream = Key::WrongType,
            D::CouponGone(c) => self.coupons[c].hash = Key::Absent,
            D::CouponOfWrongType(c) => self.coupons[c].hash = Key::WrongType,
            D::ClaimsGone(c) => self.coupons[c].claims = Key::Absent,
            D::ClaimsOfWrongType(c) => self.coupons[c].claims = Key::WrongType,
            D::FieldGone(c, field) => {
                self.coupons[c].hash.fields().remove(field);
            }
            D::FieldSpelled(c, field, spelling) => {
                if let Some(number) = self.coupons[c].hash.fields().get_mut(field) {
                    *number = spelling.write(number);
                }
            }
            D::StockMoved(c, by) => {
                let moved = self.coupons[c].number("stock") + by;
                self.coupons[c].hash.fields().insert("stock".into(), moved.to_string());
            }
            D::HolderGone(c) => {
                self.coupons[c].claims.fields().pop_first();
            }
            D::ForeignField(c) => {
                self.coupons[c].claims.fields().insert("stranger".into(), OrderId::mint().to_string());
            }
            D::StreamEnds(room) => self.room = Some(room),
            D::Forbidden(command) => self.forbidden = Some(command),
            D::ValueWithKey(c) => {
                if let Some(mut value) = self.coupons[c].claims.fields().first_entry() {
                    value.get_mut().push_str(" key-1");
                }
            }
        }
        for coupon in &mut self.coupons {
            coupon.hash.settle();
            coupon.claims.settle();
        }
    }

    /// Repairs the disturbance as a rebuild would. The stream is empty afterwards.
    pub fn mend(&mut self, disturbance: &Disturbance, before: &Self) {
        use Disturbance as D;
        match *disturbance {
            D::MarkerGone | D::MarkerBuilding | D::MarkerOfWrongType => {
                self.marker = before.marker.clone();
            }
            D::StreamGone | D::StreamOfWrongType => self.stream = Key::Is(Vec::new()),
            D::StreamEnds(_) => (self.stream, self.room) = (Key::Is(Vec::new()), None),
            D::Forbidden(_) => self.forbidden = None,
            D::CouponGone(c)
            | D::CouponOfWrongType(c)
            | D::ClaimsGone(c)
            | D::ClaimsOfWrongType(c)
            | D::FieldGone(c, _)
            | D::FieldSpelled(c, ..)
            | D::StockMoved(c, _)
            | D::HolderGone(c)
            | D::ForeignField(c)
            | D::ValueWithKey(c) => self.coupons[c] = before.coupons[c].clone(),
        }
    }
}
