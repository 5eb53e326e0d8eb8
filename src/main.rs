//! Reads the command line, sets up logging, runs one command, and exits with the command's status.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use seckill::cli::{self, Cli, Command, OneShot, WrongUsage};
use seckill::{app, environment, logs};
use tokio::runtime::Runtime;

/// Returns more memory to the system after a burst of connections than the system's allocator does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let runtime = match Runtime::new().context("cannot start the threads of the program") {
        Ok(runtime) => runtime,
        Err(error) => return cli::report(&error),
    };
    let status = runtime.block_on(main_task());
    // Without waiting for a thread that is stuck, for example in a lookup of a name: all work has ended.
    runtime.shutdown_background();
    status
}

async fn main_task() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    match start_logs(&cli) {
        Ok(_logs) => match run(cli).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => cli::report(&error),
        },
        Err(error) => cli::report(&error),
    }
}

fn start_logs(cli: &Cli) -> anyhow::Result<logs::Logs> {
    let filter = logs::filter(&cli.logs.log).map_err(WrongUsage)?;
    logs::start(filter, cli.logs.log_format)
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    // psql and redis-cli are the operator's own tools: these commands remove fewer variables themselves.
    if !matches!(cli.command, Command::OneShot(OneShot::Psql(_) | OneShot::RedisCli(_))) {
        environment::restart_without_foreign_variables()?;
    }
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider is installed"))?;
    match cli.command {
        Command::Serve(args) => Box::pin(app::serve(args, cli.logs.log_format)).await,
        Command::Worker(args) => Box::pin(app::worker(args, cli.logs.log_format)).await,
        Command::Demo(args) => Box::pin(app::demo(args, cli.logs.log_format)).await,
        Command::OneShot(command) => cli::run(command).await,
    }
}
