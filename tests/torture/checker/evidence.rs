//! A history and the last state, put in order for the judges.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::history::{Claim, Class, History, Loses, Span};
use crate::stores::{LastState, OrderRow};

pub struct Evidence<'a> {
    pub history: &'a History,
    pub last: &'a LastState,
    pub rows: HashMap<&'a str, &'a OrderRow>,
    /// Orders that somebody was told of.
    pub told: BTreeMap<&'a str, Told<'a>>,
    /// Orders that somebody was told to be recorded: no loss of Redis's excuses theirs.
    pub recorded: HashSet<&'a str>,
    /// Orders that were ended by hand, or may have been.
    pub cancelled: HashSet<&'a str>,
    /// Orders of hand-made events.
    pub hand_made: HashSet<&'a str>,
    /// Orders that have a dead letter.
    pub with_letter: HashSet<&'a str>,
    /// Coupons whose total may have been lowered beside claims in flight.
    pub lowered: BTreeSet<&'a str>,
}

/// What answers to claims said of one order.
pub struct Told<'a> {
    pub coupon: &'a str,
    pub user: &'a str,
    /// Of the answer that was the first to arrive.
    pub first: Span,
}

impl<'a> Evidence<'a> {
    pub fn new(history: &'a History, last: &'a LastState) -> Self {
        let mut told: BTreeMap<&str, Told<'_>> = BTreeMap::new();
        for claim in &history.claims {
            let Some(order) = claim.order.as_deref() else { continue };
            let Claim { coupon, user, span, .. } = claim;
            let known = told.entry(order).or_insert(Told { coupon, user, first: *span });
            if span.ended_us < known.first.ended_us {
                known.first = *span;
            }
        }
        let done = |class: Class| class != Class::Refused;
        Self {
            history,
            last,
            rows: last.orders.iter().map(|row| (row.id.as_str(), row)).collect(),
            told,
            recorded: recorded(history),
            cancelled: history
                .cancels
                .iter()
                .filter(|cancel| done(cancel.class))
                .map(|cancel| cancel.order.as_str())
                .collect(),
            hand_made: history.poisons.iter().filter_map(|poison| poison.order.as_deref()).collect(),
            with_letter: last.letters.iter().filter_map(|letter| letter.order.as_deref()).collect(),
            lowered: history
                .edits
                .iter()
                .filter(|edit| edit.lowers && done(edit.class))
                .map(|edit| edit.coupon.as_str())
                .collect(),
        }
    }

    /// Whether accepted claims were taken out of Redis in this run.
    pub fn loses_claims(&self) -> bool {
        loses_claims(self.history)
    }

    /// Whether what was in Redis by `first` may be gone without a trace: a fault took at least `loses` after it,
    /// and in between no sample showed that everything was recorded.
    pub fn may_be_lost(&self, first: Span, loses: Loses) -> bool {
        let takes = |fault: &&crate::history::Fault| match loses {
            Loses::Nothing => false,
            Loses::Events => fault.loses != Loses::Nothing,
            Loses::Claims => fault.loses == Loses::Claims,
        };
        self.history.faults.iter().filter(takes).any(|fault| {
            let recorded = self.history.samples.iter().any(|sample| {
                sample.redis.as_ref().is_some_and(crate::history::RedisState::is_quiet)
                    && first.ended_us <= sample.span.began_us
                    && sample.span.ended_us <= fault.span.began_us
            });
            first.began_us <= fault.span.ended_us && !recorded
        })
    }
}

fn recorded(history: &History) -> HashSet<&str> {
    let from_claims =
        history.claims.iter().filter_map(|claim| Some((claim.order.as_ref()?, claim.status.as_ref()?)));
    let from_looks = history.statuses.iter().map(|status| (&status.order, &status.told));
    from_claims
        .chain(from_looks)
        .filter(|(_, status)| *status != "accepted")
        .map(|(order, _)| order.as_str())
        .collect()
}

pub fn loses_claims(history: &History) -> bool {
    history.faults.iter().any(|fault| fault.loses == Loses::Claims)
}

/// Claims whose client wanted to know and never did.
pub fn undecided(history: &History) -> usize {
    let mut last: HashMap<(&str, &str), &Claim> = HashMap::new();
    for claim in &history.claims {
        last.insert((&claim.coupon, &claim.user), claim);
    }
    last.values().filter(|claim| claim.class == Class::Unknown && claim.insists).count()
}
