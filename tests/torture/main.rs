//! The torture test: the real program under load while processes are killed, paused and cut off and data is
//! deleted. A checker that shares no code with the program then decides whether every promise held.
//!
//! `run` is one run. `workload` and `admin_actions` make the requests, the `sampler` reads the stores, `faults` plans
//! the faults, `inject` causes them in the `cluster`. All of them write the `history`. The `checker` judges the
//! history and what the `stores` hold at the end; `trace` judges the logs of both stores by the rules of the
//! protocol's model. The checker uses neither the program's code nor `support`.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]
#![expect(clippy::print_stdout, reason = "a run prints what it does and what it found")]

mod admin_actions;
mod checker;
mod checker_cases;
mod cluster;
mod faults;
mod group;
mod history;
mod inject;
mod report;
mod run;
mod sampler;
mod stores;
mod trace;
mod trace_cases;
mod workload;

use std::time::Duration;

use checker::Verdict;
use faults::{Kind, Mode};
use history::Loses;
use run::{RunPlan, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_promise_holds_through_six_faults_in_half_a_minute() {
    let faults = vec![
        Kind::KillRedis,
        Kind::DieBeforeAck,
        Kind::KillProgram,
        Kind::CutReplies,
        Kind::PauseWorker,
        Kind::KillPostgres,
    ];
    let plan = RunPlan { seed: 1, mode: Mode::Safe, length: Duration::from_secs(30), faults };
    assert_eq!(run(&plan).await, Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_promise_holds_through_the_failovers_of_a_cluster() {
    let faults =
        vec![Kind::KillMaster, Kind::MoveSlot, Kind::DieBeforeCommit, Kind::StopMaster, Kind::PauseMajority];
    let plan = RunPlan { seed: 2, mode: Mode::Cluster, length: Duration::from_secs(20), faults };
    assert_eq!(run(&plan).await, Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_promise_holds_through_the_failovers_of_sentinels() {
    let faults = vec![Kind::KillMaster, Kind::KillWorker, Kind::StopMaster, Kind::PauseMajority];
    let plan = RunPlan { seed: 3, mode: Mode::Sentinels, length: Duration::from_secs(20), faults };
    assert_eq!(run(&plan).await, Verdict::Valid);
}

/// Environment: `SECKILL_TORTURE_SEED` (random), `SECKILL_TORTURE_MINUTES` (10); for a run of chosen faults
/// `SECKILL_TORTURE_FAULTS` (names of `Kind`, separated by spaces), `SECKILL_TORTURE_SECONDS` (20), and
/// `SECKILL_TORTURE_MODE` (the name of a `Mode`; by default one in which the faults lose what they may lose).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "long"]
async fn every_promise_holds_under_torture() {
    let number = |name: &str| text(name).map(|text| text.parse::<u64>().unwrap());
    let seed = number("SECKILL_TORTURE_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    for plan in plans(seed, number("SECKILL_TORTURE_MINUTES"), number("SECKILL_TORTURE_SECONDS")) {
        assert_eq!(run(&plan).await, Verdict::Valid, "seed {seed}");
    }
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn plans(seed: u64, minutes: Option<u64>, seconds: Option<u64>) -> Vec<RunPlan> {
    let chosen = std::env::var("SECKILL_TORTURE_FAULTS").unwrap_or_default();
    let word =
        |word| *Kind::ALL.iter().find(|kind| kind.word() == word).expect("a fault of this name exists");
    let faults: Vec<Kind> = chosen.split_whitespace().map(word).collect();
    if !faults.is_empty() {
        let mode = match text("SECKILL_TORTURE_MODE") {
            Some(name) => {
                Mode::ALL.into_iter().find(|mode| mode.name() == name).expect("a mode of this name")
            }
            None if faults.iter().any(|kind| kind.needs_group()) => Mode::Cluster,
            None if faults.iter().any(|kind| kind.loses() == Loses::Claims) => Mode::Flush,
            None => Mode::Safe,
        };
        let length = Duration::from_secs(seconds.unwrap_or(20));
        return vec![RunPlan { seed, mode, length, faults }];
    }
    let length = Duration::from_mins(minutes.unwrap_or(10));
    // Flushes and failovers have separate runs: they may lose claims, so that the other faults would prove less.
    let shares = [(Mode::Safe, 6), (Mode::Flush, 2), (Mode::Cluster, 2), (Mode::Sentinels, 2)];
    shares
        .map(|(mode, twelfths)| (mode, length * twelfths / 12))
        .map(|(mode, length)| RunPlan { seed, mode, length, faults: Vec::new() })
        .into()
}
