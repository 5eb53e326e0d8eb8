//! The answers that handlers give: JSON that no cache may keep, lists, and streams of events.

use std::convert::Infallible;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use warp::Reply;

/// The body of an answer.
pub enum Content {
    Whole(Bytes),
    /// Sent as it comes, until it ends.
    Stream(ByteStream),
}

/// Bytes that do not exist yet when the answer begins.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, Infallible>> + Send + Sync>>;

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

#[cfg(test)]
impl Content {
    /// The bytes of an answer that is not a stream.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Stream(_) => panic!("a stream has no bytes yet"),
        }
    }
}

/// The answer as warp sends it.
pub fn into_warp(answer: Response<Content>) -> warp::reply::Response {
    let (head, content) = answer.into_parts();
    let mut response = match content {
        Content::Whole(bytes) => Response::new(bytes).into_response(),
        Content::Stream(stream) => warp::reply::stream(stream).into_response(),
    };
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

#[expect(clippy::option_option, reason = "a whole list has no `next`, a last page has null")]
#[derive(Serialize)]
pub struct List<T> {
    pub items: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Option<String>>,
}

impl<T: Serialize> List<T> {
    /// A list that is never split into pages.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }

    pub fn page(items: Vec<T>, next: Option<String>) -> Self {
        Self { items, next: Some(next) }
    }
}

/// The size of the answer to a claim.
const CLAIM_ANSWER_BYTES: usize = 256;

/// A JSON answer that no cache may keep.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response<Content> {
    let mut text = Vec::with_capacity(CLAIM_ANSWER_BYTES);
    if let Err(error) = serde_json::to_writer(&mut text, body) {
        tracing::error!("an answer could not be written: {error}");
        text = b"null".to_vec();
    }
    let mut response = Response::new(Bytes::from(text).into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether `If-None-Match` names this entity tag. Weak and strong tags compare equal (RFC 9110, section 13.1.2).
pub fn client_has(headers: &HeaderMap, tag: &str) -> bool {
    let lines = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|asked| asked == "*" || opaque(asked) == opaque(tag))
}

/// 304, without a body.
pub fn not_modified() -> Response<Content> {
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}
