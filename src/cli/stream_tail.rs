//! `seckill stream tail`: follows the order stream, and says what each entry means and what becomes of it.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::Value;
use time::OffsetDateTime;

use super::client::{Client, ClientArgs, Transient};
use super::output::{Colour, field, print_line};
use super::stream_partition::PartitionArg;
use crate::config;
use crate::domain::parse_time;
use crate::printing::{self, stderr};

const ENTRIES: &str = "/v1/admin/stream/entries";

#[derive(Args)]
pub struct TailArgs {
    /// How many of the newest entries to show first
    #[arg(long, short = 'n', value_name = "ENTRIES", default_value_t = 10, value_parser = |text: &str| config::parse_whole(text, 1..=config::PAGE_MAX_ROWS))]
    lines: i64,

    /// Show the newest entries and end
    #[arg(long)]
    no_follow: bool,

    #[command(flatten)]
    partition: PartitionArg,

    #[command(flatten)]
    client: ClientArgs,
}

/// Runs until a signal, or until its output has no reader.
pub async fn run(args: TailArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let mut tail = Tail::new(args.client.json, args.partition.number());
    let newest = args.lines.to_string();
    let first = client.get(ENTRIES, &tail.query(vec![("newest", "true"), ("limit", &newest)])).await?;
    tail.print_news(&first.body)?;
    if args.no_follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(config::CLI_TAIL_INTERVAL).await;
        match follow(&client, &mut tail).await {
            Err(error) if error.is::<Transient>() => tail.report_trouble(&error),
            outcome => outcome?,
        }
    }
}

async fn follow(client: &Client, tail: &mut Tail) -> anyhow::Result<()> {
    let limit = config::PAGE_MAX_ROWS.to_string();
    let mut after = tail.settled.clone();
    loop {
        let mut query = vec![("limit", limit.as_str())];
        query.extend(after.as_deref().map(|after| ("after", after)));
        let page = client.get(ENTRIES, &tail.query(query)).await?;
        tail.trouble = None;
        tail.print_news(&page.body)?;
        after = page.body["next"].as_str().map(str::to_owned);
        if after.is_none() {
            return Ok(());
        }
    }
}

/// What was printed already.
struct Tail {
    /// `None` for the default one.
    partition: Option<String>,
    json: bool,
    in_colour: bool,
    /// What was said last about each entry, from the oldest one that is not settled on.
    told: BTreeMap<(u64, u64), String>,
    /// The last entry before those; nothing more will happen to it.
    settled: Option<String>,
    /// The error that was reported, while it lasts.
    trouble: Option<String>,
}

impl Tail {
    fn new(json: bool, partition: Option<String>) -> Self {
        let in_colour = printing::stdout_takes_colours();
        Self { partition, json, in_colour, told: BTreeMap::new(), settled: None, trouble: None }
    }

    /// The query, for the partition.
    fn query<'a>(&'a self, mut query: Vec<(&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
        query.extend(self.partition.as_deref().map(|number| ("partition", number)));
        query
    }

    /// Prints a line for each entry about which there is something new.
    fn print_news(&mut self, page: &Value) -> anyhow::Result<()> {
        for entry in page["items"].as_array().into_iter().flatten() {
            let Some(key) = key(&field(entry, "entry")) else { continue };
            let state = state(entry);
            if self.told.get(&key) != Some(&state) {
                let is_known = self.told.insert(key, state).is_some();
                print_line(&if self.json { entry.to_string() } else { self.line(entry, is_known) })?;
            }
            if entry["state"] == "acknowledged" {
                self.told.insert(key, SETTLED.to_owned());
            }
        }
        while let Some(oldest) = self.told.first_entry()
            && (oldest.get() == SETTLED || self.told.len() > config::CLI_TAIL_MAX_OPEN)
        {
            if let Some(((ms, number), _)) = self.told.pop_first() {
                self.settled = Some(format!("{ms}-{number}"));
            }
        }
        Ok(())
    }

    fn line(&self, entry: &Value, is_known: bool) -> String {
        let time = field(entry, "at");
        let time = time.split_once('T').map_or(time.as_str(), |(_, time)| time).trim_end_matches('Z');
        let head = format!("{time:<12}  {}", field(entry, "entry"));
        format!("{}  {}", Colour::Dim.paint(&head, self.in_colour), self.meaning(entry, is_known))
    }

    fn meaning(&self, entry: &Value, is_known: bool) -> String {
        let [order, user, coupon] = ["order", "user", "coupon"].map(|name| field(entry, name));
        let who = if is_known {
            format!("order {order}")
        } else {
            format!("{user} has a unit of {coupon}: order {order}")
        };
        let paint = |colour: Colour, text: &str| colour.paint(text, self.in_colour);
        if !entry["error"].is_null() {
            let what = paint(Colour::Red, "is no order event");
            return format!("{what}: {}; `seckill dead list` shows what became of it", field(entry, "error"));
        }
        match (entry["status"].as_str(), entry["state"].as_str()) {
            (Some("rejected"), _) => {
                format!("{who} is {}: `seckill dead list` says why", paint(Colour::Red, "rejected"))
            }
            (Some(status), _) => {
                let after =
                    window_ms(entry).map(|ms| format!(", {ms} ms after the claim")).unwrap_or_default();
                format!("{who} is {}, recorded{after}", paint(Colour::Green, status))
            }
            (None, Some("waiting")) => format!("{who} {} for a worker", paint(Colour::Yellow, "waits")),
            (None, Some("delivered")) => {
                let [consumer, deliveries] = ["consumer", "deliveries"].map(|name| field(entry, name));
                let again =
                    if deliveries == "1" { String::new() } else { format!(", delivery {deliveries}") };
                format!("{who} is {} {consumer}{again}", paint(Colour::Yellow, "being recorded by"))
            }
            _ => format!("{who} is acknowledged, and has no row: `seckill reconcile` finds what is missing"),
        }
    }

    /// Says once that the server is away; `tail` tries again until it is back.
    fn report_trouble(&mut self, error: &anyhow::Error) {
        let text = super::output::single_line(&format!("{error:#}"));
        if self.trouble.as_ref() != Some(&text) {
            stderr::line(&format!("seckill: {text} (trying again)"));
            self.trouble = Some(text);
        }
    }
}

const SETTLED: &str = "settled";

/// What there is to say about an entry: the same text means that there is nothing new.
fn state(entry: &Value) -> String {
    if entry["status"].is_string() {
        return field(entry, "status");
    }
    ["state", "consumer", "deliveries"].map(|name| field(entry, name)).join(" ")
}

fn key(id: &str) -> Option<(u64, u64)> {
    let (ms, number) = id.split_once('-')?;
    Some((ms.parse().ok()?, number.parse().ok()?))
}

/// The time from the entry to the row, by Redis's clock and by Postgres's.
fn window_ms(entry: &Value) -> Option<i128> {
    let time = |name: &str| -> Option<OffsetDateTime> { parse_time(entry[name].as_str()?).ok() };
    Some((time("recorded_at")? - time("at")?).whole_milliseconds().max(0))
}
