//! Prints the result of a run: faults by kind, claims by outcome, the verdict, and how to repeat the run.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checker::Verdict;
use crate::history::{Class, History};
use crate::run::RunPlan;
use crate::trace::TraceVerdict;

pub fn print(plan: &RunPlan, history: &History, checked: &Verdict, trace: &TraceVerdict, folder: &Path) {
    let mut faults: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for fault in &history.faults {
        let (fired, planned) = faults.entry(&fault.kind).or_default();
        *fired += usize::from(fault.fired);
        *planned += 1;
    }
    println!("faults fired, of those planned:");
    for (kind, (fired, planned)) in &faults {
        println!("  {fired:>3} of {planned:>3}  {kind}");
    }
    let mut claims: BTreeMap<Class, BTreeMap<&str, usize>> = BTreeMap::new();
    for claim in &history.claims {
        *claims.entry(claim.class).or_default().entry(&claim.answer).or_default() += 1;
    }
    println!("claims by outcome:");
    for (class, answers) in &claims {
        let detail: Vec<String> =
            answers.iter().map(|(answer, count)| format!("{answer}: {count}")).collect();
        println!("  {:>6}  {:<8}  {}", answers.values().sum::<usize>(), class.word(), detail.join(", "));
    }
    let mut transitions: BTreeMap<String, usize> = BTreeMap::new();
    for transition in &history.transitions {
        *transitions.entry(format!("{:?} {}", transition.asked, transition.answer)).or_default() += 1;
    }
    println!("confirms, cancels and revocations by outcome:");
    for (outcome, count) in &transitions {
        println!("  {count:>6}  {outcome}");
    }
    let mut waits: BTreeMap<String, usize> = BTreeMap::new();
    for wait in &history.waits {
        let status = wait.status.as_deref().unwrap_or_default();
        *waits.entry(format!("{:?} {} {status}", wait.wish, wait.answer)).or_default() += 1;
    }
    println!("requests to waiting lists by outcome:");
    for (outcome, count) in &waits {
        println!("  {count:>6}  {}", outcome.trim_end());
    }
    println!(
        "and {} requests for a status, {} edits, {} cancelled orders, {} added events, {} samples",
        history.statuses.len(),
        history.edits.len(),
        history.cancels.iter().filter(|cancel| cancel.class == Class::Ok).count(),
        history.poisons.len(),
        history.samples.len(),
    );
    let (seed, mode) = (plan.seed, plan.mode.name());
    println!("history and trace: {}", folder.display());
    println!("checker, seed {seed} ({mode}): {checked}");
    println!("trace, seed {seed} ({mode}): {trace}");
    let verdict = checked.clone().and(trace);
    println!("verdict of seed {seed} ({mode}): {}", verdict.word());
    if verdict != Verdict::Valid {
        let faults: Vec<&str> = plan.faults.iter().map(|kind| kind.word()).collect();
        let chosen = match faults.as_slice() {
            [] => String::new(),
            faults => format!("SECKILL_TORTURE_FAULTS='{}' ", faults.join(" ")),
        };
        println!("the logs are in the same folder; to repeat the run: {chosen}make torture SEED={seed}");
    }
}
