//! `seckill dead …`: lists, shows, replays and discards dead letters, the order events that could not be recorded.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs};
use super::output::{columns, field, named_row, table};

#[derive(Subcommand)]
pub enum DeadCommand {
    /// List all dead letters, newest first
    List(ClientArgs),
    /// Show one dead letter with its fields
    Show(LetterArgs),
    /// Claim again for the letter's user, after the cause is fixed
    Replay(LetterArgs),
    /// Mark a letter as seen, without a new claim
    Discard(LetterArgs),
}

#[derive(Args)]
pub struct LetterArgs {
    /// Number of the letter, as `dead list` shows it
    id: u64,

    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(command: DeadCommand) -> anyhow::Result<()> {
    match command {
        DeadCommand::List(args) => {
            let client = Client::new(&args)?;
            client.print_all(&client.get_all("/v1/admin/dead").await?, letter_table)
        }
        DeadCommand::Show(args) => {
            let client = Client::new(&args.client)?;
            let answer = client.get(&format!("/v1/admin/dead/{}", args.id), &[]).await?;
            client.print(&answer, all_fields)
        }
        DeadCommand::Replay(args) => {
            let client = Client::new(&args.client)?;
            let answer = client.post(&format!("/v1/admin/dead/{}/replay", args.id), &json!({})).await?;
            client.print(&answer, |order| {
                let [id, user, coupon] = ["order", "user", "coupon"].map(|name| field(order, name));
                format!("{user} has a unit of {coupon} again: order {id}")
            })
        }
        DeadCommand::Discard(args) => {
            let client = Client::new(&args.client)?;
            let answer = client.post(&format!("/v1/admin/dead/{}/discard", args.id), &json!({})).await?;
            client.print(&answer, |letter| format!("dead letter {} is marked as seen", field(letter, "id")))
        }
    }
}

fn letter_table(letters: &[Value]) -> String {
    if letters.is_empty() {
        return "no dead letters".to_owned();
    }
    table(["ID", "DIED", "SEEN", "ORDER", "REPLACED BY", "ERROR"], letters, |letter| {
        ["id", "died_at", "seen_at", "order", "replaced_by", "error"].map(|name| field(letter, name))
    })
}

fn all_fields(letter: &Value) -> String {
    let known = ["id", "entry", "order", "error", "deliveries", "died_at", "seen_at", "replaced_by"];
    let mut rows: Vec<_> = known.iter().map(|name| named_row(name, field(letter, name))).collect();
    for pair in letter["fields"].as_array().into_iter().flatten() {
        rows.push(named_row(&format!("field {}", field(pair, "name")), field(pair, "value")));
    }
    columns(&rows)
}
