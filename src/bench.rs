//! `seckill bench`: measures the program and alternative designs on this machine, in one run. The program under test
//! runs in a separate process, on stores that the bench starts; this process generates the load over loopback.

pub mod alternatives;
mod comparison;
mod connections;
mod disk;
mod durability;
mod fairness;
mod fixture;
mod load;
mod measurements;
mod memory;
pub mod noop_server;
mod parameters;
mod partitions;
mod preload;
mod rate;
mod redis_cpu;
mod report;
mod requests;
mod scale;
mod scenarios;
mod spread;
mod streams;
mod tcc;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config;
use crate::data_dir::DataDir;
use crate::stop::Stop;
use crate::tasks::Tasks;
pub use disk::fdatasync;
use fixture::Fixture;
use measurements::Measurements;
use parameters::Parameters;
pub use rate::{Rate, to_f64};
pub use redis_cpu::redis_cpu;
pub use report::{LeftOut, Report};
use requests::Users;
use scenarios::Bench;

/// More users than the program can serve in a second.
const USERS_PER_SECOND: u64 = 60_000;

const STOPPED: &str = "a signal stopped the bench";

pub struct Options {
    /// Folder of the stores. Created if it does not exist, and then removed at the end.
    pub data_dir: PathBuf,
    /// Runs one short round: its figures only show that the bench works.
    pub quick: bool,
    /// Names from [`SCENARIOS`]; empty for all.
    pub only: Vec<String>,
}

/// Why this machine cannot run a scenario. The other scenarios still run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotMeasurable(String);

/// The scenario that runs in the first round only, because its set-up takes a minute.
const FIRST_ROUND_ONLY: &str = "loaded";

macro_rules! scenarios {
    ($($name:literal => $scenario:ident),+ $(,)?) => {
        /// All scenarios, in the order in which they run.
        pub const SCENARIOS: [&str; [$($name),+].len()] = [$($name),+];

        async fn run_one(bench: &Bench<'_>, name: &str, results: &mut Measurements) -> anyhow::Result<()> {
            match name {
                $($name => Box::pin(bench.$scenario(results)).await,)+
                _ => bail!("there is no scenario {name}"),
            }
        }
    };
}

scenarios! {
    "noop" => noop,
    "claim" => claim,
    "sold-out" => sold_out,
    "repeat" => repeat,
    "mixed" => mixed,
    "fairness" => fairness,
    "pipelining" => pipelining,
    "end-to-end" => end_to_end,
    "few-connections" => few_connections,
    "window" => window,
    "durability" => durability,
    "sustained" => sustained,
    "workers" => workers,
    "coupons" => coupons,
    "connections" => connections,
    "streams" => streams,
    "partitions" => partitions,
    "spread" => spread,
    "memory" => memory,
    "tcc" => tcc,
    "loaded" => loaded,
    "drain" => drain,
    "bare-insert" => bare_insert,
    "per-request" => per_request,
    "client-check" => client_check,
    "optimistic-lock" => optimistic_lock,
    "lua-then-lock" => lua_then_lock,
    "row-per-unit" => row_per_unit,
    "two-phase" => two_phase,
    "textbook-tcc" => textbook_tcc,
}

/// Runs the scenarios. `mint` signs a token, given the secret and the user.
///
/// # Errors
/// When a scenario fails, none can run on this machine, or a signal stops the bench.
pub async fn run(
    options: &Options,
    mint: impl Fn(&str, &str) -> anyhow::Result<String>,
) -> anyhow::Result<Report> {
    let started = Instant::now();
    let parameters = if options.quick { Parameters::quick() } else { Parameters::full() };
    let progress = ProgressBar::new_spinner();
    progress.set_style(ProgressStyle::with_template("{elapsed_precise} {spinner} {msg}")?);
    progress.enable_steady_tick(Duration::from_millis(200));
    progress.set_message("starting the stores");
    connections::allow_files_for(parameters.connections.max(fairness::USERS))?;
    let existed = options.data_dir.exists();
    let measured = measure_with_fixture(options, parameters, &progress, mint).await;
    progress.finish_and_clear();
    if !existed {
        std::fs::remove_dir_all(&options.data_dir)?;
    }
    let (mut rounds, left_out) = measured?;
    if let ([], Some(first)) = (&*report::figures(&rounds), left_out.first()) {
        bail!("scenario {} cannot be measured here: {}", first.scenario, first.why);
    }
    if let Some(last) = rounds.last_mut() {
        last.add("run", "took", started.elapsed().as_secs_f64(), "s");
    }
    Ok(Report {
        seckill: env!("CARGO_PKG_VERSION"),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        quick: options.quick,
        figures: report::figures(&rounds),
        left_out,
    })
}

/// Starts the stores, runs the scenarios, and stops the stores, also after a failure or a signal.
async fn measure_with_fixture(
    options: &Options,
    parameters: Parameters,
    progress: &ProgressBar,
    mint: impl Fn(&str, &str) -> anyhow::Result<String>,
) -> anyhow::Result<(Vec<Measurements>, Vec<LeftOut>)> {
    let tasks = Tasks::default();
    let stop = Stop::on_signals(&tasks)?;
    let fixture = Fixture::start(&DataDir::open(Some(&options.data_dir))?, stop.token(), &tasks).await?;
    let work = async {
        let count = usize::try_from(USERS_PER_SECOND * parameters.duration.as_secs())?;
        progress.set_message("signing tokens");
        let users = Users::new(count, |user| {
            ensure!(!stop.token().is_cancelled(), STOPPED);
            mint(&fixture.jwt_secret, user)
        })?;
        let users = Arc::new(users);
        let bench = Bench { fixture: &fixture, users: &users, data_dir: &options.data_dir, parameters };
        measure(&bench, &options.only, progress).await
    };
    // When a signal drops this future, the servers that it started are killed.
    let measured = stop.unless_stopped(work).await.unwrap_or_else(|| Err(anyhow!(STOPPED)));
    let stopped = fixture.stop_by(stop.deadline(config::STOP_STORES_BY)).await;
    tasks.check()?;
    let measured = measured?;
    stopped?;
    Ok(measured)
}

/// Runs all scenarios once in each round, so that a machine that gets slower affects both sides of a ratio.
async fn measure(
    bench: &Bench<'_>,
    only: &[String],
    progress: &ProgressBar,
) -> anyhow::Result<(Vec<Measurements>, Vec<LeftOut>)> {
    let (mut rounds, mut left_out) = (Vec::new(), Vec::<LeftOut>::new());
    for number in 1..=bench.parameters.rounds {
        let mut results = Measurements::default();
        for name in SCENARIOS {
            let is_wanted = only.is_empty() || only.iter().any(|one| one == name);
            let is_left_out = left_out.iter().any(|out| out.scenario == name);
            if !is_wanted || is_left_out || number > 1 && name == FIRST_ROUND_ONLY {
                continue;
            }
            progress.set_message(format!("round {number} of {}: {name}", bench.parameters.rounds));
            let began = Instant::now();
            match run_one(bench, name, &mut results).await {
                Ok(()) => tracing::debug!("{name} took {:?}", began.elapsed()),
                Err(error) if error.is::<NotMeasurable>() => {
                    left_out.push(LeftOut { scenario: name, why: error.to_string() });
                }
                Err(error) => return Err(error.context(format!("scenario {name}"))),
            }
        }
        rounds.push(results);
    }
    Ok((rounds, left_out))
}
