//! Every route on one screen. One table matches all paths, instead of one warp filter for each path, so that no warp
//! rejection has to be handled: an unknown path is a 404, a wrong method a 405 with `Allow`, and HEAD is handled as
//! GET.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use warp::Filter;

use super::answer::into_warp;
use super::prefer::preferred_wait;
use super::problem::{Answer, Code, Problem};
use super::request::{Arrival, Body, Request};
use super::{
    Api, ApiSlot, admin, admin_coupons, admin_waitlist, audit, claims, coupons, dead_letters, detached,
    events, head, health, order, orders, pages, receipt, sign_in, waitlist,
};
use crate::{config, metrics};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[expect(clippy::match_same_arms, reason = "a 405 stands beside its address, not beside the other 405s")]
async fn route(api: Arc<Api>, mut request: Request) -> Answer {
    let path = std::mem::take(&mut request.path);
    let method = if request.method == Method::HEAD { Method::GET } else { request.method.clone() };
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    // Boxed: the future of the whole table would be as large as that of its largest handler.
    let answer: BoxFuture<'_, Answer> = match (segments.as_slice(), method.as_str()) {
        // An empty segment is not an id: an address with an extra slash is unknown.
        (segments, _) if segments.len() > 1 && segments.contains(&"") => nothing_here(),
        (["v1", "coupons", coupon, "claims"], "POST") => claims::claim(&api, coupon, request).boxed(),
        (["v1", "coupons", coupon, "claims"], "GET") => claims::held(api, coupon, request).boxed(),
        (["v1", "coupons", _, "claims"], _) => not_allowed("GET, HEAD, POST"),
        (["v1", "coupons", coupon, "claims", order], "GET") => {
            claims::status(api, coupon, order, request).boxed()
        }
        (["v1", "coupons"], "GET") => coupons::list(api, request).boxed(),
        (["v1", "coupons", coupon], "GET") => coupons::show(&api, coupon, request).boxed(),
        (["v1", "coupons", coupon, "waitlist"], "POST") => waitlist::join(&api, coupon, request).boxed(),
        (["v1", "coupons", coupon, "waitlist"], "GET") => waitlist::show(api, coupon, request).boxed(),
        (["v1", "coupons", coupon, "waitlist"], "DELETE") => waitlist::leave(api, coupon, request).boxed(),
        (["v1", "coupons", _, "waitlist"], _) => not_allowed("DELETE, GET, HEAD, POST"),
        (["v1", "coupons", coupon, "events"], "GET") => events::of_coupon(api, coupon, request).boxed(),
        (["v1", "events"], "GET") => events::listed(api, request).boxed(),
        (["v1", "events"] | ["v1", "coupons", _, "events"], _) => not_allowed("GET, HEAD"),
        (["v1", "orders"], "GET") => orders::list(api, request).boxed(),
        (["v1", "orders", order], "GET") => order::show(api, order, request).boxed(),
        (
            ["v1", "coupons" | "orders"]
            | ["v1", "coupons" | "orders", _]
            | ["v1", "coupons", _, "claims", _],
            _,
        ) => not_allowed("GET, HEAD"),
        (["v1", "orders", order, "confirm"], "POST") => order::confirm(api, order, request).boxed(),
        (["v1", "orders", order, "cancel"], "POST") => order::cancel(api, order, request).boxed(),
        (["v1", "orders", _, "confirm" | "cancel"], _) => not_allowed("POST"),

        (["v1", "admin", "coupons"], "POST") => admin_coupons::create(api, request).boxed(),
        (["v1", "admin", "coupons"], "GET") => admin_coupons::list(api, request).boxed(),
        (["v1", "admin", "coupons"], _) => not_allowed("GET, HEAD, POST"),
        (["v1", "admin", "coupons", coupon], "GET") => admin_coupons::show(api, coupon, request).boxed(),
        (["v1", "admin", "coupons", coupon], "PATCH") => admin_coupons::edit(api, coupon, request).boxed(),
        (["v1", "admin", "coupons", _], _) => not_allowed("GET, HEAD, PATCH"),
        (["v1", "admin", "coupons", coupon, "claims"], "POST") => {
            claims::claim_on_behalf(&api, coupon, request).boxed()
        }
        (["v1", "admin", "coupons", _, "claims"], _) => not_allowed("POST"),
        (["v1", "admin", "coupons", coupon, "waitlist"], "GET") => {
            admin_waitlist::list(api, coupon, request).boxed()
        }
        (["v1", "admin", "coupons", coupon, "waitlist"], "POST") => {
            admin_waitlist::join(api, coupon, request).boxed()
        }
        (["v1", "admin", "coupons", _, "waitlist"], _) => not_allowed("GET, HEAD, POST"),
        (["v1", "admin", "coupons", coupon, "waitlist", user], "GET") => {
            admin_waitlist::show(api, coupon, user, request).boxed()
        }
        (["v1", "admin", "coupons", coupon, "waitlist", user], "DELETE") => {
            admin_waitlist::leave(api, coupon, user, request).boxed()
        }
        (["v1", "admin", "coupons", _, "waitlist", _], _) => not_allowed("DELETE, GET, HEAD"),
        (["v1", "admin", "coupons", coupon, "receipt"], "GET") => receipt::show(api, coupon, request).boxed(),
        (["v1", "admin", "coupons", coupon, "winners"], "GET") => {
            receipt::winners(api, coupon, request).boxed()
        }
        (["v1", "admin", "orders"], "GET") => orders::list_all(api, request).boxed(),
        (["v1", "admin", "orders", order, "revoke"], "POST") => order::revoke(api, order, request).boxed(),
        (["v1", "admin", "orders", _, "revoke"], _) => not_allowed("POST"),
        (["v1", "admin", "audit"], "GET") => audit::list(api, request).boxed(),
        (["v1", "admin", "events"], "GET") => ready(events::operations(&api, &request)).boxed(),
        (["v1", "admin", "stream"], "GET") => admin::stream(&api, request).boxed(),
        (["v1", "admin", "stream", "entries"], "GET") => admin::entries(api, request).boxed(),
        (["v1", "admin", "reconcile"], "POST") => admin::reconcile(api, request).boxed(),
        (["v1", "admin", "reconcile"], _) => not_allowed("POST"),
        (["v1", "admin", "dead"], "GET") => dead_letters::list(api, request).boxed(),
        (["v1", "admin", "dead", letter], "GET") => dead_letters::show(api, letter, request).boxed(),
        (
            ["v1", "admin", "orders" | "audit" | "events" | "stream" | "dead"]
            | ["v1", "admin", "dead", _]
            | ["v1", "admin", "stream", "entries"]
            | ["v1", "admin", "coupons", _, "receipt" | "winners"],
            _,
        ) => not_allowed("GET, HEAD"),
        (["v1", "admin", "dead", letter, "replay"], "POST") => {
            dead_letters::replay(api, letter, request).boxed()
        }
        (["v1", "admin", "dead", letter, "discard"], "POST") => {
            dead_letters::discard(api, letter, request).boxed()
        }
        (["v1", "admin", "dead", _, "replay" | "discard"], _) => not_allowed("POST"),

        (["v1", "sign-in"], "GET") => ready(sign_in::show(&api)).boxed(),
        (["v1", "sign-in"], "POST") => sign_in::sign_in(api, request).boxed(),
        (["v1", "sign-in"], _) => not_allowed("GET, HEAD, POST"),

        (["readyz"], "GET") => health::readyz(api, request).boxed(),
        (["metrics"], "GET") => health::metrics(api, request).boxed(),
        (["readyz" | "metrics"], _) => not_allowed("GET, HEAD"),
        _ => nothing_here(),
    };
    answer.await
}

pub fn nothing_here() -> BoxFuture<'static, Answer> {
    ready(Err(Problem::new(Code::NotFound, "there is nothing at this address"))).boxed()
}

pub fn not_allowed(allow: &'static str) -> BoxFuture<'static, Answer> {
    ready(Err(Problem::method_not_allowed(allow))).boxed()
}

/// A table of routes as one filter.
fn filter<F: Future<Output = warp::reply::Response> + Send>(
    answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static,
) -> impl Filter<Extract = (warp::reply::Response,), Error = warp::Rejection> + Clone + Send + Sync + 'static
{
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<Arrival>())
        .and(warp::body::stream())
        .then(
            move |method,
                  path: warp::path::FullPath,
                  query,
                  headers: HeaderMap,
                  arrival: Option<Arrival>,
                  chunks| {
                let id = request_id(&headers);
                let body = Body::new(&headers, chunks);
                let from_loopback = arrival.is_some_and(|arrival| config::is_loopback(arrival.peer.ip()));
                let version = arrival.map_or(Version::HTTP_11, |arrival| arrival.version);
                let path = path.as_str().to_owned();
                answer(Request { id, method, version, path, query, headers, from_loopback, body })
            },
        )
}

async fn answer(slot: Arc<ApiSlot>, request: Request) -> warp::reply::Response {
    let id = request.id.clone();
    let is_counted = request.path.starts_with("/v1/");
    // A claim and a rebuild use no pooled connection to Postgres; all other work must outlive its client.
    let is_claim = request.method == Method::POST && request.path.starts_with("/v1/coupons/");
    let answer = match head::check(&request).and_then(|()| slot.api()) {
        Err(problem) if problem.code == Code::BadRequest => Err(problem),
        _ if let Some(page) = pages::answer(&request) => page,
        // Answers also before there is an API.
        _ if request.path == "/livez" => health::livez(&slot.tasks, &request.method),
        Err(problem) => Err(problem),
        Ok(api) if is_claim => route(api, request).await,
        // Their work takes longer than other requests, and is detached by their handlers.
        Ok(api) if request.path == "/v1/admin/reconcile" || request.path.ends_with("/receipt") => {
            Box::pin(route(api, request)).await
        }
        Ok(api) => {
            let timeout = config::HTTP_POSTGRES_TIMEOUT + preferred_wait(&request.headers);
            Box::pin(detached(timeout, route(api, request))).await
        }
    };
    let response = finish(answer, id);
    if is_counted {
        metrics::HTTP_REQUESTS.add_or_other(response.status().as_str(), 1);
    }
    response
}

/// The answer with its id, a problem as its document.
pub fn finish(answer: Answer, id: HeaderValue) -> warp::reply::Response {
    let mut response = answer.unwrap_or_else(|problem| problem.render(id.to_str().unwrap_or_default()));
    response.headers_mut().insert(REQUEST_ID, id);
    into_warp(response)
}

/// The client's id if it may be echoed, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let mut theirs = headers.get_all(&REQUEST_ID).iter();
    let theirs = theirs.next().filter(|_| theirs.next().is_none());
    let is_fit = |id: &&HeaderValue| {
        (1..=config::REQUEST_ID_MAX_BYTES).contains(&id.len())
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    theirs.filter(is_fit).cloned().unwrap_or_else(|| {
        let mut text = [0; uuid::fmt::Simple::LENGTH];
        let text = uuid::Uuid::new_v4().simple().encode_lower(&mut text);
        HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("none"))
    })
}

/// The API as a service. Until the slot holds an API, the stores are starting.
pub fn service(
    slot: Arc<ApiSlot>,
) -> impl Filter<Extract = (warp::reply::Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    service_of(move |request| answer(slot.clone(), request))
}

/// A table of routes as a service that never fails.
pub fn service_of<F: Future<Output = warp::reply::Response> + Send>(
    answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static,
) -> impl Filter<Extract = (warp::reply::Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    filter(answer).or_else(|rejection: warp::Rejection| async move {
        tracing::error!("a request was rejected before it was routed: {rejection:?}");
        Ok((into_warp(Problem::new(Code::Internal, "the request could not be read").render("")),))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tower_service::Service;

    use super::service;
    use crate::http::ApiSlot;
    use crate::tasks::Tasks;

    /// The future is moved and allocated for every request. Without boxes it had 22 kB.
    const FUTURE_MAX_BYTES: usize = 4_096;

    #[tokio::test]
    async fn the_future_of_a_request_is_small() {
        let mut service = warp::service(service(Arc::new(ApiSlot::new(Tasks::default()))));
        let answer = service.call(http::Request::new(String::new()));
        let size = size_of_val(&answer);
        assert!(size <= FUTURE_MAX_BYTES, "{size} bytes");
    }
}
