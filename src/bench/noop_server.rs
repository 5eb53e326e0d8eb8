//! The ceiling: warp's own server with one route and a fixed answer, in a process of its own. What the program
//! does beside this is what it costs.

use std::net::Ipv4Addr;

use tokio::net::TcpListener;
use warp::Filter;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};

use crate::printing::stderr;

/// As long as the answer to a claim.
const BODY: &str = r#"{"order":"01a20f9c-e0bf-77cb-bcf6-49432da2b757","coupon":"coffee","user":"user-123456","status":"accepted","claimed_at":"2026-11-24T22:10:00.127Z","stock":999999}"#;
const PLACE: &str = "/v1/coupons/coffee/claims/01a20f9c-e0bf-77cb-bcf6-49432da2b757";

/// Serves until it is ended; says where on its first line, as `serve` does.
pub async fn run() -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    stderr::line(&format!("listening on http://{}", listener.local_addr()?));
    let claim = warp::post().and(warp::path!("v1" / "coupons" / String / "claims")).map(|_coupon| {
        warp::http::Response::builder()
            .status(202)
            .header(CONTENT_TYPE, "application/json")
            .header(CACHE_CONTROL, "no-store")
            .header(LOCATION, PLACE)
            .body(BODY)
    });
    warp::serve(claim).incoming(listener).run().await;
    Ok(())
}
