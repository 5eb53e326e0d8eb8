//! Decides on a run, from its history and from what both stores hold at its end. It shares no code with the program:
//! it knows what the program promises, not how. `evidence` prepares the data, `orders` judges claims and their rows,
//! `order_life` what became of the orders, `waiting` the waiting lists, `stores` the state of both stores.

mod evidence;
mod order_life;
mod orders;
mod stores;
mod waiting;

use std::fmt;

use crate::history::{Claim, Class, History, Wait, Wish};
use crate::stores::LastState;
use crate::trace::TraceVerdict;
use evidence::Evidence;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every promise was tested and held.
    Valid,
    /// Promises were broken: one sentence each.
    Invalid(Vec<String>),
    /// The run proves nothing: the reasons.
    Inconclusive(Vec<String>),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why: &[String] = match self {
            Self::Valid => &[],
            Self::Invalid(why) | Self::Inconclusive(why) => why,
        };
        write!(f, "{}", self.word())?;
        for sentence in why.iter().take(SENTENCES_SHOWN) {
            write!(f, "\n  {sentence}")?;
        }
        match why.len().saturating_sub(SENTENCES_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl Verdict {
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Valid => "VALID",
            Self::Invalid(_) => "INVALID",
            Self::Inconclusive(_) => "INCONCLUSIVE",
        }
    }

    /// The verdict on the whole run, with that on its trace.
    pub fn and(self, trace: &TraceVerdict) -> Self {
        let reason = trace.to_string();
        match (self, trace) {
            (Self::Invalid(mut why), TraceVerdict::Refused(_)) => {
                why.push(reason);
                Self::Invalid(why)
            }
            (_, TraceVerdict::Refused(_)) => Self::Invalid(vec![reason]),
            (Self::Valid, TraceVerdict::Unreadable(_)) => Self::Inconclusive(vec![reason]),
            (verdict, _) => verdict,
        }
    }
}

const SENTENCES_SHOWN: usize = 40;

/// A broken promise counts more than a question that the run left open.
pub fn check(history: &History, last: &Result<LastState, String>) -> Verdict {
    let mut broken = stores::samples(history);
    broken.extend(stores::spared(history));
    broken.extend(orders::statuses(history));
    if let Ok(last) = last {
        let evidence = Evidence::new(history, last);
        broken.extend(orders::accepted_claims(&evidence));
        broken.extend(orders::origins(&evidence));
        broken.extend(orders::refusals(&evidence));
        broken.extend(order_life::answers(&evidence));
        broken.extend(order_life::rows(&evidence));
        broken.extend(order_life::successors(&evidence));
        broken.extend(order_life::dead_answers(&evidence));
        broken.extend(order_life::limits(&evidence));
        broken.extend(waiting::kept(&evidence));
        broken.extend(waiting::denials(&evidence));
        broken.extend(waiting::claims(&evidence));
        broken.extend(waiting::order(&evidence));
        broken.extend(waiting::answers(&evidence));
        broken.extend(waiting::lines(&evidence));
        broken.extend(stores::agreement(&evidence));
        broken.extend(stores::ledger(&evidence));
        broken.extend(stores::totals(&evidence));
        broken.extend(stores::rejections(&evidence));
        broken.extend(stores::dead_letters(&evidence));
    }
    if !broken.is_empty() {
        return Verdict::Invalid(broken);
    }
    match open_questions(history, last) {
        open if open.is_empty() => Verdict::Valid,
        open => Verdict::Inconclusive(open),
    }
}

/// Whether both stores agree and no work is left; before that, they may still come to agree.
pub fn is_at_rest(history: &History, last: &LastState) -> bool {
    let evidence = Evidence::new(history, last);
    stores::agreement(&evidence).is_empty()
        && stores::ledger(&evidence).is_empty()
        && waiting::lines(&evidence).is_empty()
}

fn open_questions(history: &History, last: &Result<LastState, String>) -> Vec<String> {
    let mut open = Vec::new();
    if let Err(why) = last {
        open.push(format!("the stores could not be read at the end: {why}"));
    }
    if !history.claims.iter().any(|claim| claim.class == Class::Ok) {
        open.push("no claim was accepted".to_owned());
    }
    if !history.samples.iter().any(|sample| sample.postgres.is_some())
        || !history.samples.iter().any(|sample| sample.redis.is_some())
    {
        open.push("no sample shows both stores".to_owned());
    }
    let has_waitlist = history.coupons.values().any(|plan| plan.has_waitlist);
    let is_served = |wait: &Wait| wait.wish == Wish::Look && wait.order.is_some() && !wait.is_waiting();
    if has_waitlist && !history.waits.iter().any(is_served) {
        open.push("no user in line was served".to_owned());
    }
    for fault in history.faults.iter().filter(|fault| !fault.fired) {
        open.push(format!("the planned fault {} never fired: {}", fault.kind, fault.note));
    }
    for fault in history.faults.iter().filter(|fault| fault.fired) {
        let Some(spared) = fault.spares.as_ref().filter(|spared| !spared.coupons.is_empty()) else {
            continue;
        };
        let is_within = |claim: &&Claim| {
            let span = spared.span;
            spared.coupons.contains(&claim.coupon)
                && (span.began_us..=span.ended_us).contains(&claim.span.began_us)
        };
        if !history.claims.iter().any(|claim| is_within(&claim)) {
            open.push(format!("no claim of another partition was offered during {}", fault.kind));
        }
    }
    let undecided = evidence::undecided(history);
    if undecided > history.clients {
        open.push(format!(
            "{undecided} claims were left unanswered, but only {} could be open",
            history.clients
        ));
    }
    open
}
