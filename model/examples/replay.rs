//! Replays a trace that a torture run has written: `cargo run -p model --example replay -- FILE`. Prints the number of
//! lines of each kind, or the first line that no rule allows, with exit status 1.

#![expect(clippy::print_stdout, reason = "its output is for the terminal")]

use std::collections::BTreeMap;
use std::process::ExitCode;

use model::trace::{Line, Replay};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let path =
        std::env::args().nth(1).ok_or("usage: replay FILE, for example target/torture/1-safe/trace.jsonl")?;
    let mut replay = Replay::default();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, text) in (1..).zip(std::fs::read_to_string(&path)?.lines()) {
        let line: Line = serde_json::from_str(text).map_err(|error| format!("line {number}: {error}"))?;
        match replay.take(&line) {
            Ok(name) => *names.entry(name).or_default() += 1,
            Err(why) => {
                println!("line {number}: no rule allows it: {why}\n{text}");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    for (name, count) in &names {
        println!("{count:>8}  {name}");
    }
    match replay.is_at_rest() {
        Ok(()) => println!("all lines are allowed, and the run is at rest at its end"),
        Err(why) => {
            println!("all lines are allowed, but the run is not at rest at its end: {why}");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
