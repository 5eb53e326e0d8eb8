//! Parses the output of pgbench 14 and later. A line that is missing, appears twice or belongs to another kind of run
//! is an error.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bench::to_f64;

/// Since this version a failed transaction does not always stop its client, and pgbench counts these transactions.
const COUNTS_FAILED: u32 = 15;
/// Since this version `tps` does not include the time for connecting.
const OLDEST: u32 = 14;

/// The result of a run that no client left early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Transactions that were committed.
    pub processed: u64,
    /// Transactions that failed by a deadlock or a serialization conflict.
    pub failed: u64,
    /// The time of these transactions, without connecting.
    pub elapsed: Duration,
}

/// Parses the output of a run with `clients` clients and prepared statements.
///
/// # Errors
/// When the output is incomplete, or is from another kind of run or an older pgbench.
pub fn parse(text: &str, clients: usize) -> Result<Summary> {
    let version = version(text)?;
    ensure!(version >= OLDEST, "pgbench {version} is too old: version {OLDEST} or newer is needed");
    let mode = line(text, "query mode: ")?;
    ensure!(mode == "prepared", "the query mode is {mode:?}");
    let ran: usize = number(line(text, "number of clients: ")?)?;
    ensure!(ran == clients, "{ran} clients ran instead of {clients}");

    let processed = line(text, "number of transactions actually processed: ")?;
    // `100/100` if the run had a fixed number of transactions.
    let processed = match processed.split_once('/') {
        Some((processed, planned)) => {
            let (processed, planned): (u64, u64) = (number(processed)?, number(planned)?);
            ensure!(processed <= planned, "{processed} of {planned} transactions were processed");
            processed
        }
        None => number(processed)?,
    };
    let failed = if version < COUNTS_FAILED { 0 } else { failed(text)? };
    let tps = line(text, "tps = ")?;
    let tps = tps.strip_suffix(" (without initial connection time)");
    let tps: f64 = number(tps.context("`tps` includes the time for connecting")?)?;
    ensure!(tps.is_finite() && tps >= 0.0, "{tps} transactions a second");
    ensure!((tps > 0.0) == (processed > 0), "{processed} transactions do not match {tps} a second");

    let seconds = if processed == 0 { 0.0 } else { to_f64(processed) / tps };
    let elapsed = Duration::try_from_secs_f64(seconds).context("the duration is out of range")?;
    Ok(Summary { processed, failed, elapsed })
}

/// `pgbench (15.13 (Debian 15.13-0+deb12u1))`, also `pgbench (17beta1)`.
fn version(text: &str) -> Result<u32> {
    let version = line(text, "pgbench (")?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    number(&version[..digits])
}

/// `3 (0.060%)`
fn failed(text: &str) -> Result<u64> {
    let value = line(text, "number of failed transactions: ")?;
    let (count, share) = value.split_once(' ').with_context(|| format!("{value:?} failed transactions"))?;
    ensure!(share.starts_with('(') && share.ends_with("%)"), "{value:?} failed transactions");
    number(count)
}

/// The text after this prefix, in the only line that has it.
fn line<'t>(text: &'t str, prefix: &str) -> Result<&'t str> {
    let mut found = text.lines().filter_map(|line| line.strip_prefix(prefix));
    match (found.next(), found.next()) {
        (Some(rest), None) => Ok(rest),
        (None, _) => Err(anyhow::anyhow!("pgbench printed no line `{prefix}…`")),
        (Some(_), Some(_)) => Err(anyhow::anyhow!("pgbench printed `{prefix}…` twice")),
    }
}

/// A number with digits and points only, without a sign or an exponent.
fn number<T: FromStr>(text: &str) -> Result<T> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let parsed = if is_plain { text.parse().ok() } else { None };
    parsed.with_context(|| format!("pgbench printed {text:?} instead of a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
pgbench (15.18 (Debian 15.18-0+deb12u1))
transaction type: one_statement.sql
scaling factor: 1
query mode: prepared
number of clients: 64
number of threads: 2
maximum number of tries: 1
duration: 3 s
number of transactions actually processed: 6000
number of failed transactions: 0 (0.000%)
latency average = 89.788 ms
initial connection time = 605.425 ms
tps = 2000.000000 (without initial connection time)
";

    fn with(old: &str, new: &str) -> String {
        assert!(PRINTED.contains(old), "{old}");
        PRINTED.replace(old, new)
    }

    #[test]
    fn a_run_is_its_transactions_and_their_time_without_connecting() {
        let summary = Summary { processed: 6_000, failed: 0, elapsed: Duration::from_secs(3) };
        assert_eq!(parse(PRINTED, 64).unwrap(), summary);
        assert_eq!(parse(&with("processed: 6000", "processed: 6000/6400"), 64).unwrap(), summary);
        let nothing = with("processed: 6000", "processed: 0").replace("2000.000000", "0.000000");
        assert_eq!(parse(&nothing, 64).unwrap().elapsed, Duration::ZERO);
    }

    #[test]
    fn failed_transactions_are_counted() {
        assert_eq!(
            parse(&with("failed transactions: 0 (0.000%)", "failed transactions: 7 (0.117%)"), 64)
                .unwrap()
                .failed,
            7
        );
        let of_14 = with("pgbench (15.18", "pgbench (14.9")
            .replace("number of failed transactions: 0 (0.000%)\n", "");
        assert_eq!(parse(&of_14, 64).unwrap().failed, 0, "in version 14 an error ends the run");
    }

    #[test]
    fn every_required_line_must_appear_exactly_once() {
        for line in PRINTED.lines() {
            let counts = [
                "pgbench (",
                "query mode",
                "number of clients",
                "number of trans",
                "number of failed",
                "tps",
            ]
            .iter()
            .any(|beginning| line.starts_with(beginning));
            let [without, twice] =
                [String::new(), format!("{line}\n{line}\n")].map(|new| with(&format!("{line}\n"), &new));
            assert_eq!(parse(&without, 64).is_err(), counts, "without {line}");
            assert_eq!(parse(&twice, 64).is_err(), counts, "twice {line}");
        }
        assert!(parse("", 64).is_err());
    }

    #[test]
    fn malformed_output_and_output_of_other_runs_are_refused() {
        for (old, new) in [
            ("prepared", "simple"),
            ("clients: 64", "clients: 32"),
            ("processed: 6000", "processed: 6000x"),
            ("processed: 6000", "processed: -6000"),
            ("processed: 6000", "processed: "),
            ("processed: 6000", "processed: 60.5"),
            ("processed: 6000", "processed: 6000/5999"),
            ("processed: 6000", "processed: 0"),
            ("0 (0.000%)", "(0.000%)"),
            ("0 (0.000%)", "0"),
            ("0 (0.000%)", "-1 (0.000%)"),
            ("2000.000000", "nan"),
            ("2000.000000", "-nan"),
            ("2000.000000", "inf"),
            ("2000.000000", "0.000000"),
            ("2000.000000", "2e3"),
            ("without initial connection time", "including connections establishing"),
            (" (without initial connection time)", ""),
            ("pgbench (15.18", "pgbench (13.2"),
            ("pgbench (15.18", "pgbench (unknown"),
        ] {
            assert!(parse(&with(old, new), 64).is_err(), "{new} for {old}");
        }
    }
}
