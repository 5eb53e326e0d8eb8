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
            D::LineGone(c) => self.coupons[c].line = Key::Absent,
            D::LineOfWrongType(c) => self.coupons[c].line = Key::WrongType,
            D::LineOrdersGone(c) => self.coupons[c].line_orders = Key::Absent,
            D::LineOrdersOfWrongType(c) => self.coupons[c].line_orders = Key::WrongType,
            D::WaitingOrderGone(c) => {
                if let Some(user) = self.coupons[c].first_in_line() {
                    self.coupons[c].line_orders.fields().remove(&user);
                }
            }
            D::PlaceGone(c) => {
                if let Key::Is(users) = &mut self.coupons[c].line {
                    users.remove(0);
                }
            }
            D::HolderWaits(c) => {
                if let Some((field, _)) = self.coupons[c].any_holder() {
                    let (user, _slot) = field.split_once('\u{1f}').unwrap_or((&field, ""));
                    self.coupons[c].put_first_in_line(user);
                }
            }
            D::PositionOfWrongType => self.position = Key::WrongType,
            D::ValueWithKey(c) => {
                if let Some(mut value) = self.coupons[c].claims.fields().first_entry() {
                    value.get_mut().push_str(" key-1");
                }
            }
        }
        for coupon in &mut self.coupons {
            coupon.hash.settle();
            coupon.claims.settle();
            coupon.line_orders.settle();
            if matches!(&coupon.line, Key::Is(users) if users.is_empty()) {
                coupon.line = Key::Absent;
            }
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
            D::PositionOfWrongType => self.position = before.position.clone(),
            D::CouponGone(c)
            | D::CouponOfWrongType(c)
            | D::ClaimsGone(c)
            | D::ClaimsOfWrongType(c)
            | D::FieldGone(c, _)
            | D::FieldSpelled(c, ..)
            | D::StockMoved(c, _)
            | D::HolderGone(c)
            | D::ForeignField(c)
            | D::LineGone(c)
            | D::LineOfWrongType(c)
            | D::LineOrdersGone(c)
            | D::LineOrdersOfWrongType(c)
            | D::WaitingOrderGone(c)
            | D::PlaceGone(c)
            | D::HolderWaits(c)
            | D::ValueWithKey(c) => self.coupons[c] = before.coupons[c].clone(),
        }
    }
}
