//! `seckill bench`: runs the scenarios, prints a table, and writes JSON to a file.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::output::print_line;
use super::token::mint_token;
use crate::bench::{self, Options};
use crate::config::{self, CredentialSettings};

#[derive(Args)]
pub struct BenchArgs {
    /// Run only these scenarios; ratios to scenarios that did not run are left out
    #[arg(value_name = "SCENARIO", value_parser = bench::SCENARIOS)]
    only: Vec<String>,

    /// Run one short round instead of three: a test of the bench, not a measurement
    #[arg(long)]
    quick: bool,

    /// Also write every figure to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Folder for the bench's own stores [default: a new folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let new_folder = || std::env::temp_dir().join(format!("seckill-bench-{}", std::process::id()));
    let options =
        Options { data_dir: args.data_dir.unwrap_or_else(new_folder), quick: args.quick, only: args.only };
    let settings =
        CredentialSettings { admin_token: None, jwt_secret: None, jwt_audience: None, jwt_issuer: None };
    let mint = |secret: &str, user: &str| {
        mint_token(secret.as_bytes(), &user.parse()?, config::BENCH_TOKEN_LIFETIME, &settings)
    };
    let report = bench::run(&options, mint).await?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    print_line(&report.table())
}
