//! `seckill bench`: a table, and JSON beside it.

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
    /// Only these scenarios; a ratio is left out where its other side was not measured
    #[arg(value_name = "SCENARIO", value_parser = bench::SCENARIOS)]
    only: Vec<String>,

    /// One short round instead of three: whether all of it works, rather than how fast
    #[arg(long)]
    quick: bool,

    /// Also write every figure to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Where the bench's own stores live [default: a new folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let own = || std::env::temp_dir().join(format!("seckill-bench-{}", std::process::id()));
    let options = Options { data_dir: args.data_dir.unwrap_or_else(own), quick: args.quick, only: args.only };
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
