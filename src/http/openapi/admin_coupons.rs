//! The admin's coupons: definitions, claims for users, and waiting lists.

use serde_json::{Value, json};
use utoipa::openapi::{ObjectBuilder, Type};

use super::super::admin_coupons::{AdminCouponView, CouponPatchBody, NewCouponBody};
use super::super::admin_waitlist::PlaceView;
use super::super::problem::Code;
use super::super::receipt::{ReceiptView, WinnerView};
use super::super::shapes;
use super::operation::{Operation, Success};
use super::parts::{of, text};
use super::{claims, coupons, waitlist};
use crate::domain::{CouponId, OrderId};

pub const TAG: &str = "Admin: coupons";

fn example() -> Value {
    let mut coupon = coupons::example();
    for (name, value) in [
        ("paused", json!(false)),
        ("unlisted", json!(false)),
        ("version", json!(3)),
        ("partition", json!(0)),
        ("accepted", json!(0)),
        ("reserved", json!(0)),
        ("confirmed", json!(1)),
        ("returned", json!(0)),
    ] {
        coupon[name] = value;
    }
    coupon
}

fn version(answer: Success) -> Success {
    answer.with_header("ETag", "`\"v3\"` for version 3, to send with `If-Match`.")
}

pub fn operations() -> Vec<Operation> {
    let new = json!({"id": "seat", "total": 500, "title": "A seat", "starts_at": "2026-12-24T10:00:00Z",
        "reserve_seconds": 900, "waitlist": true});
    let edit = json!({"total": 800, "ends_at": null});
    let waiting = json!({"place": 1, "user": "bob", "order": "01a22cd4-f870-74c1-bb6f-c9acd7f33a74",
        "joined_at": "2026-11-30T14:21:24.464Z"});
    let receipt = json!({"coupon": "coffee", "title": "A free coffee", "total": 100, "stock": 98, "returning": 0,
        "accepted": 0, "reserved": 0, "confirmed": 2, "returned": 1, "rejected": 0, "adds_up": true, "off_by": 0,
        "server_time": "2026-11-30T16:40:07.955Z", "exceptions": [], "exceptions_found": 0, "compared": true});
    let winner = json!({"order": "01a20ddb-383c-73ca-9e44-c5cfc51aaa8d", "user": "alice", "slot": 1,
        "status": "confirmed", "claimed_at": "2026-11-24T14:00:00.316Z", "recorded_at": "2026-11-24T14:00:00.329115Z",
        "reserved_until": null, "confirmed_at": "2026-11-24T14:00:00.329115Z"});
    let [join, show_place, leave] = waitlist::on_behalf(TAG);
    vec![
        Operation::post("/v1/admin/coupons", "create_coupon", TAG)
            .text(
                "Create a coupon",
                "Answered when it is in force. A repeat with the same fields is answered 200. `starts_at` must be before \
                 `ends_at`.",
            )
            .by_admin()
            .body::<NewCouponBody>(&["application/json"], new)
            .answers(version(location(Success::json::<AdminCouponView>(200, "It exists already.", example()))))
            .answers(version(location(Success::json::<AdminCouponView>(201, "Created.", example()))))
            .codes(&[Code::CouponExists]),
        Operation::get("/v1/admin/coupons", "list_all_coupons", TAG)
            .text("All coupons", "With those that are not listed, in the order of their ids.")
            .by_admin()
            .in_pages(of::<CouponId>())
            .answers(Success::list::<AdminCouponView>(
                "A page of coupons.",
                true,
                json!({"items": [example()], "next": "coffee"}),
            )),
        Operation::get("/v1/admin/coupons/{coupon}", "show_definition", TAG)
            .text("One coupon", "The definition from Postgres, the stock from Redis.")
            .by_admin()
            .coupon()
            .answers(version(Success::json::<AdminCouponView>(200, "The coupon.", example())))
            .codes(&[Code::UnknownCoupon]),
        Operation::patch("/v1/admin/coupons/{coupon}", "edit_coupon", TAG)
            .text(
                "Restock, withdraw, pause, resume, edit",
                "A merge patch (RFC 7396): a field that is absent stays, null clears it. Works during the sale, and is \
                 answered when it is in force. `total` can be lowered by the units in stock.",
            )
            .by_admin()
            .coupon()
            .header("If-Match", text().examples(["\"v3\""]), "The `ETag` of the version that you have read.")
            .body::<CouponPatchBody>(&["application/merge-patch+json", "application/json"], edit)
            .answers(version(Success::json::<AdminCouponView>(200, "The edited coupon.", example())))
            .codes(&[Code::UnknownCoupon, Code::PreconditionFailed, Code::TotalTooLow]),
        claims::on_behalf(TAG),
        Operation::get("/v1/admin/coupons/{coupon}/waitlist", "list_waitlist", TAG)
            .text("Who waits", "The next user to get a unit first.")
            .by_admin()
            .coupon()
            .in_pages(shapes::integer(0, i64::MAX))
            .answers(Success::list::<PlaceView>("A page of the line.", true, json!({"items": [waiting], "next": null})))
            .codes(&[Code::UnknownCoupon]),
        join,
        show_place,
        leave,
        Operation::get("/v1/admin/coupons/{coupon}/receipt", "show_receipt", TAG)
            .text(
                "Where each unit is",
                "Of one moment of the running sale, from both stores, with each order on which they do not agree. Takes \
                 seconds for a hundred thousand orders.",
            )
            .by_admin()
            .coupon()
            .in_query("compare", truth(), "False: only the sums are checked. The default is true.")
            .answers(Success::json::<ReceiptView>(200, "The receipt.", receipt))
            .codes(&[Code::UnknownCoupon]),
        Operation::get("/v1/admin/coupons/{coupon}/winners", "list_winners", TAG)
            .text("Who holds a unit", "The recorded orders that hold one, oldest first.")
            .by_admin()
            .coupon()
            .in_pages(of::<OrderId>())
            .known::<OrderId>()
            .answers(Success::list::<WinnerView>(
                "A page of winners.",
                true,
                json!({"items": [winner], "next": null}),
            )),
    ]
}

fn truth() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Boolean)
}

fn location(answer: Success) -> Success {
    answer.with_header("Location", "The coupon's public address.")
}
