//! Replays a trace that a torture run has kept: `cargo run -p model --example replay -- FILE`. Says how many
//! lines of each kind it holds, and which is the first that no rule allows; exit status 1 then.

#![expect(clippy::print_stdout, reason = "a person runs it, and reads what it prints")]

use std::collections::BTreeMap;
use std::process::ExitCode;

use model::trace::{Line, Replay};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("which trace? give its file, such as target/torture/1-safe/trace.jsonl")?;
    let mut replay = Replay::default();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, text) in (1..).zip(std::fs::read_to_string(&path)?.lines()) {
        let line: Line = serde_json::from_str(text).map_err(|error| format!("line {number}: {error}"))?;
        match replay.take(&line) {
            Ok(name) => *names.entry(name).or_default() += 1,
            Err(why) => {
                println!("line {number}, no rule allows it: {why}\n{text}");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    for (name, count) in &names {
        println!("{count:>8}  {name}");
    }
    match replay.is_at_rest() {
        Ok(()) => println!("all allowed, and at rest at the end"),
        Err(why) => {
            println!("all allowed, but not at rest at the end: {why}");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
