//! `seckill waitlist …`: a user's place in the waiting list of a sold-out coupon, through the admin API.

use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs};
use super::output::{field, print_line, table};
use crate::domain::{CouponId, IdempotencyKey, UserId};

#[derive(Subcommand)]
pub enum WaitlistCommand {
    /// Take the last place in line for a user, if the coupon is sold out
    Join(JoinArgs),
    /// Show a user's place, or the order that came of it
    Show(PlaceArgs),
    /// Give up a user's place
    Leave(PlaceArgs),
    /// List the users in line, the next one to get a unit first
    List(LineArgs),
}

#[derive(Args)]
pub struct JoinArgs {
    #[command(flatten)]
    place: PlaceArgs,

    /// Idempotency-Key of the claim that the place stands for; required if a user may hold several units
    #[arg(long, value_name = "KEY")]
    key: Option<IdempotencyKey>,
}

#[derive(Args)]
pub struct PlaceArgs {
    coupon: CouponId,

    /// User who waits
    #[arg(long, value_name = "USER")]
    user: UserId,

    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
pub struct LineArgs {
    coupon: CouponId,

    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(command: WaitlistCommand) -> anyhow::Result<()> {
    match command {
        WaitlistCommand::Join(args) => join(&args).await,
        WaitlistCommand::Show(args) => show(&args).await,
        WaitlistCommand::Leave(args) => leave(&args).await,
        WaitlistCommand::List(args) => list(&args.coupon, &args.client).await,
    }
}

fn line_of(coupon: &CouponId) -> String {
    format!("/v1/admin/coupons/{coupon}/waitlist")
}

fn path_of(place: &PlaceArgs) -> String {
    format!("{}/{}", line_of(&place.coupon), utf8_percent_encode(place.user.as_str(), NON_ALPHANUMERIC))
}

async fn join(args: &JoinArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.place.client)?;
    let request = client.request(Method::POST, &line_of(&args.place.coupon));
    let mut request = request.json(&json!({ "user": args.place.user }));
    if let Some(key) = &args.key {
        request = request.header("idempotency-key", key.as_str());
    }
    let answer = client.send(request).await?;
    client.print(&answer, |place| sentence(place, answer.status == StatusCode::OK))
}

async fn show(args: &PlaceArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let answer = client.get(&path_of(args), &[]).await?;
    client.print(&answer, |place| sentence(place, false))
}

async fn leave(args: &PlaceArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    client.send_for_nothing(client.request(Method::DELETE, &path_of(args))).await?;
    if args.client.json {
        return print_line(
            &json!({ "coupon": args.coupon, "user": args.user, "status": "left" }).to_string(),
        );
    }
    print_line(&format!("{} does not wait for {}", args.user, args.coupon))
}

/// The line of a coupon.
pub async fn list(coupon: &CouponId, client: &ClientArgs) -> anyhow::Result<()> {
    let client = Client::new(client)?;
    let places = client.get_all(&line_of(coupon)).await?;
    client.print_all(&places, |places| match places {
        [] => format!("no user waits for coupon {coupon}"),
        places => table(["PLACE", "USER", "ORDER", "JOINED"], places, |place| {
            ["place", "user", "order", "joined_at"].map(|name| field(place, name))
        }),
    })
}

/// A place, or the order of a user who has a unit.
fn sentence(state: &Value, is_repeat: bool) -> String {
    let [order, status, user, coupon] = ["order", "status", "user", "coupon"].map(|name| field(state, name));
    if status != "waiting" {
        return format!("{user} has a unit of {coupon}: order {order} is {status}");
    }
    let already = if is_repeat { " already" } else { "" };
    let [place, waiting] = ["place", "waiting"].map(|name| field(state, name));
    format!("{user} waits for {coupon}{already}: place {place} of {waiting}, order {order} comes with a unit")
}
