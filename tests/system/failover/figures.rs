//! Figures: how many claims a failover loses by what their answers waited for, and what the wait costs. The counts of the
//! settings that promise something are asserted, times are only printed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::{Sale, until};

use super::losses::Failover;

const CLIENTS: usize = 32;
/// Claims that were answered when the master dies.
const BEFORE_THE_KILL: usize = 2_000;
/// Claims, one after the other, of which the median time is taken.
const TIMED: usize = 200;
const RUNS: usize = 3;

/// What is measured: the setting, and whether orders are recorded at the same time.
struct Case {
    answer_after: &'static str,
    records: bool,
    delay_ms: u64,
}

#[derive(Debug)]
struct Run {
    told: usize,
    lost: usize,
    /// Of a claim that is alone, in ms, without the delay and with it.
    medians: [f64; 2],
}

/// The median time of claims of new users, one after the other.
async fn median_ms(sale: &Sale, coupon: &str, name: &str) -> f64 {
    let mut times = Vec::new();
    for number in 0..TIMED {
        let begun = Instant::now();
        let answer = sale.claim(coupon, &format!("{name}-{number}")).await;
        assert!([201, 202].contains(&answer.status), "{}", answer.text);
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times[TIMED / 2].as_secs_f64() * 1_000.0
}

/// Clients that claim as fast as they are answered. Each one ends at its first claim that gets no order.
fn crowd(at: &Failover, told: &Arc<Mutex<BTreeSet<String>>>) -> Vec<tokio::task::JoinHandle<()>> {
    let next = Arc::new(AtomicUsize::new(0));
    let client = |_| {
        let (sale, coupon) = (at.scene.sale.clone(), at.coupon.clone());
        let (next, told) = (next.clone(), told.clone());
        tokio::spawn(async move {
            loop {
                let user = format!("crowd-{}", next.fetch_add(1, Ordering::Relaxed));
                let answer = sale.claim(&coupon, &user).await;
                let Some(order) = [201, 202].contains(&answer.status).then(|| super::losses::order(&answer))
                else {
                    return;
                };
                told.lock().unwrap().insert(order);
            }
        })
    };
    (0..CLIENTS).map(client).collect()
}

/// Kills the master under load and counts the orders that were told and are not recorded in the end.
async fn measure(case: &Case) -> Run {
    let workers = if case.records { "1" } else { "0" };
    let settings = [("SECKILL_WORKERS", workers), ("SECKILL_ANSWER_AFTER", case.answer_after)];
    let mut at = Failover::start(&settings).await;
    let without = median_ms(&at.scene.sale, &at.coupon, "near").await;
    at.group.lag().delay(Duration::from_millis(case.delay_ms));
    let with = median_ms(&at.scene.sale, &at.coupon, "far").await;
    let told: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let clients = crowd(&at, &told);
    until("the crowd is answered", async || (told.lock().unwrap().len() >= BEFORE_THE_KILL).then_some(()))
        .await;
    at.fail_over().await;
    for client in clients {
        client.await.unwrap();
    }
    let _worker = (!case.records).then(|| at.start_worker());
    let told = std::mem::take(&mut *told.lock().unwrap());
    let kept: BTreeSet<String> = at.recorded().await.intersection(&told).cloned().collect();
    at.assert_ledger(kept.iter().cloned()).await;
    Run { told: told.len(), lost: told.len() - kept.len(), medians: [without, with] }
}

/// The median, and the lowest and the highest value.
fn spread(values: impl Iterator<Item = f64>, digits: usize) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let [lowest, .., highest] = values.as_slice() else { panic!("there are several runs") };
    let median = values[values.len() / 2];
    format!("{median:.digits$} ({lowest:.digits$}–{highest:.digits$})")
}

fn count(value: usize) -> f64 {
    f64::from(u32::try_from(value).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: prints the figures of docs/GUARANTEES.md"]
async fn a_failover_under_load_loses_only_what_the_setting_does_not_promise() {
    println!("| answer after | recorded | delay, ms | told | lost | p50, ms | p50 with the delay, ms |");
    println!("|---|---|---|---|---|---|---|");
    for delay_ms in [50, 300] {
        for (answer_after, records) in
            [("redis", true), ("redis", false), ("replica", true), ("replica", false), ("postgres", true)]
        {
            let case = Case { answer_after, records, delay_ms };
            let mut runs = Vec::new();
            for _ in 0..RUNS {
                runs.push(measure(&case).await);
            }
            println!(
                "| `{answer_after}` | {} | {delay_ms} | {} | {} | {} | {} |",
                if records { "yes" } else { "no" },
                spread(runs.iter().map(|run| count(run.told)), 0),
                spread(runs.iter().map(|run| count(run.lost)), 0),
                spread(runs.iter().map(|run| run.medians[0]), 2),
                spread(runs.iter().map(|run| run.medians[1]), 2),
            );
            let lost: usize = runs.iter().map(|run| run.lost).sum();
            // Without a worker the promoted replica is all there is.
            let may_lose = answer_after == "redis";
            assert!(lost == 0 || may_lose, "{answer_after}: {runs:?}");
            assert!(lost > 0 || !may_lose || records, "the delay costs claims: {runs:?}");
        }
    }
}
