//! The program's words as types and pure rules. No input or output here.

mod audit;
mod claim;
mod coupon;
mod definition;
mod durability;
mod ids;
mod order;
mod partition;
mod schema;
mod time;
mod transition;
mod waitlist;

pub use self::time::{InvalidTime, parse_time, rfc3339};
pub use audit::{AuditAction, Origin};
pub use claim::{Claim, ClaimOutcome, Refusal};
pub use coupon::{CouponSnapshot, CouponState, FieldDifference};
pub use definition::{CouponPatch, Definition, FieldChange, InvalidDefinition, NewCoupon, Spread, is_title};
pub use durability::{ClaimDurability, InvalidDurability};
pub use ids::{CouponId, IdempotencyKey, InvalidId, OrderId, UserId};
pub use order::{Order, OrderEvent, OrderStatus, UnreadableEvent};
pub use partition::{Epoch, Partition, counter, home};
pub use transition::{Transition, TransitionRefusal, is_reason};
pub use waitlist::{JoinRefusal, WaitingUser};
