//! The answers that handlers give: JSON that no cache may keep, and lists.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

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
pub fn json(status: StatusCode, body: &impl Serialize) -> Response<Bytes> {
    let mut text = Vec::with_capacity(CLAIM_ANSWER_BYTES);
    if let Err(error) = serde_json::to_writer(&mut text, body) {
        tracing::error!("an answer could not be written: {error}");
        text = b"null".to_vec();
    }
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
