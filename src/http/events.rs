//! Event streams (server-sent events).

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};

use super::Api;
use super::answer::Content;
use super::problem::{Answer, Problem};
use super::request::{Request, coupon_id};
use crate::live::{TooManyStreams, Topic};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// `GET /v1/events`: stock and state of all listed coupons.
pub async fn listed(api: Arc<Api>, request: Request) -> Answer {
    open(&api, Topic::Listed, &request.headers).await
}

/// `GET /v1/coupons/{coupon}/events`: those of one coupon.
pub async fn of_coupon(api: Arc<Api>, coupon: &str, request: Request) -> Answer {
    let coupon = coupon_id(coupon)?;
    match api.partitions.snapshot(&coupon).await {
        Ok(None) => return Err(Problem::unknown_coupon(&coupon)),
        // While the stores cannot be read, the stream says so.
        Err(error) if !api.catalogue.is_published(&coupon) => return Err(error.into()),
        Ok(Some(_)) | Err(_) => {}
    }
    open(&api, Topic::One(coupon), &request.headers).await
}

/// `GET /v1/admin/events`: the state of the sale, once a second.
pub fn operations(api: &Api, request: &Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let events = api.operations.open(last_event_id(&request.headers)).map_err(too_many)?;
    Ok(answer(events))
}

async fn open(api: &Api, topic: Topic, headers: &HeaderMap) -> Answer {
    let events = api.live.open(topic, last_event_id(headers)).await.map_err(too_many)?;
    Ok(answer(events))
}

fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(LAST_EVENT_ID)?.to_str().ok()
}

fn too_many(error: TooManyStreams) -> Problem {
    Problem::unavailable(error.to_string())
}

fn answer(events: impl Stream<Item = Bytes> + Send + Sync + 'static) -> Response<Content> {
    let mut response = Response::new(Content::Stream(Box::pin(events.map(Ok))));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A proxy such as nginx would otherwise collect events before it passes them on.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
