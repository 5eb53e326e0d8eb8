//! `seckill reconcile --rebuild`: claims stop, Redis is rebuilt, also over a Postgres that has lost commits.

use std::time::Duration;

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, ClientArgs};
use super::output::field;

/// A rebuild of millions of claims takes its time.
const REBUILD_PATIENCE: Duration = Duration::from_mins(3);

#[derive(Args)]
pub struct ReconcileArgs {
    /// Stop claims, make Redis and Postgres agree, and take claims again
    #[arg(long, required = true)]
    rebuild: bool,

    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(args: ReconcileArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let request =
        client.request(Method::POST, "/v1/admin/reconcile").json(&json!({ "rebuild": args.rebuild }));
    let answer = client.send(request.timeout(REBUILD_PATIENCE)).await?;
    client.print(&answer, report)
}

fn report(report: &Value) -> String {
    let [epoch, coupons, claims, changed, resent, rejected] =
        ["epoch", "coupons", "claims", "changed", "resent", "rejected"].map(|name| field(report, name));
    let mut lines = vec![format!(
        "epoch {epoch}: {claims} claims of {coupons} coupons, {changed} fields changed, {resent} orders sent again, \
         {rejected} rejected"
    )];
    for (name, what) in [("adopted", "coupon only Redis knew"), ("cancelled", "order Redis does not hold")] {
        for id in report[name].as_array().into_iter().flatten().filter_map(Value::as_str) {
            lines.push(format!("{name}  {id}  ({what})"));
        }
    }
    lines.join("\n")
}
