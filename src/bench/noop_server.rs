//! The baseline: warp's own server with one route and a fixed answer, in a separate process. The difference to the
//! program's figures is the cost of the program.

use std::net::Ipv4Addr;

use tokio::net::TcpListener;
use warp::Filter;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};

use crate::printing::stderr;

/// As long as the program's answer to a claim.
const BODY: &str = r#"{"order":"01a20f9c-e0bf-77cb-bcf6-49432da2b757","coupon":"coffee","user":"user-123456","status":"accepted","claimed_at":"2026-11-24T22:10:00.127Z","stock":999999}"#;
const CLAIM_PATH: &str = "/v1/coupons/coffee/claims/01a20f9c-e0bf-77cb-bcf6-49432da2b757";

/// Serves until the process ends. As with `serve`, the first line on stderr has the address.
///
/// # Errors
/// When the process cannot listen on loopback.
pub async fn run() -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    stderr::line(&format!("listening on http://{}", listener.local_addr()?));
    let claim = warp::post().and(warp::path!("v1" / "coupons" / String / "claims")).map(|_coupon| {
        warp::http::Response::builder()
            .status(202)
            .header(CONTENT_TYPE, "application/json")
            .header(CACHE_CONTROL, "no-store")
            .header(LOCATION, CLAIM_PATH)
            .body(BODY)
    });
    warp::serve(claim).incoming(listener).run().await;
    Ok(())
}
