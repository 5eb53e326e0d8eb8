//! `seckill reconcile`: compares Redis with Postgres during live claims, repairs differences with `--fix`, or stops
//! claims and rebuilds with `--rebuild`.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, ClientArgs};
use super::output::{columns, field};
use crate::config;

#[derive(Args)]
pub struct ReconcileArgs {
    /// Repair differences during live claims; if that is not possible, rebuild
    #[arg(long, conflicts_with = "rebuild")]
    fix: bool,

    /// Stop claims, make both stores agree, even if Postgres has lost commits, and accept claims again
    #[arg(long)]
    rebuild: bool,

    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(args: ReconcileArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let body = if args.rebuild { json!({ "rebuild": true }) } else { json!({ "fix": args.fix }) };
    let request = client
        .request(Method::POST, "/v1/admin/reconcile")
        .json(&body)
        .timeout(config::CLI_RECONCILE_TIMEOUT);
    let answer = client.send(request).await?;
    client.print(&answer, if args.rebuild { rebuild_text } else { comparison_text })
}

fn comparison_text(found: &Value) -> String {
    let row = |name: &str, what: &str| vec![name.to_owned(), field(found, name), what.to_owned()];
    let counts = columns(&[
        row("coupons", "compared"),
        row("claims", "compared"),
        row("in_flight", "in progress, not recorded or returned yet: not a difference"),
        row("lost_events", "claims without an entry or an order"),
        row("missed_releases", "claims whose order has ended"),
        row("missing_claims", "live orders that Redis does not hold"),
        row("foreign_fields", "fields of claims hashes that are not claims"),
        row("deleted_entries", "deleted or trimmed before they were acknowledged"),
        row("stock_drift", "coupons whose stock is wrong"),
        row("definition_drift", "coupons whose definition in Redis is not that of Postgres"),
        row("waitlist_drift", "users in waiting lists whom only one store has"),
        row("fixed", "repaired"),
        row("fenced", "claims were stopped for a rebuild"),
    ]);
    let named = found["named"].as_array().into_iter().flatten().map(|difference| {
        let [kind, coupon] = ["kind", "coupon"].map(|name| field(difference, name));
        let name = if difference["fields"].is_array() { "fields" } else { "order" };
        let what = field(difference, name);
        format!("{kind}  {coupon}  {what}")
    });
    std::iter::once(counts).chain(named).collect::<Vec<_>>().join("\n")
}

fn rebuild_text(report: &Value) -> String {
    let [epoch, coupons, claims, changed, resent, rejected] =
        ["epoch", "coupons", "claims", "changed", "resent", "rejected"].map(|name| field(report, name));
    let mut lines = vec![format!(
        "epoch {epoch}: {claims} claims of {coupons} coupons, {changed} fields changed, {resent} orders sent again, \
         {rejected} rejected"
    )];
    for edit in report["edits"].as_array().into_iter().flatten() {
        lines.push(edit_text(edit));
    }
    for (name, what) in [
        ("adopted", "coupon that only Redis had"),
        ("cancelled", "order that Redis does not hold"),
        ("unheld", "order that Redis does not hold and perhaps never held: cancel it if it had ended"),
    ] {
        for id in report[name].as_array().into_iter().flatten().filter_map(Value::as_str) {
            lines.push(format!("{name}  {id}  ({what})"));
        }
    }
    if let Some(orders @ 1..) = report["restarted"].as_u64() {
        lines.push(format!(
            "restarted  the time to pay of {orders} reserved orders  (their confirms may be lost: compare them with the \
             payments)"
        ));
    }
    lines.join("\n")
}

/// One line for a definition that was adopted from Redis, or paused because Redis does not confirm it.
fn edit_text(edit: &Value) -> String {
    let [coupon, outcome, from, to] =
        ["coupon", "outcome", "from_version", "to_version"].map(|name| field(edit, name));
    let changes = |name: &str| {
        let each = edit[name].as_array().into_iter().flatten().map(|change| {
            let [field, from, to] = ["field", "from", "to"].map(|name| field(change, name));
            format!("{field} {from} -> {to}")
        });
        each.collect::<Vec<_>>().join(", ")
    };
    let line = format!("{outcome}  {coupon}  version {from} -> {to}: {}", changes("changes"));
    if outcome != "paused" {
        return line;
    }
    let undone = changes("undone");
    let undone = if undone.is_empty() { undone } else { format!("; undone: {undone}") };
    let why = field(edit, "why");
    format!("{line}{undone}  ({why}: check it, then `seckill coupon resume {coupon}`)")
}
