//! The words in which an address is described. What many addresses have in common is said here once: tokens, bodies,
//! pages of lists, and the headers of each answer.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AdditionalProperties, OneOfBuilder, Schema};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Content, ContentBuilder, ObjectBuilder, RefOr, Required, ResponseBuilder, path};

use super::super::problem::Code;
use super::super::shapes;
use super::parts::{header, of, schemas_of, text};
use super::problems;
use crate::config;
use crate::domain::{CouponId, OrderId};

/// The names of the two security schemes.
pub const USER: &str = "userToken";
pub const ADMIN: &str = "adminToken";

const JSON: &str = "application/json";

/// The schemas of the description, by name.
pub type Schemas = BTreeMap<String, RefOr<Schema>>;

/// One method of one address.
pub struct Operation {
    path: &'static str,
    method: HttpMethod,
    described: OperationBuilder,
    answers: Vec<Success>,
    codes: BTreeSet<Code>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

/// An answer that is no problem.
pub struct Success {
    status: u16,
    description: &'static str,
    content: Option<(&'static str, Content)>,
    headers: Vec<(&'static str, &'static str)>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Operation {
    fn new(method: HttpMethod, path: &'static str, id: &str, tag: &str) -> Self {
        let described = OperationBuilder::new().tag(tag).operation_id(Some(id));
        // Every head is checked.
        let codes = [Code::BadRequest].into();
        Self { path, method, described, answers: Vec::new(), codes, schemas: Vec::new() }
    }

    pub fn get(path: &'static str, id: &str, tag: &str) -> Self {
        Self::new(HttpMethod::Get, path, id, tag)
    }

    pub fn post(path: &'static str, id: &str, tag: &str) -> Self {
        Self::new(HttpMethod::Post, path, id, tag)
    }

    pub fn patch(path: &'static str, id: &str, tag: &str) -> Self {
        Self::new(HttpMethod::Patch, path, id, tag)
    }

    pub fn delete(path: &'static str, id: &str, tag: &str) -> Self {
        Self::new(HttpMethod::Delete, path, id, tag)
    }

    /// A title of a few words, and what a developer needs to know.
    pub fn text(mut self, summary: &str, description: &str) -> Self {
        self.described = self.described.summary(Some(summary)).description(Some(description));
        self
    }

    /// Answered by the API, so it needs an API that is open, and may fail.
    pub fn of_api(self) -> Self {
        self.codes(&[Code::Unavailable, Code::Internal])
    }

    /// With a user's token.
    pub fn by_user(self) -> Self {
        self.secured(&[USER]).of_api()
    }

    /// With the admin token.
    pub fn by_admin(self) -> Self {
        self.secured(&[ADMIN]).of_api()
    }

    /// With the token of the order's owner, or the admin token.
    pub fn by_owner_or_admin(self) -> Self {
        self.secured(&[USER, ADMIN]).of_api()
    }

    /// Without a token over loopback, else with the admin token.
    pub fn by_admin_or_loopback(mut self) -> Self {
        self.described = self.described.security(SecurityRequirement::default());
        self.secured(&[ADMIN]).of_api()
    }

    fn secured(mut self, schemes: &[&str]) -> Self {
        for &scheme in schemes {
            let requirement = SecurityRequirement::new(scheme, std::iter::empty::<String>());
            self.described = self.described.security(requirement);
        }
        self.codes(&[Code::Unauthorized])
    }

    pub fn coupon(self) -> Self {
        let schema = self.in_path("coupon", of::<CouponId>(), "The coupon's id.");
        schema.known::<CouponId>()
    }

    pub fn order(self) -> Self {
        self.in_path("order", of::<OrderId>(), "The order's id.").known::<OrderId>()
    }

    pub fn in_path(mut self, name: &str, schema: RefOr<Schema>, description: &str) -> Self {
        let parameter = parameter(name, ParameterIn::Path, schema, description).required(Required::True);
        self.described = self.described.parameter(parameter);
        self
    }

    pub fn in_query(mut self, name: &str, schema: impl Into<RefOr<Schema>>, description: &str) -> Self {
        let parameter = parameter(name, ParameterIn::Query, schema.into(), description);
        self.described = self.described.parameter(parameter);
        self
    }

    pub fn header(mut self, name: &str, schema: impl Into<RefOr<Schema>>, description: &str) -> Self {
        self.described = self.described.parameter(header_parameter(name, schema, description));
        self
    }

    /// A list in pages, whose rows come after one with this id.
    pub fn in_pages(self, after: impl Into<RefOr<Schema>>) -> Self {
        let limit = shapes::integer(1, config::PAGE_MAX_ROWS).default(Some(config::PAGE_DEFAULT_ROWS.into()));
        self.in_query("limit", limit, "The most rows of a page.").in_query(
            "after",
            after,
            "`next` of the page before.",
        )
    }

    /// Has `Idempotency-Key` and `Prefer`, as a claim has.
    pub fn claims(self) -> Self {
        let wait = config::PREFER_WAIT_MAX.as_secs();
        let prefer = format!(
            "`wait=N`: wait up to N seconds, at most {wait}, for the order to be recorded, so that the answer is 201 with \
             `reserved_until` instead of 202. Anything else is ignored (RFC 7240)."
        );
        self.idempotency_key().header("Prefer", text().examples(["wait=5"]), &prefer)
    }

    pub fn idempotency_key(self) -> Self {
        let key = "Your name for this claim, needed if a user may hold several units: a new key for each further unit, the \
                   same key for each repeat. Ignored for other coupons.";
        self.header("Idempotency-Key", shapes::idempotency_key(), key)
    }

    /// A JSON body that must be there.
    pub fn body<T: ToSchema>(self, mime: &[&str], example: Value) -> Self {
        let content = Content::builder().schema(Some(of::<T>())).example(Some(example)).build();
        let body =
            mime.iter().fold(RequestBodyBuilder::new(), |body, mime| body.content(*mime, content.clone()));
        self.reads(body.required(Some(Required::True))).known::<T>()
    }

    /// A body that may be absent; if there is one, it is an object that is not read further.
    pub fn optional_body(self) -> Self {
        let any = ObjectBuilder::new().additional_properties(Some(AdditionalProperties::FreeForm(true)));
        let content = Content::builder().schema(Some(any.build())).example(Some(json!({})));
        let body = RequestBodyBuilder::new()
            .description(Some(
                "Not needed. If there is a body, it is a JSON object, whose fields are ignored.",
            ))
            .content(JSON, content.build());
        self.reads(body)
    }

    fn reads(mut self, body: RequestBodyBuilder) -> Self {
        self.described = self.described.request_body(Some(body.build()));
        self.codes(&[Code::RequestTimeout, Code::PayloadTooLarge, Code::UnsupportedMediaType])
    }

    pub fn answers(mut self, mut answer: Success) -> Self {
        self.schemas.append(&mut answer.schemas);
        self.answers.push(answer);
        self
    }

    /// 304, for a client that sends the `ETag` of what it has.
    pub fn or_not_modified(self) -> Self {
        let tag = "An `ETag` that you have: if it is still the same, the answer is 304 without a body.";
        self.header("If-None-Match", text(), tag)
            .answers(Success::empty(304, "Nothing has changed.").with_header("ETag", "The same tag."))
    }

    /// Problems, besides those that the other words imply.
    pub fn codes(mut self, codes: &[Code]) -> Self {
        self.codes.extend(codes);
        self
    }

    /// Adds the schema of a type, and those that it names, to the description.
    pub fn known<T: ToSchema>(mut self) -> Self {
        self.schemas.extend(schemas_of::<T>());
        self
    }

    pub fn describe(self, schemas: &mut Schemas) -> (&'static str, HttpMethod, path::Operation) {
        schemas.extend(self.schemas);
        schemas.extend(problems::schemas());
        let request_id =
            header_parameter("x-request-id", text(), "The id of this request in the answer and in the log.");
        let mut described = self.described.parameter(request_id);
        for answer in self.answers {
            described = described.response(answer.status.to_string(), answer.describe());
        }
        for (status, response) in problems::responses(&self.codes) {
            described = described.response(status, response);
        }
        (self.path, self.method, described.build())
    }
}

impl Success {
    /// An answer without a body.
    pub fn empty(status: u16, description: &'static str) -> Self {
        Self { status, description, content: None, headers: Vec::new(), schemas: Vec::new() }
    }

    pub fn json<T: ToSchema>(status: u16, description: &'static str, example: Value) -> Self {
        Self::of_schema(status, description, of::<T>(), example).known::<T>()
    }

    /// A list in pages, or a whole one.
    pub fn list<T: ToSchema>(description: &'static str, in_pages: bool, example: Value) -> Self {
        let list = shapes::list(of::<T>(), in_pages);
        Self::of_schema(200, description, list.into(), example).known::<T>()
    }

    pub fn of_schema(status: u16, description: &'static str, schema: RefOr<Schema>, example: Value) -> Self {
        let content = ContentBuilder::new().schema(Some(schema)).example(Some(example)).build();
        Self { content: Some((JSON, content)), ..Self::empty(status, description) }
    }

    /// A body that is not JSON.
    pub fn text(mime: &'static str, description: &'static str, example: &str) -> Self {
        let content = ContentBuilder::new().schema(Some(text())).example(Some(example.into())).build();
        Self { content: Some((mime, content)), ..Self::empty(200, description) }
    }

    /// Server-sent events: the name of each, and the schema of its data.
    pub fn events<const N: usize>(events: [(&str, RefOr<Schema>); N], example: &str) -> Self {
        let event = |(name, data): (&str, RefOr<Schema>)| {
            ObjectBuilder::new()
                .property("id", text().description(Some("For `Last-Event-ID`.")))
                .property("event", text().enum_values(Some([name])))
                .property("data", text().content_media_type(JSON).content_schema(Some(data)))
                .required("id")
                .required("event")
                .required("data")
        };
        let one_of = events.into_iter().map(event).fold(OneOfBuilder::new(), OneOfBuilder::item);
        let content = ContentBuilder::new().item_schema(Some(one_of)).example(Some(example.into())).build();
        let description = "Events, until one side closes the connection.";
        Self { content: Some(("text/event-stream", content)), ..Self::empty(200, description) }
    }

    pub fn with_header(mut self, name: &'static str, description: &'static str) -> Self {
        self.headers.push((name, description));
        self
    }

    pub fn known<T: ToSchema>(mut self) -> Self {
        self.schemas.extend(schemas_of::<T>());
        self
    }

    fn describe(self) -> ResponseBuilder {
        let mut response = ResponseBuilder::new().description(self.description);
        if let Some((mime, content)) = self.content {
            response = response.content(mime, content);
        }
        for (name, description) in self.headers.into_iter().chain([problems::REQUEST_ID]) {
            response = response.header(name, header(description));
        }
        response
    }
}

fn header_parameter(name: &str, schema: impl Into<RefOr<Schema>>, description: &str) -> ParameterBuilder {
    parameter(name, ParameterIn::Header, schema.into(), description)
}

fn parameter(name: &str, place: ParameterIn, schema: RefOr<Schema>, description: &str) -> ParameterBuilder {
    let parameter = ParameterBuilder::new().name(name).parameter_in(place).required(Required::False);
    parameter.schema(Some(schema)).description(Some(description))
}
