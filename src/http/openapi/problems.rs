//! Error answers in the description: for each status its codes, their meaning, and a real body of each.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::schema::{AllOfBuilder, Schema};
use utoipa::openapi::{ContentBuilder, ObjectBuilder, RefOr, ResponseBuilder, Type};

use super::super::problem::{Body, Code, Problem};
use super::parts::{header, of, schemas_of};

/// A header of every answer.
pub const REQUEST_ID: (&str, &str) =
    ("x-request-id", "The id of the request: the client's own if it sent one that fits, else a new one.");

const ORDER: &str = "01a20ddb-383c-73ca-9e44-c5cfc51aaa8d";

pub fn schemas() -> Vec<(String, RefOr<Schema>)> {
    let mut schemas = schemas_of::<Code>();
    schemas.extend(schemas_of::<Body<'_>>());
    schemas
}

/// One answer for each status that the codes have.
pub fn responses(codes: &BTreeSet<Code>) -> Vec<(String, ResponseBuilder)> {
    let mut by_status = BTreeMap::<u16, Vec<Code>>::new();
    for &code in codes {
        by_status.entry(code.status().as_u16()).or_default().push(code);
    }
    by_status.into_iter().map(|(status, codes)| (status.to_string(), response(status, &codes))).collect()
}

fn response(status: u16, codes: &[Code]) -> ResponseBuilder {
    let lines = codes.iter().map(|code| format!("- `{}`: {}", code.word(), code.meaning()));
    let words = codes.iter().map(|code| code.word());
    let narrow = ObjectBuilder::new()
        .property("status", ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([status])))
        .property("code", ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)));
    let schema = AllOfBuilder::new().item(of::<Body<'_>>()).item(narrow);
    let examples = codes.iter().map(|&code| {
        (code.word().to_owned(), ExampleBuilder::new().summary(code.title()).value(Some(example(code))))
    });
    let content = ContentBuilder::new().schema(Some(schema)).examples_from_iter(examples).build();
    let response = ResponseBuilder::new()
        .description(lines.collect::<Vec<_>>().join("\n"))
        .content("application/problem+json", content)
        .header(REQUEST_ID.0, header(REQUEST_ID.1));
    match status {
        401 => response.header("WWW-Authenticate", header("`Bearer`")),
        503 => {
            let response =
                response.header("Retry-After", header("Seconds to wait before the request is sent again."));
            if codes.contains(&Code::NotRecordedYet) {
                response.header(
                    "Location",
                    header(
                        "After a claim that is not recorded, or not replicated, yet: the order's address.",
                    ),
                )
            } else {
                response
            }
        }
        _ => response,
    }
}

/// An answer with this code, as the program has sent it.
fn example(code: Code) -> Value {
    let (detail, members) = words(code);
    let mut problem = Problem::new(code, detail);
    for (name, value) in members.as_object().into_iter().flatten() {
        problem = problem.with(name, value.clone());
    }
    problem.body("2b6f0cc904d137be2e1730235f5664b8")
}

/// The detail and the further members of an answer.
fn words(code: Code) -> (&'static str, Value) {
    let order = json!({"order": ORDER});
    match code {
        Code::BadRequest => ("total must be a whole number, not string \"ten\"", Value::Null),
        Code::IdempotencyKeyRequired => (
            "a user may hold several units of coupon tea: send the header Idempotency-Key, a new key for each further unit and the same one with each repeat",
            Value::Null,
        ),
        Code::Unauthorized => ("send Authorization: Bearer <token>", Value::Null),
        Code::NotFound => ("there is no such order", Value::Null),
        Code::UnknownCoupon => ("there is no coupon coffee", Value::Null),
        Code::OrderLost => (
            "no store has this order any more: it was lost with a Redis server before it was recorded, or it never was an order; claim again, and refund a payment for it",
            order,
        ),
        Code::MethodNotAllowed => ("this address answers GET, HEAD", Value::Null),
        Code::RequestTimeout => ("the body did not arrive in time", Value::Null),
        Code::SoldOut => ("coupon coffee is sold out", Value::Null),
        Code::LimitReached => {
            ("you already hold as many units of coupon tea as one user may hold", Value::Null)
        }
        Code::NotStarted => (
            "coupon tea opens at 2026-12-24T10:00:00Z",
            json!({"starts_at": "2026-12-24T10:00:00Z", "server_time": "2026-12-24T09:59:57.402Z"}),
        ),
        Code::Ended => ("coupon coffee has ended", Value::Null),
        Code::Paused => ("coupon coffee is paused; try again later", Value::Null),
        Code::NotSoldOut => ("units of coupon coffee are left: claim one", Value::Null),
        Code::NoWaitlist => ("coupon coffee has no waiting list; try to claim it", Value::Null),
        Code::WaitlistFull => ("the waiting list of coupon coffee is full; try again later", Value::Null),
        Code::NotWaiting => ("user bob is not in the waiting list of coupon coffee", Value::Null),
        Code::AlreadyServed => {
            ("user bob has got a unit already: while its order is reserved, it can be cancelled", order)
        }
        Code::Rejected => ("the order could not be recorded; its unit went back to stock", order),
        Code::OrderCancelled => ("the order is cancelled already", order),
        Code::OrderExpired => (
            "the time to pay is over and the unit is no longer held: refund the payment",
            json!({"order": ORDER, "refund_due": true}),
        ),
        Code::OrderConfirmed => ("the order is confirmed: the admin can revoke it", order),
        Code::OrderReserved => ("the order is not confirmed: cancel it instead", order),
        Code::CouponExists => {
            ("another coupon coffee exists: edit it with PATCH, or choose another id", Value::Null)
        }
        Code::TotalTooLow => ("61 units of coupon coffee are held already", Value::Null),
        Code::NotReplayable => {
            ("the letter names no coupon and user: claim on the user's behalf instead", Value::Null)
        }
        Code::PreconditionFailed => ("the coupon is at \"v3\" now: read it again", Value::Null),
        Code::PayloadTooLarge => ("a body is at most 16384 bytes", Value::Null),
        Code::UnsupportedMediaType => ("send the body as Content-Type: application/json", Value::Null),
        Code::Unavailable => ("not ready: Postgres is starting", Value::Null),
        Code::NotRecordedYet => (
            "a unit is held for you, but your order is not recorded yet; send the claim again to get the same order",
            order,
        ),
        Code::NotReplicatedYet => (
            "a unit is held for you, but no replica of Redis is known to have your order; send the claim again to get the same order",
            order,
        ),
        Code::Internal => ("the request could not be finished; it has been logged", Value::Null),
    }
}
