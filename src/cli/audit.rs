//! `seckill audit`: prints the receipt of a coupon, or its winners as CSV, through the API; with `--aof` audits the log
//! that Redis wrote.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use clap::builder::NonEmptyStringValueParser as NonEmpty;
use reqwest::Method;
use serde_json::Value;

use super::audit_aof;
use super::client::{Client, ClientArgs};
use super::output::{columns, field, table};
use crate::config::{self, ServerSettings, StoreSettings};
use crate::domain::CouponId;
use crate::printing;

/// The columns of the winners' list, as the API names them.
const WINNER: [&str; 8] =
    ["order", "user", "slot", "status", "claimed_at", "recorded_at", "reserved_until", "confirmed_at"];

#[derive(Args)]
pub struct AuditArgs {
    /// Coupon whose units are counted
    #[arg(required_unless_present = "aof")]
    coupon: Option<CouponId>,

    /// Replay the log that Redis wrote in this directory (the data directory, Redis's own or `appendonlydir`), and
    /// compare the holders at its end with Postgres
    #[arg(long, value_name = "DIR", conflicts_with_all = ["coupon", "csv"])]
    aof: Option<PathBuf>,

    /// Print the orders that hold a unit as CSV (RFC 4180)
    #[arg(long, conflicts_with = "json")]
    csv: bool,

    /// Print the receipt as JSON on one line
    #[arg(long)]
    json: bool,

    /// Address of the running server
    #[arg(long, env = "SECKILL_URL", default_value = "http://127.0.0.1:8080", value_name = "URL", value_parser = NonEmpty::new())]
    url: String,

    /// Bearer token of the admin API [default: read from <data>/admin-token]
    #[arg(long, env = "SECKILL_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true, value_parser = NonEmpty::new())]
    admin_token: Option<String>,

    #[command(flatten)]
    stores: StoreSettings,
}

/// # Errors
/// When a store or the server does not answer, or something does not add up.
pub async fn run(args: AuditArgs) -> anyhow::Result<()> {
    if let Some(dir) = &args.aof {
        return audit_aof::run(dir, args.stores, args.json).await;
    }
    let coupon = args.coupon.context("a coupon is given")?;
    let server =
        ServerSettings { url: args.url, admin_token: args.admin_token, data_dir: args.stores.data_dir };
    let client = Client::new(&ClientArgs { server, json: args.json })?;
    let path = format!("/v1/admin/coupons/{coupon}");
    let request = client.request(Method::GET, &format!("{path}/receipt"));
    let receipt = client.send(request.timeout(config::CLI_RECONCILE_TIMEOUT)).await?;
    if args.csv {
        print_winners(&client, &format!("{path}/winners")).await?;
    } else {
        client.print(&receipt, receipt_text)?;
    }
    if receipt.body["adds_up"] == true {
        return Ok(());
    }
    let [off_by, found] = ["off_by", "exceptions_found"].map(|name| field(&receipt.body, name));
    bail!("coupon {coupon} does not add up: off by {off_by}, exceptions: {found}")
}

fn receipt_text(receipt: &Value) -> String {
    let [title, coupon, time, returning] =
        ["title", "coupon", "server_time", "returning"].map(|name| field(receipt, name));
    let row = |name: &str, what: &str| vec![name.to_owned(), field(receipt, name), what.to_owned()];
    let on_the_way = match returning.as_str() {
        "0" => String::new(),
        units => format!("{units} of them on their way back"),
    };
    let sum = if receipt["adds_up"] == true { "adds up" } else { "DOES NOT ADD UP" };
    let counts = columns(&[
        row("total", &format!("= stock + accepted + reserved + confirmed: {sum}")),
        row("stock", &on_the_way),
        row("accepted", "in Redis, not recorded yet"),
        row("reserved", "recorded, to be paid"),
        row("confirmed", ""),
        row("returned", "came back from cancelled, expired and revoked orders"),
        row("rejected", "could not be recorded"),
        row("off_by", ""),
    ]);
    let heading = format!("receipt of {coupon} ({title}) at {time}");
    let exceptions = receipt["exceptions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if exceptions.is_empty() {
        return format!("{heading}\n{counts}\nno exceptions");
    }
    let names = ["kind", "user", "order", "why"];
    let exceptions = table(["EXCEPTION", "USER", "ORDER", "WHY"], exceptions, |exception| {
        names.map(|name| field(exception, name))
    });
    format!("{heading}\n{counts}\n\n{exceptions}")
}

/// Prints page by page, so that a long list is not held in memory. Values are unchanged, also users that begin with `=`.
async fn print_winners(client: &Client, path: &str) -> anyhow::Result<()> {
    let mut after: Option<String> = None;
    let mut rows: Vec<[String; WINNER.len()]> = vec![WINNER.map(str::to_owned)];
    loop {
        let (page, next) = client.get_page(path, after.as_deref()).await?;
        rows.extend(page.iter().map(winner));
        printing::to_stdout(&csv_text(&rows)?)?;
        if next.is_none() {
            return Ok(());
        }
        rows.clear();
        after = next;
    }
}

fn winner(order: &Value) -> [String; WINNER.len()] {
    WINNER.map(|name| match &order[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    })
}

fn csv_text<const N: usize>(rows: &[[String; N]]) -> anyhow::Result<String> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    for row in rows {
        writer.write_record(row)?;
    }
    let bytes = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
    Ok(String::from_utf8(bytes)?)
}
