//! What a run tells people: its seed, faults by kind, claims by outcome, the verdict, and how to run it again.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checker::Verdict;
use crate::history::{Class, History};
use crate::run::Script;
use crate::trace::Judgement;

pub fn print(script: &Script, history: &History, checked: &Verdict, trace: &Judgement, folder: &Path) {
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
        *claims.entry(claim.class).or_default().entry(&claim.told).or_default() += 1;
    }
    println!("claims by outcome:");
    for (class, told) in &claims {
        let detail: Vec<String> = told.iter().map(|(told, count)| format!("{told}: {count}")).collect();
        println!("  {:>6}  {:<8}  {}", told.values().sum::<usize>(), class.word(), detail.join(", "));
    }
    println!(
        "beside them: {} looks at an order, {} edits, {} orders ended by hand, {} events made by hand, {} samples",
        history.statuses.len(),
        history.edits.len(),
        history.cancels.iter().filter(|cancel| cancel.class == Class::Ok).count(),
        history.poisons.len(),
        history.samples.len(),
    );
    let (seed, mode) = (script.seed, script.mode.name());
    println!("history and trace: {}", folder.display());
    println!("checker, seed {seed} ({mode}): {checked}");
    println!("trace, seed {seed} ({mode}): {trace}");
    let verdict = checked.clone().and(trace);
    println!("verdict of seed {seed} ({mode}): {}", verdict.word());
    if verdict != Verdict::Valid {
        let faults: Vec<&str> = script.faults.iter().map(|kind| kind.word()).collect();
        let directed = match faults.as_slice() {
            [] => String::new(),
            faults => format!("SECKILL_TORTURE_FAULTS='{}' ", faults.join(" ")),
        };
        println!("logs are beside the history; again: {directed}make torture SEED={seed}");
    }
}
