//! Claims and the orders that a user holds of a coupon.

use serde_json::{Value, json};

use super::super::claims::{OnBehalf, OrderView};
use super::super::problem::Code;
use super::operation::{Operation, Success};

pub const TAG: &str = "Claims";

/// Why a claim gets no unit, and other answers to a claim that are no success.
pub const REFUSALS: [Code; 10] = [
    Code::IdempotencyKeyRequired,
    Code::UnknownCoupon,
    Code::SoldOut,
    Code::LimitReached,
    Code::NotStarted,
    Code::Ended,
    Code::Paused,
    Code::Rejected,
    Code::NotRecordedYet,
    Code::NotReplicatedYet,
];

pub fn accepted() -> Value {
    json!({
        "order": "01a20ddb-383c-73ca-9e44-c5cfc51aaa8d", "coupon": "coffee", "user": "alice", "status": "accepted",
        "claimed_at": "2026-11-24T14:00:00.316Z", "recorded_at": null, "reserved_until": null, "ended_at": null,
        "reason": null, "stock": 99
    })
}

/// An order in Postgres, with these changes.
pub fn recorded(changes: &Value) -> Value {
    let mut order = accepted();
    order["status"] = "confirmed".into();
    order["recorded_at"] = "2026-11-24T14:00:00.329115Z".into();
    for (name, value) in changes.as_object().into_iter().flatten() {
        order[name] = value.clone();
    }
    if let (Some(fields), None) = (order.as_object_mut(), changes.get("stock")) {
        fields.shift_remove("stock");
    }
    order
}

pub fn reserved() -> Value {
    recorded(&json!({"status": "reserved", "reserved_until": "2026-11-24T14:15:00.329115Z", "stock": 99}))
}

pub fn operations() -> Vec<Operation> {
    let held = recorded(&Value::Null);
    vec![
        answers_of_a_claim(
            Operation::post("/v1/coupons/{coupon}/claims", "claim", TAG)
                .text(
                    "Claim a unit",
                    "Takes one unit for the user of the token, or answers which order the user has already. Sent again it \
                     never costs a second unit. A coupon with durability `postgres` is answered after the commit, and one with \
                     durability `replica` when a replica of Redis has the claim.",
                )
                .by_user()
                .coupon()
                .claims()
                .optional_body(),
        )
        .codes(&REFUSALS),
        Operation::get("/v1/coupons/{coupon}/claims", "list_claims", TAG)
            .text("The orders with which the caller holds units of the coupon", "Also orders that are not recorded yet.")
            .by_user()
            .coupon()
            .answers(Success::list::<OrderView>("The live orders, by slot.", false, json!({"items": [held]})))
            .codes(&[Code::UnknownCoupon]),
        Operation::get("/v1/coupons/{coupon}/claims/{order}", "show_claim", TAG)
            .text(
                "One order of the coupon",
                "The address of `Location` after a claim. For the order's owner, or the admin.",
            )
            .by_owner_or_admin()
            .coupon()
            .order()
            .answers(Success::json::<OrderView>(200, "The order.", held))
            .codes(&[Code::NotFound, Code::OrderLost, Code::NotRecordedYet]),
    ]
}

/// The admin's claims.
pub fn on_behalf(tag: &str) -> Operation {
    answers_of_a_claim(
        Operation::post("/v1/admin/coupons/{coupon}/claims", "claim_for_user", tag)
            .text("Claim a unit for a user", "As the user's own claim, also in its repeats.")
            .by_admin()
            .coupon()
            .claims()
            .body::<OnBehalf>(&["application/json"], json!({"user": "alice"})),
    )
    .codes(&REFUSALS)
}

/// 200, 201 and 202.
pub fn answers_of_a_claim(operation: Operation) -> Operation {
    let held = "The user holds this order already.";
    let recorded_now = "The user has got a unit, and its order is recorded (after `Prefer: wait`, or with durability \
                        `postgres`).";
    let taken = "The user has got a unit. Its order is recorded in a moment.";
    [(200, held, recorded(&json!({"stock": 99}))), (201, recorded_now, reserved()), (202, taken, accepted())]
        .into_iter()
        .fold(operation, |operation, (status, description, example)| {
            let answer = Success::json::<OrderView>(status, description, example);
            operation.answers(answer.with_header("Location", "The address of the order."))
        })
}
