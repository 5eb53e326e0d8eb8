//! The pages and their files from `web/`, and the API's description. The files are part of the program, and read from the
//! folder in a debug build. They need no API, so they are there while the stores start.

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, header};
use rust_embed::Embed;

use super::answer::{Content, client_has, not_modified};
use super::openapi;
use super::problem::{Answer, Code, Problem};
use super::request::Request;

#[derive(Embed)]
#[folder = "web/"]
struct Files;

/// The pages use only what this server sends, and make no markup from text.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// Of `/docs`. Its vendored viewer has icons as `data:` addresses. It makes markup from Markdown, cleaned but not as a
/// trusted type. Scripts still come only from this server, and requests go only to it.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    // Asked again on each visit: the answer is a 304, and a new version of the program is seen at once.
    (header::CACHE_CONTROL, "no-cache"),
];

/// The answer to a request for a page, one of its files or the description; `None` for another address.
pub fn answer(request: &Request) -> Option<Answer> {
    let name = match request.path.as_str() {
        "/" => "storefront.html",
        "/admin" => "admin.html",
        "/docs" => "docs.html",
        "/openapi.json" => "",
        path => path.strip_prefix("/assets/")?,
    };
    Some(if ![Method::GET, Method::HEAD].contains(&request.method) {
        Err(Problem::method_not_allowed("GET, HEAD"))
    } else if request.path == "/openapi.json" {
        Ok(tagged(request, openapi::tag(), || whole("application/json", openapi::json())))
    } else {
        file(name, request)
    })
}

fn file(name: &str, request: &Request) -> Answer {
    let file =
        Files::get(name).ok_or_else(|| Problem::new(Code::NotFound, "there is nothing at this address"))?;
    let tag = tag(&file.metadata.sha256_hash());
    let mut response = tagged(request, &tag, || {
        let kind = match file.metadata.mimetype() {
            text if text.starts_with("text/") => format!("{text}; charset=utf-8"),
            other => other.to_owned(),
        };
        whole(&kind, bytes(file.data))
    });
    let policy = if name == "docs.html" { DOCS_POLICY } else { CONTENT_SECURITY_POLICY };
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    Ok(response)
}

/// The entity tag of a content with this hash.
fn tag(hash: &[u8]) -> String {
    let mut tag = String::from("\"");
    for byte in &hash[..16] {
        let _infallible = write!(tag, "{byte:02x}");
    }
    tag + "\""
}

/// The answer, or 304 for a client that has it.
fn tagged(request: &Request, tag: &str, answer: impl FnOnce() -> Response<Content>) -> Response<Content> {
    let mut response = if client_has(&request.headers, tag) { not_modified() } else { answer() };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

fn bytes(data: Cow<'static, [u8]>) -> Bytes {
    match data {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => Bytes::from(bytes),
    }
}

fn whole(kind: &str, bytes: Bytes) -> Response<Content> {
    let mut response = Response::new(bytes.into());
    if let Ok(kind) = HeaderValue::from_str(kind) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}
