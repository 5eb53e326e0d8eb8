//! `seckill bench`: what this machine makes of the program, and of what people do instead, in one run. The
//! program under test is the real one in a process of its own, on stores of the bench's own; the load comes from
//! this process, over loopback.

pub mod alternatives;
mod comparison;
mod disk;
mod load;
pub mod noop;
mod rate;
mod redis_cpu;
mod report;
mod requests;
mod scenarios;
mod stage;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::data_dir::DataDir;
pub use disk::fdatasync;
pub use rate::Rate;
pub use redis_cpu::redis_cpu;
pub use report::Report;
use requests::Users;
use scenarios::Bench;
use stage::Stage;

/// More than a run of any length here can use up.
const USERS_PER_SECOND: u64 = 60_000;

pub struct Options {
    /// Where the stores live; made, and removed at the end where it was not there before.
    pub data_dir: PathBuf,
    pub quick: bool,
}

/// Measures everything; `mint` signs a token for a user with the secret given.
pub async fn run(
    options: &Options,
    mint: impl Fn(&str, &str) -> anyhow::Result<String>,
) -> anyhow::Result<Report> {
    let lasts = Duration::from_secs(if options.quick { 3 } else { 10 });
    let backlog = if options.quick { 50_000 } else { 1_000_000 };
    let progress = ProgressBar::new(14);
    progress.set_style(ProgressStyle::with_template("{elapsed_precise} {bar:24} {pos}/{len} {msg}")?);
    progress.enable_steady_tick(Duration::from_millis(200));
    progress.set_message("starting the stores");
    let was_there = options.data_dir.exists();
    let stage = Stage::set(&DataDir::open(Some(&options.data_dir))?).await?;
    let count = usize::try_from(USERS_PER_SECOND * lasts.as_secs())?;
    progress.set_message("signing tokens");
    let users = Users::new(count, |user| mint(&stage.jwt_secret, user))?;

    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut report =
        Report { seckill: env!("CARGO_PKG_VERSION"), cores, quick: options.quick, figures: Vec::new() };
    let started = Instant::now();
    let round = comparison::round(options.quick);
    let data_dir = options.data_dir.as_path();
    let bench = Bench { stage: &stage, users: &users, data_dir, lasts, round, backlog };
    let measured = measure(&bench, &mut report, &progress).await;
    report.add("run", "took", started.elapsed().as_secs_f64(), "s");
    progress.finish_and_clear();
    stage.stop().await?;
    if !was_there {
        std::fs::remove_dir_all(&options.data_dir)?;
    }
    measured.map(|()| report)
}

async fn measure(bench: &Bench<'_>, report: &mut Report, progress: &ProgressBar) -> anyhow::Result<()> {
    macro_rules! scenarios {
        ($($name:ident),+) => {
            $(
                progress.set_message(stringify!($name));
                bench.$name(report).await?;
                progress.inc(1);
            )+
        };
    }
    scenarios!(noop, claim, sold_out, repeat, mixed, end_to_end, window, drain);
    scenarios!(per_request, optimistic_lock, lua_then_lock, row_per_unit, two_phase, bare_insert);
    Ok(())
}
