//! `seckill doctor`: prints the findings as a table or as JSON. It needs the stores, but no server.

use anyhow::bail;
use clap::Args;

use super::output::{Colour, columns, print_line, single_line};
use super::store_tools;
use crate::config::{DoctorSettings, StoreSettings};
use crate::doctor::{self, Finding, Level, Limits};
use crate::domain::Partition;
use crate::postgres::Postgres;
use crate::printing;
use crate::redis::RedisServer;

#[derive(Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    stores: StoreSettings,

    #[command(flatten)]
    limits: DoctorSettings,

    /// Print the findings as a JSON array
    #[arg(long)]
    json: bool,
}

/// # Errors
/// When the stores' addresses are not known, or a finding is red.
pub async fn run(args: DoctorArgs) -> anyhow::Result<()> {
    let addresses = store_tools::addresses(&args.stores)?;
    let server = RedisServer::new(&addresses, &args.stores.redis_prefix, Partition::DEFAULT)?;
    let StoreSettings { db_schema, postgres_connections, .. } = &args.stores;
    let postgres = Postgres::with_connections(&addresses.database_url, db_schema, *postgres_connections)?;
    let DoctorSettings { reclaim_after, max_backlog, answers } = args.limits;
    let answer_after = answers.answer_after.into();
    let findings =
        doctor::examine(&server, &postgres, &Limits { reclaim_after, max_backlog, answer_after }).await;
    postgres.close().await;
    if args.json {
        print_line(&serde_json::to_string_pretty(&findings)?)?;
    } else {
        print_line(&table(&findings, printing::stdout_takes_colours()))?;
    }
    let red = findings.iter().filter(|finding| finding.level == Level::Red).count();
    if red > 0 {
        bail!("{red} of {} checks are red", findings.len());
    }
    Ok(())
}

fn table(findings: &[Finding], in_colour: bool) -> String {
    let rows: Vec<Vec<String>> = findings.iter().map(|finding| row(finding, in_colour)).collect();
    columns(&rows)
}

fn row(finding: &Finding, in_colour: bool) -> Vec<String> {
    let (word, colour) = match finding.level {
        Level::Green => ("green", Colour::Green),
        Level::Yellow => ("yellow", Colour::Yellow),
        Level::Red => ("red", Colour::Red),
    };
    let level = colour.paint(word, in_colour);
    let what = single_line(&finding.what);
    let what = match finding.partition {
        Some(partition) => format!("partition {partition}: {what}"),
        None => what,
    };
    let text = match &finding.what_to_do {
        Some(what_to_do) => format!("{what} → {}", single_line(what_to_do)),
        None => what,
    };
    vec![level, finding.check.to_owned(), text]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> [Finding; 2] {
        let finding = |check, level, what: &str, what_to_do: Option<&str>| Finding {
            check,
            level,
            partition: None,
            what: what.to_owned(),
            what_to_do: what_to_do.map(str::to_owned),
        };
        [
            finding("redis-role", Level::Green, "master", None),
            finding("workers", Level::Yellow, "no worker\nreads", Some("start one")),
        ]
    }

    #[test]
    fn each_finding_is_one_aligned_line_with_what_to_do() {
        assert_eq!(
            table(&findings(), false),
            "green   redis-role  master\nyellow  workers     no worker reads → start one"
        );
    }

    #[test]
    fn a_finding_of_one_of_several_partitions_names_it() {
        let [_, mut workers] = findings();
        workers.partition = Some(3);
        assert_eq!(table(&[workers], false), "yellow  workers  partition 3: no worker reads → start one");
    }

    #[test]
    fn colours_are_for_terminals_and_do_not_move_the_columns() {
        let coloured = table(&findings(), true);
        assert!(coloured.starts_with("\u{1b}[32mgreen\u{1b}[0m   redis-role  master\n"), "{coloured:?}");
        let plain: String = ["\u{1b}[32m", "\u{1b}[33m", "\u{1b}[0m"]
            .iter()
            .fold(coloured, |text, escape| text.replace(escape, ""));
        assert_eq!(plain, table(&findings(), false));
    }
}
