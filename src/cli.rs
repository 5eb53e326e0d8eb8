//! The command line: every command with its settings, the exit status, and an error as one line. `app` runs `serve`,
//! `worker` and `demo`; the files below run all other commands.

use std::collections::HashSet;
use std::env;
use std::iter;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{
    CredentialSettings, HttpSettings, LogSettings, MonitoringSettings, StoreSettings, WorkerSettings,
};
use crate::printing::{self, OutputError, stderr};

mod audit;
mod audit_aof;
mod bench;
pub mod claim;
mod client;
mod coupon;
mod coupon_log;
mod dead;
pub mod demo;
mod doctor;
mod examples;
mod generate;
mod healthcheck;
mod order;
mod output;
mod psql;
mod reconcile;
mod redis_cli;
mod store_tools;
mod stream;
mod stream_partition;
mod stream_tail;
pub mod token;
mod value_parsers;
mod waitlist;

/// Flash-sale coupon grabbing on Redis Streams and Postgres.
#[derive(Parser)]
#[command(name = "seckill", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    #[command(flatten)]
    pub logs: LogSettings,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run HTTP and workers in one process
    Serve(ServeArgs),
    /// Run workers only
    Worker(WorkerArgs),
    /// Run `serve` with sample coupons, and print a token to try them
    Demo(ServeArgs),
    #[command(flatten)]
    OneShot(OneShot),
}

/// Commands that end by themselves.
#[derive(Subcommand)]
pub enum OneShot {
    /// Create, list, show, edit, pause and resume coupons, and show who changed them
    #[command(subcommand)]
    Coupon(coupon::CouponCommand),
    /// Claim a unit for a user
    Claim(claim::ClaimArgs),
    /// List, show, confirm, cancel and revoke orders
    #[command(subcommand)]
    Order(order::OrderCommand),
    /// Join and leave the waiting list of a sold-out coupon for a user, show a place, list the users in line
    #[command(subcommand)]
    Waitlist(waitlist::WaitlistCommand),
    /// Print a bearer token for a user
    Token(token::TokenArgs),
    /// Show the stream of order events
    #[command(subcommand)]
    Stream(stream::StreamCommand),
    /// List, show, replay and discard order events that could not be recorded
    #[command(subcommand)]
    Dead(dead::DeadCommand),
    /// Compare Redis with Postgres; repair differences with `--fix` or `--rebuild`
    Reconcile(reconcile::ReconcileArgs),
    /// Print where each unit of a coupon is, by both stores; exit status 1 if it does not add up
    Audit(audit::AuditArgs),
    /// Check both stores for wrong settings and problems; exit status 1 if a check is red
    Doctor(doctor::DoctorArgs),
    /// Measure this program and alternative designs on this machine, with temporary stores
    Bench(bench::BenchArgs),
    /// Serve fixed answers, as a baseline for `bench`
    #[command(hide = true)]
    BenchNoop,
    /// Run redis-cli against the Redis in use
    #[command(disable_help_flag = true)]
    RedisCli(store_tools::ToolArgs),
    /// Run psql against the Postgres in use
    #[command(disable_help_flag = true)]
    Psql(store_tools::ToolArgs),
    /// Print a script that completes commands in your shell
    Completions(generate::CompletionsArgs),
    /// Print the manual page, or write the pages of all commands
    Man(generate::ManArgs),
    /// Ask the server on this machine whether it accepts claims
    #[command(hide = true)]
    Healthcheck(HttpSettings),
}

/// Settings of `serve` and `demo`.
#[derive(Args, Clone)]
pub struct ServeArgs {
    #[command(flatten)]
    pub stores: StoreSettings,
    #[command(flatten)]
    pub credentials: CredentialSettings,
    #[command(flatten)]
    pub workers: WorkerSettings,
    #[command(flatten)]
    pub http: HttpSettings,

    /// Take over the socket and the stores of the server that runs on this address: its clients notice nothing
    #[arg(long)]
    pub replace: bool,
}

/// Settings of `worker`.
#[derive(Args, Clone)]
pub struct WorkerArgs {
    #[command(flatten)]
    pub stores: StoreSettings,
    #[command(flatten)]
    pub workers: WorkerSettings,
    #[command(flatten)]
    pub monitoring: MonitoringSettings,
}

/// A usage error: the process ends with status 2, as for clap's own errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongUsage(pub String);

/// The status that a shell reports for a process that SIGPIPE (13) ended: the output had no reader.
const STATUS_READER_GONE: u8 = 128 + 13;

/// Part of the help.
const EXIT_STATUS: &str = "Exit status:
  0    done
  1    refused or failed; stderr has one line that says why
  2    wrong usage: an argument or a setting
  141  the output had no reader any more, as after SIGPIPE";

/// Parses the process's arguments and environment.
///
/// # Errors
/// The exit status, if the arguments are wrong or request help; clap's message is then printed already.
pub fn parse() -> Result<Cli, ExitCode> {
    let command = command();
    let parsed = command.clone().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| print_clap_message(&name_the_variable(error, &command)))
}

/// Prints clap's message: help and version to stdout, errors to stderr.
fn print_clap_message(error: &clap::Error) -> ExitCode {
    let text = |in_colour| {
        let text = error.render();
        if in_colour { text.ansi().to_string() } else { text.to_string() }
    };
    if error.use_stderr() {
        stderr::line(text(stderr::takes_colours()).trim_end_matches('\n'));
        return ExitCode::from(2);
    }
    match printing::to_stdout(&text(printing::stdout_takes_colours())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error.into()),
    }
}

/// Runs a command that ends by itself.
///
/// # Errors
/// When the command fails. [`report`] prints the error.
pub async fn run(command: OneShot) -> anyhow::Result<()> {
    match command {
        OneShot::Coupon(command) => coupon::run(command).await,
        OneShot::Claim(args) => claim::run(args).await,
        OneShot::Order(command) => order::run(command).await,
        OneShot::Waitlist(command) => waitlist::run(command).await,
        OneShot::Token(args) => token::run(&args),
        OneShot::Stream(command) => stream::run(command).await,
        OneShot::Dead(command) => dead::run(command).await,
        OneShot::Reconcile(args) => reconcile::run(args).await,
        OneShot::Audit(args) => Box::pin(audit::run(args)).await,
        OneShot::Doctor(args) => Box::pin(doctor::run(args)).await,
        OneShot::Bench(args) => Box::pin(bench::run(args)).await,
        OneShot::BenchNoop => crate::bench::noop_server::run().await,
        OneShot::RedisCli(args) => redis_cli::run(args).await,
        OneShot::Psql(args) => psql::run(args).await,
        OneShot::Completions(args) => generate::completions(&args),
        OneShot::Man(args) => generate::man(&args),
        OneShot::Healthcheck(http) => healthcheck::run(&http).await,
    }
}

/// Prints an error as exactly one line, and returns the exit status of the process.
#[must_use]
pub fn report(error: &anyhow::Error) -> ExitCode {
    if matches!(error.downcast_ref(), Some(OutputError::ReaderGone)) {
        return ExitCode::from(STATUS_READER_GONE);
    }
    stderr::line(&format!("seckill: {}", output::single_line(&format!("{error:#}"))));
    ExitCode::from(if error.is::<WrongUsage>() { 2 } else { 1 })
}

/// Adds the environment variable to clap's error, which names the flag only, and removes a wrong value that is a secret.
fn name_the_variable(mut error: clap::Error, command: &clap::Command) -> clap::Error {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let Some(argument) = context(ContextKind::InvalidArg) else { return error };
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    let is_source = |setting: &&clap::Arg| {
        let flag = setting.get_long().map(|flag| format!("--{flag}"));
        flag.as_deref() == argument.split(' ').next()
            && setting.get_env().and_then(env::var_os).is_some_and(|text| text.to_string_lossy() == value)
    };
    let is_secret = |setting: &&clap::Arg| {
        setting.is_hide_env_values_set()
            && setting.get_long().is_some_and(|flag| argument.split(' ').next() == Some(&format!("--{flag}")))
    };
    if !value.is_empty() && settings(command).into_iter().any(|setting| is_secret(&setting)) {
        error.insert(ContextKind::InvalidValue, ContextValue::String("(not shown)".to_owned()));
    }
    if let Some(variable) = settings(command).into_iter().find(is_source).and_then(clap::Arg::get_env) {
        let variable = variable.display();
        let tip = if value.is_empty() {
            format!("{variable} is set but empty: give it a value, or unset it")
        } else {
            format!("the value comes from the environment variable {variable}")
        };
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The parser. Its `--help` lists the settings of all commands.
fn command() -> clap::Command {
    let command = examples::add(Cli::command());
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let settings = settings_help(&command);
    command.after_long_help(format!("{settings}\n\n{EXIT_STATUS}\n\n{examples}"))
}

fn settings_help(command: &clap::Command) -> String {
    let heading = "Settings (each a flag or an environment variable; the flag wins):".to_owned();
    let settings = settings(command).into_iter().map(setting_help);
    iter::once(heading).chain(settings).collect::<Vec<_>>().join("\n")
}

/// All arguments that have an environment variable, without duplicates.
fn settings(command: &clap::Command) -> Vec<&clap::Arg> {
    let settings_of = |name| command.find_subcommand(name).into_iter().flat_map(clap::Command::get_arguments);
    let all = settings_of("serve")
        .chain(settings_of("worker"))
        .chain(settings_of("claim"))
        .chain(command.get_arguments());
    let mut listed = HashSet::new();
    all.filter(|setting| setting.get_env().is_some_and(|variable| listed.insert(variable))).collect()
}

fn setting_help(setting: &clap::Arg) -> String {
    let variable = setting.get_env().unwrap_or_default().display();
    let flag = setting.get_long().unwrap_or_default();
    let help = setting.get_help().map(ToString::to_string).unwrap_or_default();
    let default = setting.get_default_values().first();
    let default = default.map(|value| format!(" [default: {}]", value.display())).unwrap_or_default();
    format!("  {variable}, --{flag}\n          {help}{default}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_definition_of_the_commands_is_sound() {
        super::command().debug_assert();
    }
}
