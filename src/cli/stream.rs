//! `seckill stream …`: how far the workers are behind the claims, as the server tells it. A field that
//! an older or newer server leaves out shows as `-`.

use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;

use super::client::{Client, ClientArgs};
use super::output::{columns, field};

#[derive(Subcommand)]
pub enum StreamCommand {
    /// Backlog, pending entries, consumers, and whether claims are taken
    Status(ClientArgs),
}

pub async fn run(command: StreamCommand) -> anyhow::Result<()> {
    match command {
        StreamCommand::Status(args) => {
            let client = Client::new(&args)?;
            let answer = client.get("/v1/admin/stream", &[]).await?;
            client.print(&answer, status)
        }
    }
}

fn status(stream: &Value) -> String {
    let row = |name: &str, text: String| vec![name.to_owned(), text];
    let summary = columns(&[
        row("stream", field(stream, "stream")),
        row("entries", entries(stream)),
        row("group", field(stream, "group")),
        row("backlog", format!("{} order events not recorded yet", field(stream, "backlog"))),
        row("pending", pending(stream)),
        row("lag", format!("{} not delivered yet", field(stream, "lag"))),
        row("fence", fence(&stream["fence"])),
    ]);
    let consumers = table(&stream["consumers"], ["CONSUMER", "PENDING", "IDLE"], |consumer| {
        [field(consumer, "name"), field(consumer, "pending"), milliseconds(&consumer["idle_ms"])]
    });
    let heading = ["GROUP", "CONSUMERS", "PENDING", "LAG", "LAST DELIVERED"];
    let groups = table(&stream["groups"], heading, |group| {
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
        Some("up") => "up: claims are taken".to_owned(),
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

fn table<const N: usize>(
    items: &Value,
    heading: [&str; N],
    row: impl Fn(&Value) -> [String; N],
) -> Option<String> {
    let items = items.as_array().filter(|items| !items.is_empty())?;
    let rows = items.iter().map(|item| row(item).to_vec());
    Some(columns(&std::iter::once(heading.map(str::to_owned).to_vec()).chain(rows).collect::<Vec<_>>()))
}

fn milliseconds(value: &Value) -> String {
    match value.as_u64() {
        Some(ms) => humantime::format_duration(Duration::from_millis(ms)).to_string(),
        None => "-".to_owned(),
    }
}
