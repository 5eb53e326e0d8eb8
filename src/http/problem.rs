//! Every error answer: one enum with one exhaustive match, rendered as RFC 9457 problem+json.

use http::{HeaderName, HeaderValue, Response, header};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::answer::{Content, json};
pub use super::code::Code;
use crate::claims::claim::ClaimError;
use crate::config;
use crate::coupons::definitions::CouponError;
use crate::domain::{CouponId, InvalidDefinition, Transition, TransitionRefusal};
use crate::fence::StoreError;
use crate::orders::transitions::{NotMade, TransitionError};
use crate::orders::unrecorded::NotFound;
use crate::postgres::PostgresError;
use crate::receipt::ReceiptError;
use crate::waitlist::WaitlistError;

/// The result of a handler.
pub type Answer = Result<Response<Content>, Problem>;

/// An error answer.
#[derive(Clone, Debug)]
pub struct Problem {
    pub code: Code,
    detail: String,
    members: Map<String, Value>,
    /// Boxed to keep the struct small: every handler returns a problem, and few problems have a header of their own.
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

/// The JSON of every error answer (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Body<'a> {
    /// `urn:seckill:problem:` and the code.
    r#type: String,
    title: &'static str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// A sentence for a person. Its words may change.
    detail: &'a str,
    /// A stable word for programs.
    code: Code,
    /// The answer's `x-request-id`, which is also in the server's log. Empty if the request could not be read.
    request_id: &'a str,
    /// Members that only some codes have; the description of each code names them.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    members: &'a Map<String, Value>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), members: Map::new(), header: None }
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, detail)
    }

    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, detail)
    }

    pub fn unknown_coupon(coupon: &CouponId) -> Self {
        Self::new(Code::UnknownCoupon, format!("there is no coupon {coupon}"))
    }

    /// Also the answer about an order of another user: only its owner may know that it exists.
    pub fn no_order() -> Self {
        Self::new(Code::NotFound, "there is no such order")
    }

    /// The fence is down: requests that need both stores are not answered.
    pub fn not_ready(reason: &str) -> Self {
        Self::unavailable(format!("not ready: {reason}"))
    }

    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this address answers {allow}");
        Self::new(Code::MethodNotAllowed, detail).with_header(header::ALLOW, HeaderValue::from_static(allow))
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the header of the answer. A second call replaces the first header.
    #[must_use]
    pub fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some(Box::new((name, value))), ..self }
    }

    fn as_body<'a>(&'a self, request_id: &'a str) -> Body<'a> {
        let Self { code, detail, members, .. } = self;
        Body {
            r#type: format!("urn:seckill:problem:{}", code.word()),
            title: code.title(),
            status: code.status().as_u16(),
            detail,
            code: *code,
            request_id,
            members,
        }
    }

    /// The JSON of the answer, for the API's description.
    pub fn body(&self, request_id: &str) -> Value {
        serde_json::to_value(self.as_body(request_id)).unwrap_or_default()
    }

    pub fn render(self, request_id: &str) -> Response<Content> {
        let mut response = json(self.code.status(), &self.as_body(request_id));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.code {
            Code::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Code::Unavailable | Code::NotRecordedYet | Code::NotReplicatedYet => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(config::RETRY_AFTER_SECONDS));
            }
            _ => {}
        }
        if let Some(header) = self.header {
            headers.insert(header.0, header.1);
        }
        response
    }
}

impl From<ClaimError> for Problem {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Unavailable(error) => {
                Self::unavailable(format!("{error}; it is safe to send the claim again"))
            }
            ClaimError::Store(error) => error.into(),
            ClaimError::StatusUnknown | ClaimError::OrdersEnding => Self::unavailable(error.to_string()),
        }
    }
}

impl From<WaitlistError> for Problem {
    fn from(error: WaitlistError) -> Self {
        match error {
            WaitlistError::Store(error) => error.into(),
            error => Self::unavailable(format!("{error}; it is safe to send the request again")),
        }
    }
}

impl From<NotFound> for Problem {
    fn from(error: NotFound) -> Self {
        match error {
            NotFound::Unknown => Self::no_order(),
            NotFound::Lost(order) => {
                Self::new(Code::OrderLost, error.to_string()).with("order", order.to_string())
            }
            NotFound::NotRecordedYet(order) => {
                Self::new(Code::NotRecordedYet, error.to_string()).with("order", order.to_string())
            }
            NotFound::Store(error) => error.into(),
        }
    }
}

impl From<TransitionError> for Problem {
    fn from(error: TransitionError) -> Self {
        let detail = error.to_string();
        match error {
            TransitionError::NotFound(error) => error.into(),
            TransitionError::Refused { order, asked, why } => {
                let code = match why {
                    TransitionRefusal::Cancelled => Code::OrderCancelled,
                    TransitionRefusal::Expired => Code::OrderExpired,
                    TransitionRefusal::Confirmed => Code::OrderConfirmed,
                    TransitionRefusal::Reserved => Code::OrderReserved,
                    TransitionRefusal::Rejected => Code::Rejected,
                };
                let problem = Self::new(code, detail).with("order", order.to_string());
                if (asked, why) == (Transition::Confirm, TransitionRefusal::Expired) {
                    problem.with("refund_due", true)
                } else {
                    problem
                }
            }
            TransitionError::LastUnit => Self::new(Code::TotalTooLow, detail),
            TransitionError::NotMade(NotMade::Postgres(
                error @ (PostgresError::Row(_) | PostgresError::Statement(_)),
            )) => error.into(),
            TransitionError::NotMade(_) => {
                Self::unavailable(format!("{detail}; it is safe to send the request again"))
            }
        }
    }
}

impl From<CouponError> for Problem {
    fn from(error: CouponError) -> Self {
        let detail = error.to_string();
        match error {
            CouponError::Invalid(error) => error.into(),
            CouponError::Unknown(coupon) => Self::unknown_coupon(&coupon),
            CouponError::TooFewPartitions { .. } => Self::bad_request(detail),
            CouponError::Exists(_) => Self::new(Code::CouponExists, detail),
            CouponError::Stale(_) => Self::new(Code::PreconditionFailed, detail),
            CouponError::TotalTooLow { .. } => Self::new(Code::TotalTooLow, detail),
            CouponError::Contended
            | CouponError::NotInForce
            | CouponError::NotPublished(_)
            | CouponError::NotInRedis(_) => Self::unavailable(detail),
            CouponError::Store(error) => error.into(),
        }
    }
}

impl From<ReceiptError> for Problem {
    fn from(error: ReceiptError) -> Self {
        match error {
            ReceiptError::Unknown(coupon) => Self::unknown_coupon(&coupon),
            ReceiptError::Store(error) => error.into(),
            ReceiptError::Compare(error) => Self::unavailable(error.to_string()),
        }
    }
}

impl From<InvalidDefinition> for Problem {
    fn from(error: InvalidDefinition) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotReady(reason) => Self::not_ready(&reason),
            StoreError::Postgres(error) => error.into(),
            StoreError::Fenced | StoreError::Redis(_) => Self::unavailable(error.to_string()),
        }
    }
}

impl From<PostgresError> for Problem {
    fn from(error: PostgresError) -> Self {
        match error {
            PostgresError::Transient(_) => Self::unavailable(error.to_string()),
            PostgresError::Row(_) | PostgresError::Statement(_) => {
                tracing::error!("a request failed: {error}");
                Self::new(Code::Internal, "the request could not be finished; it has been logged")
            }
        }
    }
}
