//! A request as the handlers see it. A body is read with a size limit and a deadline: `Content-Length` may be wrong and a
//! client may stall.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Version, header};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::body;
use super::problem::{Code, Problem};
use crate::config;
use crate::domain::{CouponId, InvalidId, OrderId, UserId};

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>;

/// How a request arrived; the server adds it to the request's extensions.
#[derive(Clone, Copy)]
pub struct Arrival {
    pub peer: SocketAddr,
    pub version: Version,
}

pub struct Request {
    /// The answer's `x-request-id`.
    pub id: HeaderValue,
    pub method: Method,
    pub version: Version,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub from_loopback: bool,
    pub body: Body,
}

/// A body that has not been read yet.
pub struct Body {
    /// `None` without a body.
    chunks: Option<Chunks>,
    /// `Content-Length`; `None` for a chunked body.
    length: Option<u64>,
}

impl Body {
    pub fn new<B: Buf>(
        headers: &HeaderMap,
        chunks: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
    ) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes);
        let is_empty =
            matches!(length, None | Some(b"0")) && !headers.contains_key(header::TRANSFER_ENCODING);
        let chunks = (!is_empty).then(|| -> Chunks {
            Box::pin(chunks.map(|chunk| chunk.map(|mut chunk| chunk.copy_to_bytes(chunk.remaining()))))
        });
        Self { chunks, length: length.and_then(|length| std::str::from_utf8(length).ok()?.parse().ok()) }
    }

    async fn read(&mut self) -> Result<Bytes, Problem> {
        let Some(mut chunks) = self.chunks.take() else { return Ok(Bytes::new()) };
        let most = config::HTTP_BODY_MAX_BYTES;
        let too_large = || Problem::new(Code::PayloadTooLarge, format!("a body is at most {most} bytes"));
        if self.length.is_some_and(|length| length > most as u64) {
            return Err(too_large());
        }
        let read = async {
            let mut body = BytesMut::new();
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(|_| Problem::bad_request("the body is incomplete"))?;
                if body.len() + chunk.len() > most {
                    return Err(too_large());
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body.freeze())
        };
        // Boxed: most claims have no body, and their future needs no room for reading one.
        Box::pin(tokio::time::timeout(config::HTTP_BODY_TIMEOUT, read))
            .await
            .unwrap_or_else(|_| Err(Problem::new(Code::RequestTimeout, "the body did not arrive in time")))
    }
}

impl Request {
    /// The body as `T`; `T` decides about unknown fields.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Problem> {
        let body = self.body.read().await?;
        if body.is_empty() {
            return Err(Problem::bad_request("a JSON body is needed"));
        }
        self.expect_json()?;
        body::parse(&body)
    }

    /// Checks a body that may be absent: if there is one, it must be a JSON object.
    pub async fn optional_object(&mut self) -> Result<(), Problem> {
        let body = self.body.read().await?;
        if body.is_empty() {
            return Ok(());
        }
        self.expect_json()?;
        body::parse::<serde_json::Map<String, serde_json::Value>>(&body).map(drop)
    }

    fn expect_json(&self) -> Result<(), Problem> {
        let content_type = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json")
            || essence.eq_ignore_ascii_case("application/merge-patch+json")
        {
            return Ok(());
        }
        Err(Problem::new(Code::UnsupportedMediaType, "send the body as Content-Type: application/json"))
    }

    /// The fields of the query; the last one counts if a field is repeated.
    pub fn query_fields(&self) -> HashMap<String, String> {
        url::form_urlencoded::parse(self.query.as_bytes()).into_owned().collect()
    }
}

/// Decodes the percent signs of an id in a path: `%2F` is a character of the id, not a separator. All other parts of an
/// address have only one spelling, so that a proxy's rule about `/v1/admin` covers every admin address.
pub fn segment(text: &str) -> Result<Cow<'_, str>, Problem> {
    let is_escape = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(is_escape) {
        return Err(Problem::bad_request("a percent sign in the address is not followed by two digits"));
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map_err(|_| Problem::bad_request("the address is not UTF-8"))
}

/// A coupon's id in the address.
pub fn coupon_id(text: &str) -> Result<CouponId, Problem> {
    segment(text)?.parse().map_err(|error: InvalidId| Problem::bad_request(error.to_string()))
}

/// An order's id in the address.
pub fn order_id(text: &str) -> Result<OrderId, Problem> {
    segment(text)?.parse().map_err(|error: InvalidId| Problem::bad_request(error.to_string()))
}

/// A user's id in the address.
pub fn user_id(text: &str) -> Result<UserId, Problem> {
    segment(text)?.parse().map_err(|error: InvalidId| Problem::bad_request(error.to_string()))
}

/// A field of the query, if it is there.
pub fn query_field<T: std::str::FromStr<Err: std::fmt::Display>>(
    fields: &HashMap<String, String>,
    name: &str,
) -> Result<Option<T>, Problem> {
    let parsed = fields.get(name).map(|text| text.parse()).transpose();
    parsed.map_err(|error| Problem::bad_request(format!("{name}: {error}")))
}

/// A row's number in `after`, from 0 on.
#[derive(Clone, Copy)]
pub struct RowNumber(pub i64);

impl std::str::FromStr for RowNumber {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.parse().ok().filter(|number| *number >= 0);
        number.map(Self).ok_or("a row's number is a whole number from 0 on")
    }
}

/// `limit` and `after` of a list.
pub struct Page<T> {
    pub limit: i64,
    pub after: Option<T>,
}

impl<T: std::str::FromStr<Err: std::fmt::Display>> Page<T> {
    pub fn read(fields: &HashMap<String, String>) -> Result<Self, Problem> {
        let limit = match fields.get("limit") {
            None => config::PAGE_DEFAULT_ROWS,
            Some(text) => {
                text.parse().ok().filter(|limit| (1..=config::PAGE_MAX_ROWS).contains(limit)).ok_or_else(
                    || {
                        let most = config::PAGE_MAX_ROWS;
                        Problem::bad_request(format!("limit is a whole number from 1 to {most}"))
                    },
                )?
            }
        };
        let after = match fields.get("after") {
            None => None,
            Some(text) => {
                Some(text.parse().map_err(|error| Problem::bad_request(format!("after: {error}")))?)
            }
        };
        Ok(Self { limit, after })
    }

    /// The page's rows and one more, which shows whether there is a next page.
    pub fn rows(&self) -> i64 {
        self.limit + 1
    }

    /// Removes the additional row; returns the `after` of the next page.
    pub fn cut<R, N: ToString>(&self, rows: &mut Vec<R>, key: impl Fn(&R) -> N) -> Option<String> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        if rows.len() <= limit {
            return None;
        }
        rows.truncate(limit);
        rows.last().map(|row| key(row).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_in_a_path_is_decoded_once() {
        for (text, id) in [
            ("coffee", "coffee"),
            ("%63offee", "coffee"),
            ("%63%6F%66%66%65%65", "coffee"),
            ("a%2Fb", "a/b"),
            ("%2563", "%63"),
            ("%E4%BD%A0", "\u{4f60}"),
            ("a+b", "a+b"),
        ] {
            assert_eq!(segment(text).unwrap(), id, "{text}");
        }
        for text in ["%", "%6", "a%", "%zz", "%6g", "%+1", "%FF", "%C3", "100%"] {
            assert!(segment(text).is_err(), "{text}");
        }
    }
}
