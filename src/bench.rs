//! `seckill bench`: what this machine makes of the program, and of what people do instead, in one run. The
//! program under test is the real one in a process of its own, on stores of the bench's own; the load comes from
//! this process, over loopback.

pub mod alternatives;
mod comparison;
mod connections;
mod disk;
mod fairness;
mod fill;
mod load;
mod memory;
pub mod noop_server;
mod plan;
mod rate;
mod redis_cpu;
mod report;
mod requests;
mod round;
mod scale;
mod scenarios;
mod stage;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config;
use crate::data_dir::DataDir;
use crate::stop::Stop;
use crate::tasks::Tasks;
pub use disk::fdatasync;
use plan::Plan;
pub use rate::Rate;
pub use redis_cpu::redis_cpu;
pub use report::{LeftOut, Report};
use requests::Users;
use round::Round;
use scenarios::Bench;
use stage::Stage;

/// More than a run of any length here can use up.
const USERS_PER_SECOND: u64 = 60_000;

const STOPPED: &str = "a signal stopped the bench";

pub struct Options {
    /// Where the stores live; made, and removed at the end where it was not there before.
    pub data_dir: PathBuf,
    pub quick: bool,
    /// Of `SCENARIOS`; all where there is none.
    pub only: Vec<String>,
}

/// Why a scenario cannot be measured on this machine, though the others can.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Lacking(String);

/// Its set-up takes a minute in a full run.
const ONCE: &str = "loaded";

macro_rules! scenarios {
    ($($name:literal => $scenario:ident),+ $(,)?) => {
        /// All scenarios, in the order in which they run.
        pub const SCENARIOS: [&str; [$($name),+].len()] = [$($name),+];

        async fn run_one(bench: &Bench<'_>, name: &str, round: &mut Round) -> anyhow::Result<()> {
            match name {
                $($name => Box::pin(bench.$scenario(round)).await,)+
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
    "sustained" => sustained,
    "workers" => workers,
    "coupons" => coupons,
    "connections" => connections,
    "memory" => memory,
    "loaded" => loaded,
    "drain" => drain,
    "bare-insert" => bare_insert,
    "per-request" => per_request,
    "client-check" => client_check,
    "optimistic-lock" => optimistic_lock,
    "lua-then-lock" => lua_then_lock,
    "row-per-unit" => row_per_unit,
    "two-phase" => two_phase,
}

/// Measures everything; `mint` signs a token for a user with the secret given.
pub async fn run(
    options: &Options,
    mint: impl Fn(&str, &str) -> anyhow::Result<String>,
) -> anyhow::Result<Report> {
    let started = Instant::now();
    let plan = if options.quick { Plan::quick() } else { Plan::full() };
    let progress = ProgressBar::new_spinner();
    progress.set_style(ProgressStyle::with_template("{elapsed_precise} {spinner} {msg}")?);
    progress.enable_steady_tick(Duration::from_millis(200));
    progress.set_message("starting the stores");
    connections::allow_files_for(plan.connections.max(fairness::USERS))?;
    let was_there = options.data_dir.exists();
    let measured = on_stage(options, plan, &progress, mint).await;
    progress.finish_and_clear();
    if !was_there {
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

/// Starts the stores, measures, and stops them, also after a failure or a signal.
async fn on_stage(
    options: &Options,
    plan: Plan,
    progress: &ProgressBar,
    mint: impl Fn(&str, &str) -> anyhow::Result<String>,
) -> anyhow::Result<(Vec<Round>, Vec<LeftOut>)> {
    let tasks = Tasks::default();
    let stop = Stop::on_signals(&tasks)?;
    let stage = Stage::set(&DataDir::open(Some(&options.data_dir))?, stop.token(), &tasks).await?;
    let work = async {
        let count = usize::try_from(USERS_PER_SECOND * plan.lasts.as_secs())?;
        progress.set_message("signing tokens");
        let users = Users::new(count, |user| {
            ensure!(!stop.token().is_cancelled(), STOPPED);
            mint(&stage.jwt_secret, user)
        })?;
        let bench = Bench { stage: &stage, users: &users, data_dir: &options.data_dir, plan };
        measure(&bench, &options.only, progress).await
    };
    // Dropped half-way, it kills the servers that it started.
    let measured = stop.unless_stopped(work).await.unwrap_or_else(|| Err(anyhow!(STOPPED)));
    let stopped = stage.stop_by(stop.deadline(config::STOP_STORES_BY)).await;
    tasks.check()?;
    let measured = measured?;
    stopped?;
    Ok(measured)
}

/// Whole rounds, one after the other: a machine that grows slower does so for both sides of a ratio.
async fn measure(
    bench: &Bench<'_>,
    only: &[String],
    progress: &ProgressBar,
) -> anyhow::Result<(Vec<Round>, Vec<LeftOut>)> {
    let (mut rounds, mut left_out) = (Vec::new(), Vec::<LeftOut>::new());
    for number in 1..=bench.plan.rounds {
        let mut round = Round::default();
        for name in SCENARIOS {
            let is_wanted = only.is_empty() || only.iter().any(|one| one == name);
            let is_left_out = left_out.iter().any(|out| out.scenario == name);
            if !is_wanted || is_left_out || number > 1 && name == ONCE {
                continue;
            }
            progress.set_message(format!("round {number} of {}: {name}", bench.plan.rounds));
            let began = Instant::now();
            match run_one(bench, name, &mut round).await {
                Ok(()) => tracing::debug!("{name} took {:?}", began.elapsed()),
                Err(error) if error.is::<Lacking>() => {
                    left_out.push(LeftOut { scenario: name, why: error.to_string() });
                }
                Err(error) => return Err(error.context(format!("scenario {name}"))),
            }
        }
        rounds.push(round);
    }
    Ok((rounds, left_out))
}
