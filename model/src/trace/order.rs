//! Merges the logs of two stores that share no clock. Redis's log shows how far Postgres had come: a commit's position
//! is recorded in Redis before any effect of the commit, and epochs, versions and places in line, which Postgres has
//! first, are committed before they appear in Redis. Each commit is placed as late as these two facts allow.

use std::collections::HashMap;

use super::{Change, Effect, Line};

/// A value that Postgres makes and Redis repeats.
#[derive(PartialEq, Eq, Hash)]
enum Sign {
    Epoch(String),
    Version(String, u64),
    Join(String),
}

/// Merges both logs; each keeps its own order.
#[must_use]
pub fn in_one_order(redis: Vec<Line>, postgres: Vec<Line>) -> Vec<Line> {
    let made = first_made(&postgres);
    let mut lines = Vec::with_capacity(redis.len() + postgres.len());
    let mut commits = postgres.into_iter().enumerate().peekable();
    for line in redis {
        let effects = match &line {
            Line::Redis(effects) | Line::Hand { effects, .. } => effects.as_slice(),
            Line::Postgres { .. } => &[],
        };
        for effect in effects {
            let made = shown(effect).and_then(|sign| made.get(&sign).copied());
            let goes_before = |commit: &(usize, Line)| {
                let is_noted = match (effect, &commit.1) {
                    (Effect::Noted { lsn: noted }, Line::Postgres { lsn, .. }) => lsn <= noted,
                    _ => false,
                };
                is_noted || made.is_some_and(|place| commit.0 <= place)
            };
            while let Some((_, commit)) = commits.next_if(goes_before) {
                lines.push(commit);
            }
        }
        lines.push(line);
    }
    lines.extend(commits.map(|(_, commit)| commit));
    lines
}

/// The index of the first commit with each sign.
fn first_made(postgres: &[Line]) -> HashMap<Sign, usize> {
    let mut made = HashMap::new();
    for (place, line) in postgres.iter().enumerate() {
        let Line::Postgres { changes, .. } = line else { continue };
        for change in changes {
            let sign = match change {
                Change::Fence { epoch, .. } => Sign::Epoch(epoch.clone()),
                Change::Coupon { coupon, version, .. } => Sign::Version(coupon.clone(), *version),
                Change::Joined { order, .. } => Sign::Join(order.clone()),
                _ => continue,
            };
            made.entry(sign).or_insert(place);
        }
    }
    made
}

fn shown(effect: &Effect) -> Option<Sign> {
    match effect {
        Effect::Marked { epoch, .. } => Some(Sign::Epoch(epoch.clone())),
        Effect::Defined { coupon, version: Some(version), .. } => {
            Some(Sign::Version(coupon.clone(), *version))
        }
        Effect::Promised { order, .. } => Some(Sign::Join(order.clone())),
        _ => None,
    }
}
