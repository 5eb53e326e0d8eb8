//! `seckill stream …`: shows how far the workers are behind the claims. A field that an older or newer server does not
//! send is shown as `-`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Client, ClientArgs};
use super::output::{columns, field, named_row, table};
use super::stream_partition::PartitionArg;
use super::stream_tail::{self, TailArgs};

#[derive(Subcommand)]
pub enum StreamCommand {
    /// Show the backlog, pending entries, consumers, and whether claims are accepted
    Status(StatusArgs),
    /// Follow the order events: what each one means, and what becomes of it
    Tail(TailArgs),
}

#[derive(Args)]
pub struct StatusArgs {
    #[command(flatten)]
    partition: PartitionArg,

    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(command: StreamCommand) -> anyhow::Result<()> {
    match command {
        StreamCommand::Status(args) => {
            let client = Client::new(&args.client)?;
            let partition = args.partition.number();
            let query: Vec<_> = partition.iter().map(|number| ("partition", number.as_str())).collect();
            let answer = client.get("/v1/admin/stream", &query).await?;
            client.print(&answer, status)
        }
        StreamCommand::Tail(args) => stream_tail::run(args).await,
    }
}

fn status(stream: &Value) -> String {
    let summary = columns(&[
        named_row("stream", field(stream, "stream")),
        named_row("entries", entries(stream)),
        named_row("group", field(stream, "group")),
        named_row("backlog", format!("{} order events not recorded yet", field(stream, "backlog"))),
        named_row("pending", pending(stream)),
        named_row("lag", format!("{} not delivered yet", field(stream, "lag"))),
        named_row("fence", fence(&stream["fence"])),
    ]);
    let consumers = optional_table(&stream["consumers"], ["CONSUMER", "PENDING", "IDLE"], |consumer| {
        [field(consumer, "name"), field(consumer, "pending"), milliseconds(&consumer["idle_ms"])]
    });
    let heading = ["GROUP", "CONSUMERS", "PENDING", "LAG", "LAST DELIVERED"];
    let groups = optional_table(&stream["groups"], heading, |group| {
        ["name", "consumers", "pending", "lag", "last_delivered_id"].map(|name| field(group, name))
    });
    [Some(summary), consumers, groups].into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

fn entries(stream: &Value) -> String {
    let ends = |first: &str, last: &str| format!(", {first} to {last}");
    let ends = match (stream["first_entry_id"].as_str(), stream["last_entry_id"].as_str()) {
        (Some(_), Some(_)) => ends(&field(stream, "first_entry_id"), &field(stream, "last_entry_id")),
        _ => String::new(),
    };
    format!("{}{ends}", field(stream, "length"))
}

fn pending(stream: &Value) -> String {
    let oldest = match &stream["oldest_pending_ms"] {
        Value::Null => String::new(),
        oldest => format!(", the oldest for {}", milliseconds(oldest)),
    };
    format!("{} delivered and not acknowledged{oldest}", field(stream, "pending"))
}

fn fence(fence: &Value) -> String {
    let mut text = match fence["state"].as_str() {
        Some("up") => "up: claims are accepted".to_owned(),
        Some("down") => "down: claims wait".to_owned(),
        _ => field(fence, "state"),
    };
    for (name, value) in [("reason", &fence["reason"]), ("epoch", &fence["epoch"])] {
        if !value.is_null() {
            text = format!("{text}, {name} {}", field(fence, name));
        }
    }
    text
}

/// `None` if the list is empty, or if the server does not send it.
fn optional_table<const N: usize>(
    items: &Value,
    heading: [&str; N],
    row: impl Fn(&Value) -> [String; N],
) -> Option<String> {
    let items = items.as_array().filter(|items| !items.is_empty())?;
    Some(table(heading, items, row))
}

fn milliseconds(value: &Value) -> String {
    match value.as_u64() {
        Some(ms) => humantime::format_duration(Duration::from_millis(ms)).to_string(),
        None => "-".to_owned(),
    }
}
