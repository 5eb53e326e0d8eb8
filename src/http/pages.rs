//! The two pages and their files from `web/`: part of the program, and read from the folder in a debug build. They need
//! no API, so they are there while the stores start.

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, header};
use rust_embed::{Embed, EmbeddedFile};

use super::answer::{Content, client_has, not_modified};
use super::problem::{Answer, Code, Problem};
use super::request::Request;

#[derive(Embed)]
#[folder = "web/"]
struct Files;

/// The pages use only what this server sends, and make no markup from text.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    // Asked again on each visit: the answer is a 304, and a new version of the program is seen at once.
    (header::CACHE_CONTROL, "no-cache"),
];

/// The answer to a request for a page or one of its files; `None` for another address.
pub fn answer(request: &Request) -> Option<Answer> {
    let name = match request.path.as_str() {
        "/" => "storefront.html",
        "/admin" => "admin.html",
        path => path.strip_prefix("/assets/")?,
    };
    Some(if [Method::GET, Method::HEAD].contains(&request.method) {
        file(name, request)
    } else {
        Err(Problem::method_not_allowed("GET, HEAD"))
    })
}

fn file(name: &str, request: &Request) -> Answer {
    let file =
        Files::get(name).ok_or_else(|| Problem::new(Code::NotFound, "there is nothing at this address"))?;
    let mut tag = String::from("\"");
    for byte in &file.metadata.sha256_hash()[..16] {
        let _infallible = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    let mut response = if client_has(&request.headers, &tag) { not_modified() } else { whole(file) };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    Ok(response)
}

fn whole(file: EmbeddedFile) -> Response<Content> {
    let kind = match file.metadata.mimetype() {
        text if text.starts_with("text/") => format!("{text}; charset=utf-8"),
        other => other.to_owned(),
    };
    let bytes = match file.data {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => Bytes::from(bytes),
    };
    let mut response = Response::new(bytes.into());
    if let Ok(kind) = HeaderValue::from_str(&kind) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}
