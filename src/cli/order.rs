//! `seckill order …`: lists orders, and shows, confirms, cancels and revokes one through the API, as the admin.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs};
use super::coupon_log;
use super::output::{columns, field, named_row, table};
use super::value_parsers::parse_reason;
use crate::config::{CLI_ORDERS_DEFAULT_ROWS, CLI_ORDERS_MAX_ROWS, parse_whole};
use crate::domain::{CouponId, OrderId, UserId};

#[derive(Subcommand)]
pub enum OrderCommand {
    /// List recorded orders, newest first
    List(ListArgs),
    /// Show one order
    Show(OrderArgs),
    /// Confirm a reserved order: it is paid
    Confirm(OrderArgs),
    /// Cancel a reserved order: its unit returns to stock
    Cancel(OrderArgs),
    /// End a confirmed order
    Revoke(RevokeArgs),
    /// Show the changes that admins have made to one order, newest first
    Log(OrderArgs),
}

#[derive(Args)]
pub struct ListArgs {
    /// Only orders of this coupon
    #[arg(long)]
    coupon: Option<CouponId>,

    /// Only orders of this user
    #[arg(long)]
    user: Option<UserId>,

    /// Only orders in this state
    #[arg(long, value_parser = ["reserved", "confirmed", "cancelled", "expired", "rejected"])]
    status: Option<String>,

    /// The most orders to print
    #[arg(long, value_name = "ORDERS", default_value_t = CLI_ORDERS_DEFAULT_ROWS, value_parser = |text: &str| parse_whole(text, 1..=CLI_ORDERS_MAX_ROWS))]
    limit: u32,

    #[command(flatten)]
    client: ClientArgs,
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
        OrderCommand::List(args) => list(args).await,
        OrderCommand::Log(args) => coupon_log::of_order(args.order, &args.client).await,
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

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let filters = [
        ("coupon", args.coupon.as_ref().map(CouponId::as_str)),
        ("user", args.user.as_ref().map(UserId::as_str)),
        ("status", args.status.as_deref()),
    ];
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(filters.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let path = format!("/v1/admin/orders?{}", query.finish());
    let (orders, next) = client.get_most(&path, args.limit as usize).await?;
    client.print_rows(&orders, next.as_deref(), |orders| order_table(orders, next.is_some()))
}

fn order_table(orders: &[Value], has_more: bool) -> String {
    if orders.is_empty() {
        return "no such orders are recorded".to_owned();
    }
    let table = table(["ORDER", "STATUS", "COUPON", "USER"], orders, |order| {
        ["order", "status", "coupon", "user"].map(|name| field(order, name))
    });
    if has_more { format!("{table}\nthere are more: raise --limit") } else { table }
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
        "confirmed_at",
        "ended_at",
        "reason",
    ];
    columns(&names.map(|name| named_row(name, field(order, name))))
}
