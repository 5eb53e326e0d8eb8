//! A user's orders, and the transitions of one order.

use serde_json::{Value, json};

use super::super::claims::OrderView;
use super::super::problem::Code;
use super::claims::{recorded, reserved};
use super::operation::{Operation, Success};
use super::parts::of;
use crate::domain::OrderId;

pub const TAG: &str = "Orders";

pub fn operations() -> Vec<Operation> {
    let cancelled = recorded(&json!({"status": "cancelled", "ended_at": "2026-11-24T14:03:12.018Z"}));
    vec![
        Operation::get("/v1/orders", "list_orders", TAG)
            .text("The caller's recorded orders", "Of all coupons and in every state, by their ids: oldest first.")
            .by_user()
            .in_pages(of::<OrderId>())
            .answers(Success::list::<OrderView>(
                "A page of orders.",
                true,
                json!({"items": [recorded(&Value::Null)], "next": null}),
            )),
        Operation::get("/v1/orders/{order}", "show_order", TAG)
            .text("One order", "For its owner, or the admin. Waits up to two seconds for an order that is not recorded yet.")
            .by_owner_or_admin()
            .order()
            .answers(Success::json::<OrderView>(200, "The order.", recorded(&reserved())))
            .codes(&[Code::NotFound, Code::OrderLost, Code::NotRecordedYet]),
        Operation::post("/v1/orders/{order}/confirm", "confirm_order", TAG)
            .text(
                "Confirm a paid order",
                "Call it when the payment has arrived, with the admin token or the owner's. Ship only after the 200. \
                 `reserved_until` alone decides whether it is in time, by Postgres's clock. Repeats get the same answer.",
            )
            .by_owner_or_admin()
            .order()
            .optional_body()
            .answers(Success::json::<OrderView>(200, "Confirmed, now or before.", recorded(&Value::Null)))
            .codes(&[
                Code::NotFound,
                Code::OrderLost,
                Code::NotRecordedYet,
                Code::OrderCancelled,
                Code::OrderExpired,
                Code::Rejected,
            ]),
        Operation::post("/v1/orders/{order}/cancel", "cancel_order", TAG)
            .text(
                "Give up a reserved order",
                "Its unit goes to the first user in line, or back to stock. Repeats get the same answer.",
            )
            .by_owner_or_admin()
            .order()
            .optional_body()
            .answers(Success::json::<OrderView>(200, "Cancelled, now or before.", cancelled))
            .codes(&[
                Code::NotFound,
                Code::OrderLost,
                Code::NotRecordedYet,
                Code::OrderConfirmed,
                Code::OrderExpired,
                Code::Rejected,
            ]),
    ]
}
