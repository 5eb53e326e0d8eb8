//! The torture test: the real program under load while things are killed, paused, cut and flushed, and a
//! checker that decides from the outside whether every promise held.
//!
//! `run` is one run from beginning to end. `load` and `hands` make the traffic, `faults` plans what goes wrong,
//! `strike` does it to the `stage`; all of them write the `history`, from which, and from what the `stores` hold
//! at the end, the `checker` decides; then the `trace`, which the stores' own logs are, is held against the protocol.
//! The checker uses neither the program's code nor `support`.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]
#![expect(clippy::print_stdout, reason = "a run prints what it does and what it found")]

mod checker;
mod checker_cases;
mod faults;
mod hands;
mod history;
mod load;
mod report;
mod run;
mod stage;
mod stores;
mod strike;
mod trace;
mod trace_cases;

use std::time::Duration;

use checker::Verdict;
use faults::{Kind, Mode};
use history::Loses;
use run::{Script, run};

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
    let script = Script { seed: 1, mode: Mode::Safe, length: Duration::from_secs(30), faults };
    assert_eq!(run(&script).await, Verdict::Valid);
}

/// By the environment: `SECKILL_TORTURE_SEED` (by chance), `SECKILL_TORTURE_MINUTES` (10), or for a directed run
/// `SECKILL_TORTURE_FAULTS` (kinds with spaces between them) and `SECKILL_TORTURE_SECONDS` (20).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "long"]
async fn every_promise_holds_under_torture() {
    let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let number = |name: &str| text(name).map(|text| text.parse::<u64>().unwrap());
    let seed = number("SECKILL_TORTURE_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    for script in scripts(seed, number("SECKILL_TORTURE_MINUTES"), number("SECKILL_TORTURE_SECONDS")) {
        assert_eq!(run(&script).await, Verdict::Valid, "seed {seed}");
    }
}

fn scripts(seed: u64, minutes: Option<u64>, seconds: Option<u64>) -> Vec<Script> {
    let directed = std::env::var("SECKILL_TORTURE_FAULTS").unwrap_or_default();
    let word = |word| *Kind::ALL.iter().find(|kind| kind.word() == word).expect("there is such a fault");
    let faults: Vec<Kind> = directed.split_whitespace().map(word).collect();
    if !faults.is_empty() {
        let loses_claims = faults.iter().any(|kind| kind.loses() == Loses::Claims);
        let mode = if loses_claims { Mode::Flush } else { Mode::Safe };
        let length = Duration::from_secs(seconds.unwrap_or(20));
        return vec![Script { seed, mode, length, faults }];
    }
    let length = Duration::from_mins(minutes.unwrap_or(10));
    // Flushes have a run of their own: beside them the other faults prove less.
    [(Mode::Safe, length * 3 / 4), (Mode::Flush, length / 4)]
        .map(|(mode, length)| Script { seed, mode, length, faults: Vec::new() })
        .into()
}
