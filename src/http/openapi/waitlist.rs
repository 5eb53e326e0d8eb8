//! The waiting list of a sold-out coupon.

use serde_json::{Value, json};
use utoipa::openapi::schema::OneOfBuilder;

use super::super::claims::{OnBehalf, OrderView};
use super::super::problem::Code;
use super::super::shapes;
use super::super::waitlist::PlaceView;
use super::operation::{Operation, Success};
use super::parts::of;

pub const TAG: &str = "Waiting list";
const PATH: &str = "/v1/coupons/{coupon}/waitlist";

/// Why a user does not get a place.
const JOIN_REFUSALS: [Code; 7] = [
    Code::IdempotencyKeyRequired,
    Code::UnknownCoupon,
    Code::NotSoldOut,
    Code::NoWaitlist,
    Code::WaitlistFull,
    Code::LimitReached,
    Code::Ended,
];

fn place() -> Value {
    json!({
        "coupon": "coffee", "user": "bob", "status": "waiting", "order": "01a22cd4-f870-74c1-bb6f-c9acd7f33a74",
        "place": 1, "waiting": 3
    })
}

pub fn operations() -> Vec<Operation> {
    vec![
        Operation::post(PATH, "join_waitlist", TAG)
            .text(
                "Join the line",
                "Takes the last place, if the coupon is sold out. `order` is the order that the user gets with a unit.",
            )
            .by_user()
            .coupon()
            .idempotency_key()
            .optional_body()
            .answers(state())
            .answers(Success::json::<PlaceView<'_>>(201, "The user has joined.", place()))
            .codes(&JOIN_REFUSALS),
        Operation::get(PATH, "show_place", TAG)
            .text(
                "The caller's place, or the order that came of it",
                "When `status` is no longer `waiting`, the user has got a unit with this order.",
            )
            .by_user()
            .coupon()
            .answers(state())
            .codes(&[Code::UnknownCoupon, Code::NotWaiting]),
        Operation::delete(PATH, "leave_waitlist", TAG)
            .text("Leave the line", "Can be repeated.")
            .by_user()
            .coupon()
            .answers(Success::empty(204, "The user does not wait."))
            .codes(&[Code::AlreadyServed]),
    ]
}

/// The admin's: the same for any user.
pub fn on_behalf(tag: &str) -> [Operation; 3] {
    const OF_USER: &str = "/v1/admin/coupons/{coupon}/waitlist/{user}";
    let of_user = |operation: Operation| {
        operation.by_admin().coupon().in_path("user", shapes::user(), "The user's id.")
    };
    [
        Operation::post("/v1/admin/coupons/{coupon}/waitlist", "join_waitlist_for_user", tag)
            .text("Join the line for a user", "As the user's own request, also in its repeats.")
            .by_admin()
            .coupon()
            .idempotency_key()
            .body::<OnBehalf>(&["application/json"], json!({"user": "bob"}))
            .answers(state())
            .answers(Success::json::<PlaceView<'_>>(201, "The user has joined.", place()))
            .codes(&JOIN_REFUSALS),
        of_user(Operation::get(OF_USER, "show_place_of_user", tag))
            .text(
                "A user's place, or the order that came of it",
                "When `status` is no longer `waiting`, the user has got a unit with this order.",
            )
            .answers(state())
            .codes(&[Code::UnknownCoupon, Code::NotWaiting]),
        of_user(Operation::delete(OF_USER, "leave_waitlist_for_user", tag))
            .text("Leave the line for a user", "Can be repeated.")
            .answers(Success::empty(204, "The user does not wait."))
            .codes(&[Code::AlreadyServed]),
    ]
}

/// A place, or the order of a user who has a unit already.
fn state() -> Success {
    let schema = OneOfBuilder::new().item(of::<PlaceView<'_>>()).item(of::<OrderView>());
    let description = "The place of a user who waits, or the order of a user who has got a unit.";
    Success::of_schema(200, description, schema.into(), place())
        .known::<PlaceView<'_>>()
        .known::<OrderView>()
        .with_header("Location", "With an order: its address.")
}
