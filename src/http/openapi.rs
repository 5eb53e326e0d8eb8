//! The API's description at `/openapi.json` (`OpenAPI` 3.1) and the page that shows it, `/docs`. `operation` has the words in
//! which the files of the resources describe their addresses; schemas are those of the types that are sent and read.
//! Tests compare the description with the router, the handlers and the answers (tests/README.md).

mod admin_coupons;
mod admin_orders;
mod claims;
mod coupons;
mod operation;
mod operations;
mod orders;
mod parts;
mod problems;
mod service;
mod waitlist;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use bytes::Bytes;
use utoipa::openapi::path::Paths;
use utoipa::openapi::schema::{Components, Schema};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{InfoBuilder, License, OpenApi, OpenApiBuilder, RefOr, Tag};

use operation::Operation;

/// The name and the content of each group of addresses, in the order of the page.
const TAGS: [(&str, &str); 9] = [
    (coupons::TAG, "What is on sale. No token is needed."),
    (
        claims::TAG,
        "A user's request for one unit. It can always be sent again: a repeat gets the same order.",
    ),
    (orders::TAG, "What an accepted claim becomes, and how it is paid or given up."),
    (waitlist::TAG, "Users who wait for units of a sold-out coupon that come back."),
    (
        coupons::EVENTS,
        "Server-sent events: stock and states as they change. An answer has no end; a browser reads it with \
         `EventSource`.",
    ),
    (admin_coupons::TAG, "Defines coupons. With the admin token."),
    (admin_orders::TAG, "Who won, and what could not be recorded. With the admin token."),
    (operations::TAG, "Whether the sale is healthy, and who changed what. With the admin token."),
    (service::TAG, "Health, metrics, sign-in of a demo, and the pages."),
];

/// The description as JSON, and its entity tag.
static JSON: LazyLock<(Bytes, String)> = LazyLock::new(|| {
    let json = document().to_json().unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    json.hash(&mut hasher);
    (json.into(), format!("\"{:016x}\"", hasher.finish()))
});

/// The description as JSON.
pub fn json() -> Bytes {
    JSON.0.clone()
}

/// The entity tag of [`json`].
pub fn tag() -> &'static str {
    &JSON.1
}

/// The description of this version of the program.
#[must_use]
pub fn document() -> OpenApi {
    let mut paths = Paths::new();
    let mut schemas = BTreeMap::<String, RefOr<Schema>>::new();
    for operation in all() {
        let (path, method, described) = operation.describe(&mut schemas);
        paths.add_path_operation(path, vec![method], described);
    }
    let mut components = Components::new();
    components.schemas = schemas;
    components.add_security_scheme(operation::USER, bearer(Some("JWT"), USER_TOKEN));
    components.add_security_scheme(operation::ADMIN, bearer(None, ADMIN_TOKEN));
    let info = InfoBuilder::new()
        .title("seckill")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(include_str!("openapi/introduction.md")))
        .license(Some(License::builder().name(LICENSE).identifier(Some(LICENSE)).build()));
    let tag = |(name, text): (&str, &str)| {
        let mut tag = Tag::new(name);
        tag.description = Some(text.to_owned());
        tag
    };
    OpenApiBuilder::new()
        .info(info.build())
        .paths(paths)
        .components(Some(components))
        .tags(Some(TAGS.map(tag)))
        .build()
}

fn all() -> impl Iterator<Item = Operation> {
    coupons::operations()
        .into_iter()
        .chain(claims::operations())
        .chain(orders::operations())
        .chain(waitlist::operations())
        .chain(coupons::event_streams())
        .chain(admin_coupons::operations())
        .chain(admin_orders::operations())
        .chain(operations::operations())
        .chain(service::operations())
}

const LICENSE: &str = env!("CARGO_PKG_LICENSE");
const USER_TOKEN: &str = "A JWT of a user, signed with HS256 and the server's secret: `sub` is the user, `exp` is \
                          required. `seckill token --user alice` makes one to try with.";
const ADMIN_TOKEN: &str = "The admin token, from the file `admin-token` in the data directory or from \
                           `SECKILL_ADMIN_TOKEN`.";

fn bearer(format: Option<&str>, description: &str) -> SecurityScheme {
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description));
    SecurityScheme::Http(match format {
        Some(format) => scheme.bearer_format(format).build(),
        None => scheme.build(),
    })
}
