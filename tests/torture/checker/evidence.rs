//! A history and the last state, prepared for the checks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::history::{Asked, Claim, Class, History, Loses, Plan, Span};
use crate::stores::{LastState, OrderRow};

pub struct Evidence<'a> {
    pub history: &'a History,
    pub last: &'a LastState,
    pub rows: HashMap<&'a str, &'a OrderRow>,
    /// Orders that the answer to a claim named, or that to a user who was served in a waiting list.
    pub accepted: BTreeMap<&'a str, Accepted<'a>>,
    /// Orders that an answer called recorded: a loss of data in Redis is no excuse for their loss.
    pub recorded: HashSet<&'a str>,
    /// Orders that the test cancelled by hand in Postgres, or may have cancelled so.
    pub cancelled: HashSet<&'a str>,
    /// Orders with what was asked for them, and may have been done.
    pub asked: HashSet<(&'a str, Asked)>,
    /// Orders of events that the test added to the stream.
    pub added: HashSet<&'a str>,
    /// Orders that have a dead letter.
    pub with_letter: HashSet<&'a str>,
    /// Coupons whose total may have been lowered while claims were not recorded yet.
    pub lowered: BTreeSet<&'a str>,
}

/// What the answers to claims said about one order.
pub struct Accepted<'a> {
    pub coupon: &'a str,
    pub user: &'a str,
    pub key: Option<&'a str>,
    /// Of the answer that arrived first.
    pub first: Span,
}

impl<'a> Evidence<'a> {
    pub fn new(history: &'a History, last: &'a LastState) -> Self {
        let rows: HashMap<&str, &OrderRow> = last.orders.iter().map(|row| (row.id.as_str(), row)).collect();
        let by_claims = history.claims.iter().filter_map(|claim| {
            let Claim { coupon, user, key, span, .. } = claim;
            Some((claim.order.as_deref()?, Accepted { coupon, user, key: key.as_deref(), first: *span }))
        });
        let served = history.waits.iter().filter(|wait| !wait.is_waiting());
        let by_waits = served.filter_map(|wait| {
            let order = wait.order.as_deref()?;
            // The client may have asked without the key, or with another one.
            let key = rows.get(order).and_then(|row| row.key.as_deref());
            Some((order, Accepted { coupon: &wait.coupon, user: &wait.user, key, first: wait.span }))
        });
        let mut accepted: BTreeMap<&str, Accepted<'_>> = BTreeMap::new();
        for (order, new) in by_claims.chain(by_waits) {
            let first = new.first;
            let known = accepted.entry(order).or_insert(new);
            if first.ended_us < known.first.ended_us {
                known.first = first;
            }
        }
        let may_be_done = |class: Class| class != Class::Refused;
        Self {
            history,
            last,
            rows,
            accepted,
            recorded: recorded(history),
            cancelled: history
                .cancels
                .iter()
                .filter(|cancel| may_be_done(cancel.class))
                .map(|cancel| cancel.order.as_str())
                .collect(),
            asked: history
                .transitions
                .iter()
                .filter(|transition| may_be_done(transition.class))
                .map(|transition| (transition.order.as_str(), transition.asked))
                .collect(),
            added: history.poisons.iter().filter_map(|poison| poison.order.as_deref()).collect(),
            with_letter: last.letters.iter().filter_map(|letter| letter.order.as_deref()).collect(),
            lowered: history
                .edits
                .iter()
                .filter(|edit| edit.lowers && may_be_done(edit.class))
                .map(|edit| edit.coupon.as_str())
                .collect(),
        }
    }

    pub fn plan(&self, coupon: &str) -> Option<&Plan> {
        self.history.coupons.get(coupon)
    }

    /// Whether a fault of this run removed accepted claims from Redis.
    pub fn loses_claims(&self) -> bool {
        loses_claims(self.history)
    }

    /// Whether a fault removed accepted claims from Redis between the beginning of one span and the end of another.
    pub fn lost_claims_between(&self, from: Span, until: Span) -> bool {
        let faults = self.history.faults.iter().filter(|fault| fault.loses == Loses::Claims);
        faults
            .into_iter()
            .any(|fault| fault.span.ended_us >= from.began_us && fault.span.began_us <= until.ended_us)
    }

    /// Whether data that was in Redis since `first` may be lost: a later fault removed at least `loses`, and no sample
    /// in between showed that everything was recorded.
    pub fn may_be_lost(&self, first: Span, loses: Loses) -> bool {
        let removes = |fault: &&crate::history::Fault| match loses {
            Loses::Nothing => false,
            Loses::Events => fault.loses != Loses::Nothing,
            Loses::Claims => fault.loses == Loses::Claims,
        };
        self.history.faults.iter().filter(removes).any(|fault| {
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
    let from_statuses = history.statuses.iter().map(|status| (&status.order, &status.status));
    let from_waits =
        history.waits.iter().filter_map(|wait| Some((wait.order.as_ref()?, wait.status.as_ref()?)));
    from_claims
        .chain(from_statuses)
        .chain(from_waits)
        .filter(|(_, status)| !["accepted", "waiting"].contains(&status.as_str()))
        .map(|(order, _)| order.as_str())
        .collect()
}

pub fn loses_claims(history: &History) -> bool {
    history.faults.iter().any(|fault| fault.loses == Loses::Claims)
}

/// Number of claims whose client repeated them and never learned the outcome.
pub fn undecided(history: &History) -> usize {
    let mut last: HashMap<(&str, &str, &Option<String>), &Claim> = HashMap::new();
    for claim in &history.claims {
        last.insert((&claim.coupon, &claim.user, &claim.key), claim);
    }
    last.values().filter(|claim| claim.class == Class::Unknown && claim.retries).count()
}
