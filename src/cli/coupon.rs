//! `seckill coupon …`: creates, lists, shows and edits coupons through the admin API. The server checks the rules for
//! coupons; the command checks only its own flags.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::client::{Client, ClientArgs};
use super::output::{columns, field, named_row, table};
use super::value_parsers::{
    TimeOrNone, parse_reserve_seconds, parse_time, parse_time_or_none, parse_title, rfc3339,
};
use super::{WrongUsage, coupon_log, waitlist};
use crate::config::{PARTITIONS_MAX, PER_USER_LIMIT_MAX, TOTAL_MAX_UNITS, parse_whole};
use crate::domain::{ClaimDurability, CouponId};
use crate::printing;

const COUPONS: &str = "/v1/admin/coupons";

#[derive(Subcommand)]
pub enum CouponCommand {
    /// Create a coupon; creating the same coupon again changes nothing
    Create(CreateArgs),
    /// List all coupons, including unlisted ones
    List(ClientArgs),
    /// Show one coupon
    Show(CouponArgs),
    /// Change a coupon, also during a sale
    Edit(EditArgs),
    /// Stop accepting claims until `resume`
    Pause(CouponArgs),
    /// Accept claims again
    Resume(CouponArgs),
    /// Show the users in the waiting list, as `seckill waitlist list` does
    Waitlist(CouponArgs),
    /// Show the changes that admins have made, newest first; `--json` also shows the request ids
    Log(LogArgs),
}

#[derive(Args)]
pub struct CreateArgs {
    /// 1 to 63 letters, digits, `_` or `-`
    coupon: CouponId,

    /// Number of units for sale
    #[arg(long, value_name = "UNITS", value_parser = |text: &str| parse_whole(text, 1..=TOTAL_MAX_UNITS))]
    total: i64,

    /// Displayed name [default: the coupon's id]
    #[arg(long, value_parser = parse_title)]
    title: Option<String>,

    /// Start of the sale, such as 2026-11-11T20:00:00+01:00
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    starts_at: Option<OffsetDateTime>,

    /// End of the sale, such as 2026-11-11T21:00:00+01:00
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    ends_at: Option<OffsetDateTime>,

    /// Number of units that one user may hold [default: 1]
    #[arg(long, value_name = "UNITS", value_parser = |text: &str| parse_whole(text, 1..=PER_USER_LIMIT_MAX))]
    per_user_limit: Option<i64>,

    /// Time to confirm an order before its unit returns to stock, such as 15m [default: confirmed at once]
    #[arg(long, value_name = "DURATION", value_parser = parse_reserve_seconds)]
    reserve_for: Option<i64>,

    /// What must have a claim when it is answered: `redis`; `replica`, Redis and one of its replicas; `postgres`, after
    /// the commit. The server may ask for more by its own setting [default: that setting; postgres if Redis is not known to
    /// write each claim to disk]
    #[arg(long, value_name = "redis|replica|postgres")]
    durability: Option<ClaimDurability>,

    /// Spread the coupon over this number of partitions, for more claims a second than one Redis can take
    #[arg(long, value_name = "PARTITIONS", value_parser = |text: &str| parse_whole(text, 1..=PARTITIONS_MAX))]
    spread: Option<usize>,

    /// Let users wait when the coupon is sold out: units that come back go to the first in line
    #[arg(long)]
    waitlist: bool,

    /// Hide the coupon from the public list
    #[arg(long)]
    unlisted: bool,

    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
pub struct CouponArgs {
    coupon: CouponId,

    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
pub struct LogArgs {
    /// Without it: changes of all coupons, and repairs by `reconcile`
    coupon: Option<CouponId>,

    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("changes").required(true).multiple(true))]
pub struct EditArgs {
    coupon: CouponId,

    /// Displayed name
    #[arg(long, group = "changes", value_parser = parse_title)]
    title: Option<String>,

    /// Total number of units, at least as many as are held; a larger number restocks
    #[arg(long, group = "changes", value_name = "UNITS", value_parser = |text: &str| parse_whole(text, 1..=TOTAL_MAX_UNITS))]
    total: Option<i64>,

    /// Start of the sale; `none` starts it now
    #[arg(long, group = "changes", value_name = "TIME|none", value_parser = parse_time_or_none)]
    starts_at: Option<TimeOrNone>,

    /// End of the sale; `none` means no end
    #[arg(long, group = "changes", value_name = "TIME|none", value_parser = parse_time_or_none)]
    ends_at: Option<TimeOrNone>,

    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(command: CouponCommand) -> anyhow::Result<()> {
    match command {
        CouponCommand::Create(args) => create(args).await,
        CouponCommand::List(args) => list(&args).await,
        CouponCommand::Show(args) => show(&args).await,
        CouponCommand::Edit(args) => edit(args).await,
        CouponCommand::Pause(args) => set_paused(&args, true).await,
        CouponCommand::Resume(args) => set_paused(&args, false).await,
        CouponCommand::Waitlist(args) => waitlist::list(&args.coupon, &args.client).await,
        CouponCommand::Log(args) => coupon_log::of_coupon(args.coupon.as_ref(), &args.client).await,
    }
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    if let (Some(starts_at), Some(ends_at)) = (args.starts_at, args.ends_at)
        && ends_at <= starts_at
    {
        return Err(WrongUsage("--ends-at must be after --starts-at".to_owned()).into());
    }
    let mut body = Map::new();
    body.insert("id".into(), json!(args.coupon));
    body.insert("total".into(), json!(args.total));
    let fields = [
        ("title", args.title.map(Value::from)),
        ("starts_at", args.starts_at.map(rfc3339).transpose()?.map(Value::from)),
        ("ends_at", args.ends_at.map(rfc3339).transpose()?.map(Value::from)),
        ("per_user_limit", args.per_user_limit.map(Value::from)),
        ("reserve_seconds", args.reserve_for.map(Value::from)),
        ("durability", args.durability.map(|durability| Value::from(durability.as_str()))),
        ("spread", args.spread.map(Value::from)),
        ("waitlist", args.waitlist.then_some(Value::Bool(true))),
        ("unlisted", args.unlisted.then_some(Value::Bool(true))),
    ];
    body.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));

    let client = Client::new(&args.client)?;
    let answer = client.post(COUPONS, &Value::Object(body)).await?;
    let done =
        if answer.status == reqwest::StatusCode::OK { "existed already and is the same" } else { "created" };
    client.print(&answer, |coupon| sentence(coupon, done))
}

async fn list(args: &ClientArgs) -> anyhow::Result<()> {
    let client = Client::new(args)?;
    client.print_all(&client.get_all(COUPONS).await?, coupon_table)
}

fn coupon_table(coupons: &[Value]) -> String {
    if coupons.is_empty() {
        return "no coupons yet: create one with `seckill coupon create coffee --total 100`".to_owned();
    }
    if coupons.iter().any(is_in_another_partition) {
        return table(["COUPON", "PARTITION", "STATE", "STOCK", "WINDOW", "TITLE"], coupons, |coupon| {
            let [id, partition, state, title] =
                ["id", "partition", "state", "title"].map(|name| field(coupon, name));
            [id, partition, state, stock(coupon), window(coupon), title]
        });
    }
    table(["COUPON", "STATE", "STOCK", "WINDOW", "TITLE"], coupons, |coupon| {
        let [id, state, title] = ["id", "state", "title"].map(|name| field(coupon, name));
        [id, state, stock(coupon), window(coupon), title]
    })
}

/// Whether the coupon belongs to a partition that not every installation has.
fn is_in_another_partition(coupon: &Value) -> bool {
    coupon["partition"].as_i64().is_some_and(|partition| partition != 0)
}

async fn show(args: &CouponArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let answer = client.get(&path_of(&args.coupon), &[]).await?;
    client.print(&answer, all_fields)
}

async fn edit(args: EditArgs) -> anyhow::Result<()> {
    let time = |time: TimeOrNone| match time {
        TimeOrNone::None => Ok(Value::Null),
        TimeOrNone::At(time) => rfc3339(time).map(Value::from),
    };
    let fields = [
        ("title", args.title.map(Value::from)),
        ("total", args.total.map(Value::from)),
        ("starts_at", args.starts_at.map(time).transpose()?),
        ("ends_at", args.ends_at.map(time).transpose()?),
    ];
    let patch = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let client = Client::new(&args.client)?;
    let answer = client.patch(&path_of(&args.coupon), &Value::Object(patch)).await?;
    client.print(&answer, |coupon| sentence(coupon, "changed"))
}

async fn set_paused(args: &CouponArgs, paused: bool) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let answer = client.patch(&path_of(&args.coupon), &json!({ "paused": paused })).await?;
    client.print(&answer, |coupon| sentence(coupon, if paused { "paused" } else { "resumed" }))
}

fn path_of(coupon: &CouponId) -> String {
    format!("{COUPONS}/{coupon}")
}

fn sentence(coupon: &Value, done: &str) -> String {
    format!("{} {done}: {}, {} left", field(coupon, "id"), field(coupon, "state"), stock(coupon))
}

fn stock(coupon: &Value) -> String {
    format!("{}/{}", field(coupon, "stock"), field(coupon, "total"))
}

fn window(coupon: &Value) -> String {
    match (coupon["starts_at"].is_null(), coupon["ends_at"].is_null()) {
        (true, true) => "always".to_owned(),
        (false, true) => format!("from {}", field(coupon, "starts_at")),
        (true, false) => format!("until {}", field(coupon, "ends_at")),
        // On two lines of a terminal; a program reads a line for each coupon.
        (false, false) => {
            let blank = if printing::stdout_width_columns().is_some() { '\n' } else { ' ' };
            format!("{} to{blank}{}", field(coupon, "starts_at"), field(coupon, "ends_at"))
        }
    }
}

/// The most important fields first, then all other fields of the answer; the partition only if it is not the first one.
fn all_fields(coupon: &Value) -> String {
    let first = ["id", "title", "state", "stock", "total", "starts_at", "ends_at"];
    let others = coupon.as_object().into_iter().flat_map(Map::keys).map(String::as_str);
    let others = others.filter(|name| *name != "partition" || is_in_another_partition(coupon));
    let names = first.into_iter().chain(others.filter(|name| !first.contains(name)));
    columns(&names.map(|name| named_row(name, field(coupon, name))).collect::<Vec<_>>())
}
