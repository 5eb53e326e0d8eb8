//! The codes of error answers: one table with each code's status, word, title and meaning.

use std::borrow::Cow;

use http::StatusCode;
use serde::{Serialize, Serializer};
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{ObjectBuilder, RefOr, Type};
use utoipa::{PartialSchema, ToSchema};

macro_rules! codes {
    ($($name:ident, $status:ident, $word:literal, $title:literal, $meaning:literal;)*) => {
        /// Stable words that programs may rely on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $meaning] $name,)*
        }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The status, the word and the title of answers, and what a client should know and do.
            const fn parts(self) -> (StatusCode, &'static str, &'static str, &'static str) {
                match self {
                    $(Self::$name => (StatusCode::$status, $word, $title, $meaning),)*
                }
            }
        }
    };
}

codes! {
    BadRequest, BAD_REQUEST, "bad-request", "Bad request",
        "The request is wrong; `detail` names the field. Do not repeat it unchanged.";
    IdempotencyKeyRequired, BAD_REQUEST, "idempotency-key-required", "Idempotency-Key required",
        "A user may hold several units of this coupon: send the header `Idempotency-Key`.";
    Unauthorized, UNAUTHORIZED, "unauthorized", "Unauthorized",
        "The token is missing or not valid; `detail` says which rule it breaks.";
    NotFound, NOT_FOUND, "not-found", "Not found",
        "There is nothing at this address, or the order belongs to another user.";
    UnknownCoupon, NOT_FOUND, "unknown-coupon", "Unknown coupon", "There is no coupon with this id.";
    OrderLost, NOT_FOUND, "order-lost", "Order lost",
        "No store has the order (`order` in the body), and it is older than the last rebuild of Redis: if you were told it, a failing Redis server has lost it. Claim again, and refund a payment for it.";
    MethodNotAllowed, METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed",
        "The address does not answer this method; the header `Allow` names those that it answers.";
    RequestTimeout, REQUEST_TIMEOUT, "request-timeout", "Request timeout",
        "The body did not arrive in time.";
    SoldOut, CONFLICT, "sold-out", "Sold out",
        "No unit is left now. One may come back: offer the waiting list if the coupon has one.";
    LimitReached, CONFLICT, "limit-reached", "Limit reached",
        "The user already holds `per_user_limit` units of the coupon.";
    NotStarted, CONFLICT, "not-started", "Not started",
        "The sale has not started. `starts_at` and `server_time` in the body allow a countdown.";
    Ended, CONFLICT, "ended", "Ended", "The sale is over.";
    Paused, CONFLICT, "paused", "Paused", "The admin has paused the coupon; try again later.";
    NotSoldOut, CONFLICT, "not-sold-out", "Not sold out",
        "Units are left and no user waits: claim one instead.";
    NoWaitlist, CONFLICT, "no-waitlist", "No waiting list", "The coupon has no waiting list.";
    WaitlistFull, CONFLICT, "waitlist-full", "Waiting list full",
        "The waiting list is full; try again later.";
    NotWaiting, NOT_FOUND, "not-waiting", "Not waiting", "The user is not in the waiting list.";
    AlreadyServed, CONFLICT, "already-served", "Already served",
        "The user has got a unit already: `order` in the body is its order.";
    Rejected, CONFLICT, "rejected", "Rejected",
        "The order (`order` in the body) could not be recorded; its unit went back to stock.";
    OrderCancelled, CONFLICT, "order-cancelled", "Order cancelled",
        "The order (`order` in the body) was cancelled before. Refund a payment for it.";
    OrderExpired, CONFLICT, "order-expired", "Order expired",
        "The time to pay of the order (`order` in the body) is over. A confirm also gets `refund_due: true`: refund the payment.";
    OrderConfirmed, CONFLICT, "order-confirmed", "Order confirmed",
        "The order (`order` in the body) is confirmed: only the admin can end it, by a revoke.";
    OrderReserved, CONFLICT, "order-reserved", "Order reserved",
        "Only a confirmed order can be revoked, and this one (`order` in the body) is still reserved.";
    CouponExists, CONFLICT, "coupon-exists", "Coupon exists",
        "Another coupon has this id. A repeat of the same creation is answered 200 instead.";
    TotalTooLow, CONFLICT, "total-too-low", "Total too low",
        "The new total would be below the units that users hold, or below 1.";
    NotReplayable, CONFLICT, "not-replayable", "Not replayable",
        "The dead letter names no coupon and user: claim on the user's behalf instead.";
    PreconditionFailed, PRECONDITION_FAILED, "precondition-failed", "Precondition failed",
        "The coupon has another version than `If-Match` names: read it again, then decide.";
    PayloadTooLarge, PAYLOAD_TOO_LARGE, "payload-too-large", "Payload too large",
        "The body is larger than 16 KiB.";
    UnsupportedMediaType, UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Unsupported media type",
        "Send the body with `Content-Type: application/json`.";
    Unavailable, SERVICE_UNAVAILABLE, "unavailable", "Unavailable",
        "The server cannot answer now, for example while a store starts. It is safe to send the same request again, after `Retry-After` seconds and a random part of a second.";
    NotRecordedYet, SERVICE_UNAVAILABLE, "not-recorded-yet", "Not recorded yet",
        "The order (`order` in the body) holds its unit and is not in Postgres yet: send the same request again.";
    NotReplicatedYet, SERVICE_UNAVAILABLE, "not-replicated-yet", "Not replicated yet",
        "The order (`order` in the body) holds its unit, but no replica of Redis is known to have it, and it is not in Postgres yet: send the same request again.";
    Internal, INTERNAL_SERVER_ERROR, "internal", "Internal error",
        "The program failed; the log has the reason, with the `request_id`.";
}

impl Code {
    pub const fn status(self) -> StatusCode {
        self.parts().0
    }

    /// The member `code` of an answer.
    pub const fn word(self) -> &'static str {
        self.parts().1
    }

    pub const fn title(self) -> &'static str {
        self.parts().2
    }

    /// For the API's description.
    pub const fn meaning(self) -> &'static str {
        self.parts().3
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let meanings = Self::ALL
            .iter()
            .map(|code| format!("| `{}` | {} | {} |\n", code.word(), code.status().as_u16(), code.meaning()));
        let table = format!("| code | status | meaning |\n|---|---|---|\n{}", meanings.collect::<String>());
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Self::ALL.iter().map(|code| code.word())))
            .description(Some(table))
            .into()
    }
}

impl ToSchema for Code {
    fn name() -> Cow<'static, str> {
        "Code".into()
    }
}
