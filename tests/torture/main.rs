//! The torture test: the real program under load while things are killed, paused, cut and flushed, and a
//! checker that decides from the outside whether every promise held.
//!
//! `run` is one run from beginning to end. `load` and `hands` make the traffic, `faults` plans what goes wrong,
//! `strike` does it to the `stage`; all of them write the `history`, from which, and from what the `stores` hold
//! at the end, the `checker` decides. The checker uses neither the program's code nor the harness.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

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
/// Processes and proxies of the tests of single promises.
#[path = "../it"]
#[expect(dead_code, reason = "those tests use the rest")]
mod it {
    pub mod harness;
    pub mod proxy;
}

use std::time::Duration;

use it::{harness, proxy};

use checker::Verdict;
use faults::{Kind, Mode};
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

/// By the environment: SECKILL_TORTURE_MINUTES (10), SECKILL_TORTURE_SEED (by chance), SECKILL_TORTURE_FAULTS
/// (names of kinds; by default all of them by the seed).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "long"]
async fn every_promise_holds_under_torture() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("SECKILL_TORTURE_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let seconds = 60 * number("SECKILL_TORTURE_MINUTES").unwrap_or(10);
    // Flushes have a run of their own: beside them the other faults prove less.
    for (mode, seconds) in [(Mode::Safe, seconds * 3 / 4), (Mode::Flush, seconds / 4)] {
        let script = Script { seed, mode, length: Duration::from_secs(seconds), faults: Vec::new() };
        assert_eq!(run(&script).await, Verdict::Valid, "seed {seed}");
    }
}
