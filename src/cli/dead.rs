//! `seckill dead …`: order events that could not be recorded, and what to do with one.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs};
use super::output::{columns, field};

#[derive(Subcommand)]
pub enum DeadCommand {
    /// All dead letters, newest first
    List(ClientArgs),
    /// One dead letter with its fields
    Show(LetterArgs),
    /// Claim anew for the letter's user, once the cause is mended
    Replay(LetterArgs),
    /// Mark a letter as dealt with
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
            client.print_all(&client.get_all("/v1/admin/dead").await?, table)
        }
        DeadCommand::Show(args) => {
            let client = Client::new(&args.client)?;
            let answer = client.get(&format!("/v1/admin/dead/{}", args.id), &[]).await?;
            client.print(&answer, letter)
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

fn table(letters: &[Value]) -> String {
    if letters.is_empty() {
        return "no dead letters".to_owned();
    }
    let heading = ["ID", "DIED", "SEEN", "ORDER", "REPLACED BY", "ERROR"].map(str::to_owned).to_vec();
    let rows = letters.iter().map(|letter| {
        ["id", "died_at", "seen_at", "order", "replaced_by", "error"].map(|name| field(letter, name)).to_vec()
    });
    columns(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
}

fn letter(letter: &Value) -> String {
    let row = |name: &str, text: String| vec![name.to_owned(), text];
    let known = ["id", "entry", "order", "error", "deliveries", "died_at", "seen_at", "replaced_by"];
    let mut rows: Vec<_> = known.iter().map(|name| row(name, field(letter, name))).collect();
    for pair in letter["fields"].as_array().into_iter().flatten() {
        rows.push(row(&format!("field {}", field(pair, "name")), field(pair, "value")));
    }
    columns(&rows)
}
