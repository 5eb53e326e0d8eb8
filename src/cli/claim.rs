//! `seckill claim`: one claim for a user. The server decides whether it is accepted.

use std::time::Duration;

use clap::Args;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs};
use super::output::field;
use super::value_parsers::parse_wait;
use crate::config;
use crate::domain::{CouponId, IdempotencyKey, UserId};

#[derive(Args)]
pub struct ClaimArgs {
    /// Coupon to claim a unit of
    coupon: CouponId,

    /// User who gets the unit
    #[arg(long, value_name = "USER")]
    user: UserId,

    /// Idempotency-Key of this claim: a repeat with the same key gets the same order; required if a user may hold
    /// several units
    #[arg(long, value_name = "KEY")]
    key: Option<IdempotencyKey>,

    /// How long to wait for the order to be recorded, at most 10s
    #[arg(long, value_name = "DURATION", value_parser = parse_wait)]
    wait: Option<Duration>,

    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(args: ClaimArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let path = format!("/v1/admin/coupons/{}/claims", args.coupon);
    let mut request = client.request(Method::POST, &path).json(&json!({ "user": args.user }));
    if let Some(key) = &args.key {
        request = request.header("idempotency-key", key.as_str());
    }
    if let Some(wait) = args.wait {
        request = request
            .header("prefer", format!("wait={}", wait.as_secs()))
            .timeout(config::CLI_REQUEST_TIMEOUT + wait);
    }
    let answer = client.send(request).await?;
    client.print(&answer, |order| sentence(answer.status, order))
}

fn sentence(status: StatusCode, order: &Value) -> String {
    let [id, state, user, coupon, stock] =
        ["order", "status", "user", "coupon", "stock"].map(|name| field(order, name));
    let already = if status == StatusCode::OK { " already" } else { "" };
    format!("{user} has a unit of {coupon}{already}: order {id} is {state}, {stock} left")
}
