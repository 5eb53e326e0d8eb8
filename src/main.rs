//! Reads the command line, sets up logging, runs one command, and ends with its exit status.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::anyhow;
use seckill::cli::{self, Cli, Command, OneShot, WrongUsage};
use seckill::config::{LogFormat, LogSettings};
use seckill::{app, environment};
use tracing_subscriber::EnvFilter;

/// Holds less memory than the system's allocator after a burst of connections.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match run(cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::report(&error),
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    // psql and redis-cli are a person's own tools: each takes out only what would lead it elsewhere.
    if !matches!(cli.command, Command::OneShot(OneShot::Psql(_) | OneShot::RedisCli(_))) {
        environment::settle()?;
    }
    log_to_stderr(&cli.logs)?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider is installed"))?;
    match cli.command {
        Command::Serve(args) => Box::pin(app::serve(args, cli.logs.log_format)).await,
        Command::Worker(args) => app::worker(args).await,
        Command::Demo(args) => Box::pin(app::demo(args, cli.logs.log_format)).await,
        Command::OneShot(command) => cli::run(command).await,
    }
}

fn log_to_stderr(settings: &LogSettings) -> anyhow::Result<()> {
    // What sqlx calls information and fred a warning are our reconnects; whoever wants it says so in the filter.
    let filter = EnvFilter::try_new(format!("sqlx=warn,fred=error,{}", settings.log))
        .map_err(|error| WrongUsage(format!("SECKILL_LOG is no tracing filter: {error}")))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    Ok(())
}
