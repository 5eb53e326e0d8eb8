//! Coupons as every client may see them, and their event streams.

use serde_json::{Value, json};
use utoipa::openapi::schema::{KnownFormat, SchemaFormat, SchemaType};
use utoipa::openapi::{ObjectBuilder, Type};

use super::super::problem::Code;
use super::operation::{Operation, Success};
use super::parts::{of, text};
use crate::config;
use crate::coupons::view::CouponView;
use crate::domain::CouponId;

pub const TAG: &str = "Coupons";
pub const EVENTS: &str = "Event streams";

/// A coupon as the server shows it.
pub fn example() -> Value {
    json!({
        "id": "coffee", "title": "A free coffee", "total": 100, "stock": 99, "state": "open", "starts_at": null,
        "ends_at": null, "per_user_limit": 1, "reserve_seconds": null, "durability": "redis", "waitlist": false,
        "server_time": "2026-11-30T16:40:07.955Z"
    })
}

pub fn operations() -> Vec<Operation> {
    vec![
        Operation::get("/v1/coupons", "list_coupons", TAG)
            .text(
                "What is on sale",
                "The listed coupons in the order of their ids. Numbers are at most 100 ms old. While Postgres is away, a \
                 coupon that was made just before may be missing.",
            )
            .of_api()
            .in_pages(of::<CouponId>())
            .answers(
                Success::list::<CouponView>("A page of coupons.", true, json!({"items": [example()], "next": null}))
                    .with_header("ETag", "A weak tag: the same tag means the same answer but for `server_time`."),
            )
            .or_not_modified(),
        Operation::get("/v1/coupons/{coupon}", "show_coupon", TAG)
            .text("One coupon", "Also a coupon that is not listed. Numbers are at most 100 ms old.")
            .of_api()
            .coupon()
            .answers(
                Success::json::<CouponView>(200, "The coupon.", example())
                    .with_header("ETag", "A weak tag: the same tag means the same answer but for `server_time`."),
            )
            .or_not_modified()
            .codes(&[Code::UnknownCoupon]),
    ]
}

pub fn event_streams() -> Vec<Operation> {
    let most = config::LIVE_MAX_COUPONS;
    vec![
        stream("/v1/events", "follow_coupons").text(
            "Stock and states of all listed coupons",
            &format!("The first {most} coupons of the list. A page should open this one stream. {MEANINGS}"),
        ),
        stream("/v1/coupons/{coupon}/events", "follow_coupon")
            .text("Stock and state of one coupon", &format!("Listed or not. {MEANINGS}"))
            .coupon()
            .codes(&[Code::UnknownCoupon]),
    ]
}

fn stream(path: &'static str, id: &str) -> Operation {
    let time = || text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    let object = || ObjectBuilder::new().schema_type(Type::Object);
    let count = ObjectBuilder::new().schema_type(Type::Integer);
    let current = object().property("server_time", or_null(time())).property("coupons", count);
    let stale = object().property("since", or_null(time())).property("why", text());
    let events = [
        ("reset", object().into()),
        ("coupon", of::<CouponView>()),
        ("gone", object().property("id", of::<CouponId>()).required("id").into()),
        ("current", current.required("server_time").required("coupons").into()),
        ("stale", stale.required("since").required("why").into()),
    ];
    let events = Success::events(events, EXAMPLE).known::<CouponView>().known::<CouponId>();
    Operation::get(path, id, EVENTS).of_api().header("Last-Event-ID", text(), RESUME).answers(events)
}

fn or_null(text: ObjectBuilder) -> ObjectBuilder {
    text.schema_type(SchemaType::from_iter([Type::String, Type::Null]))
}

/// What `Last-Event-ID` does.
pub const RESUME: &str =
    "The id of the last event that you have got: the stream then has only what has changed since.";

const MEANINGS: &str = "\n\n| event | data | meaning |\n|---|---|---|\n\
    | `reset` | `{}` | everything follows: after the next `current` or `stale`, drop each coupon that was not sent again |\n\
    | `coupon` | as `GET /v1/coupons/{coupon}` | the coupon now |\n\
    | `gone` | `{\"id\"}` | the coupon is no longer listed |\n\
    | `current` | `{\"server_time\",\"coupons\"}` | every two seconds: all numbers that were sent are current |\n\
    | `stale` | `{\"since\",\"why\"}` | every two seconds while the stores cannot be read: the numbers are those of `since` |\n\n\
    A client that gets nothing for five seconds has lost its connection. With too many open streams the answer is 503.";

const EXAMPLE: &str = "id: 97b2b7cf-0\nevent: reset\ndata: {}\n\nid: 97b2b7cf-1\nevent: coupon\ndata: \
    {\"id\":\"coffee\",\"title\":\"A free coffee\",\"total\":100,\"stock\":99,\"state\":\"open\",\"starts_at\":null,\
    \"ends_at\":null,\"per_user_limit\":1,\"reserve_seconds\":null,\"durability\":\"redis\",\"waitlist\":false,\
    \"server_time\":\"2026-11-30T16:40:07.955Z\"}\n\nid: 97b2b7cf-2\nevent: current\ndata: \
    {\"server_time\":\"2026-11-30T16:40:08.16Z\",\"coupons\":1}\n\n";
