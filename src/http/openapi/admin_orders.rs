//! The admin's orders and dead letters.

use serde_json::{Value, json};
use utoipa::PartialSchema;

use super::super::claims::OrderView;
use super::super::dead_letters::LetterView;
use super::super::order::RevocationBody;
use super::super::problem::Code;
use super::super::shapes;
use super::claims::{self, answers_of_a_claim, recorded};
use super::operation::{Operation, Success};
use super::parts::of;
use crate::domain::{CouponId, OrderId, OrderStatus};

pub const TAG: &str = "Admin: orders";

fn letter() -> Value {
    json!({
        "id": 1, "partition": 0, "entry": "1795528800318-0", "order": "01a20ddb-383c-73ca-9e44-c5cfc51aaa8d",
        "coupon": "coffee", "user": "alice",
        "error": "the coupon is not in Postgres", "deliveries": 1, "died_at": "2026-11-24T14:00:00.329115Z",
        "seen_at": null, "replaced_by": null,
        "fields": [{"name": "coupon", "value": "coffee"}, {"name": "user", "value": "alice"}]
    })
}

fn letters() -> Value {
    let mut letter = letter();
    if let Some(fields) = letter.as_object_mut() {
        fields.shift_remove("fields");
    }
    json!({"items": [letter], "next": null})
}

fn id(operation: Operation) -> Operation {
    operation.in_path("id", shapes::integer(1, i64::MAX).into(), "The dead letter's id.")
}

pub fn operations() -> Vec<Operation> {
    let revoked = recorded(
        &json!({"status": "cancelled", "ended_at": "2026-11-26T09:12:44.7Z", "reason": "chargeback"}),
    );
    vec![
        Operation::get("/v1/admin/orders", "list_all_orders", TAG)
            .text("Who won", "All recorded orders, oldest first.")
            .by_admin()
            .in_query("coupon", of::<CouponId>(), "Only orders of this coupon.")
            .in_query("user", shapes::user(), "Only orders of this user.")
            .in_query("status", of::<OrderStatus>(), "Only orders in this state.")
            .known::<OrderStatus>()
            .in_pages(of::<OrderId>())
            .answers(Success::list::<OrderView>(
                "A page of orders.",
                true,
                json!({"items": [recorded(&Value::Null)], "next": null}),
            )),
        Operation::post("/v1/admin/orders/{order}/revoke", "revoke_order", TAG)
            .text("End a confirmed order", "The user sees the reason. Repeats get the same answer.")
            .by_admin()
            .order()
            .body::<RevocationBody>(&["application/json"], json!({"reason": "chargeback", "return_unit": true}))
            .answers(Success::json::<OrderView>(200, "Revoked, now or before.", revoked))
            .codes(&[
                Code::NotFound,
                Code::OrderLost,
                Code::NotRecordedYet,
                Code::OrderCancelled,
                Code::OrderExpired,
                Code::OrderReserved,
                Code::Rejected,
                Code::TotalTooLow,
            ]),
        Operation::get("/v1/admin/dead", "list_dead_letters", TAG)
            .text("Orders that could not be recorded", "Newest first; the fields of an event are in the answer about one letter.")
            .by_admin()
            .in_pages(shapes::integer(0, i64::MAX))
            .answers(Success::list::<LetterView>("A page of dead letters.", true, letters())),
        id(Operation::get("/v1/admin/dead/{id}", "show_dead_letter", TAG))
            .text("One dead letter", "With the fields of its event.")
            .by_admin()
            .answers(Success::json::<LetterView>(200, "The dead letter.", letter()))
            .codes(&[Code::NotFound]),
        answers_of_a_claim(
            id(Operation::post("/v1/admin/dead/{id}/replay", "replay_dead_letter", TAG))
                .text(
                    "Claim again for the user of the letter",
                    "The new claim has the key of the letter's claim, else `replay-<id>`. Repeats get the same order.",
                )
                .by_admin()
                .header("Prefer", String::schema(), "`wait=N`, as with a claim.")
                .optional_body(),
        )
        .codes(&claims::REFUSALS)
        .codes(&[Code::NotFound, Code::NotReplayable]),
        id(Operation::post("/v1/admin/dead/{id}/discard", "discard_dead_letter", TAG))
            .text("Mark a dead letter as seen", "The letter stays. Can be repeated.")
            .by_admin()
            .optional_body()
            .answers(Success::json::<LetterView>(200, "The dead letter.", letter()))
            .codes(&[Code::NotFound]),
    ]
}
