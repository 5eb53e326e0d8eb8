//! `seckill order …`: shows, confirms, cancels and revokes one order through the API, as the admin.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs};
use super::output::{columns, field, named_row};
use super::value_parsers::parse_reason;
use crate::domain::OrderId;

#[derive(Subcommand)]
pub enum OrderCommand {
    /// Show one order
    Show(OrderArgs),
    /// Confirm a reserved order: it is paid
    Confirm(OrderArgs),
    /// Cancel a reserved order: its unit returns to stock
    Cancel(OrderArgs),
    /// End a confirmed order
    Revoke(RevokeArgs),
}

#[derive(Args)]
pub struct OrderArgs {
    /// The order's id, from the answer to the claim
    order: OrderId,

    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("unit").required(true))]
pub struct RevokeArgs {
    /// The order's id, from the answer to the claim
    order: OrderId,

    /// Why the order ends; its user sees this
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,

    /// Return the unit to stock, so that it can be claimed again
    #[arg(long, group = "unit")]
    return_unit: bool,

    /// Take the unit out of the sale: the coupon's total falls by one
    #[arg(long, group = "unit")]
    withdraw_unit: bool,

    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(command: OrderCommand) -> anyhow::Result<()> {
    match command {
        OrderCommand::Show(args) => {
            let client = Client::new(&args.client)?;
            let answer = client.get(&format!("/v1/orders/{}", args.order), &[]).await?;
            client.print(&answer, all_fields)
        }
        OrderCommand::Confirm(args) => change(&args, "confirm").await,
        OrderCommand::Cancel(args) => change(&args, "cancel").await,
        OrderCommand::Revoke(args) => {
            let client = Client::new(&args.client)?;
            let body = json!({"reason": args.reason, "return_unit": args.return_unit});
            let answer = client.post(&format!("/v1/admin/orders/{}/revoke", args.order), &body).await?;
            client.print(&answer, sentence)
        }
    }
}

async fn change(args: &OrderArgs, transition: &str) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let answer = client.post(&format!("/v1/orders/{}/{transition}", args.order), &json!({})).await?;
    client.print(&answer, sentence)
}

fn sentence(order: &Value) -> String {
    let [id, user, coupon, status] = ["order", "user", "coupon", "status"].map(|name| field(order, name));
    format!("order {id} of {user} for {coupon} is {status}")
}

fn all_fields(order: &Value) -> String {
    let names = [
        "order",
        "coupon",
        "user",
        "status",
        "claimed_at",
        "recorded_at",
        "reserved_until",
        "ended_at",
        "reason",
    ];
    columns(&names.map(|name| named_row(name, field(order, name))))
}
