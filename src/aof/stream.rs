//! The order stream during a replay: its entries, and the consumer group of the workers.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Unbounded};

use super::commands::{Command, Reader};
use super::{Log, Place};
use crate::domain::OrderEvent;

/// The two numbers of an entry's id.
pub type EntryId = (u64, u64);

/// Reads an id in the form that Redis writes.
pub fn entry_id(word: &[u8]) -> Result<EntryId, String> {
    let text = std::str::from_utf8(word).unwrap_or_default();
    let id = text.split_once('-').and_then(|(ms, number)| Some((ms.parse().ok()?, number.parse().ok()?)));
    id.filter(|(ms, number): &EntryId| format!("{ms}-{number}") == text)
        .ok_or_else(|| format!("{text:?} is not an entry id"))
}

#[derive(Debug)]
pub struct Entry {
    /// `None` after the acknowledgement.
    pub event: Option<OrderEvent>,
    /// The transaction that appended it.
    pub place: Place,
}

#[derive(Debug, Default)]
pub struct Group {
    pub last_delivered: EntryId,
    /// Deliveries of each pending entry.
    pub pending: HashMap<EntryId, u64>,
}

#[derive(Debug, Default)]
pub struct Stream {
    pub entries: BTreeMap<EntryId, Entry>,
    pub last: EntryId,
    /// Entries that were ever appended.
    pub added: u64,
    /// The group of the workers.
    pub group: Option<Group>,
}

/// Why a command does not fit, and the transaction that is wrong if it is an earlier one.
pub struct Misfit {
    pub why: String,
    pub earlier: Option<Place>,
    /// The earlier transaction is wrong only if this entry is delivered later.
    pub if_delivered: Option<EntryId>,
}

impl Misfit {
    /// Decides by the rest of the log which of the two transactions is wrong. `key` is the stream's.
    pub fn decided(self, log: &Log, place: Place, stream: &Stream, key: &str) -> Self {
        let Some(id) = self.if_delivered else { return self };
        let rest = log.files[place.file].bytes.slice(place.offset..);
        let mut reader = Reader::new(place.file, rest, true);
        let mut delivered = std::iter::from_fn(|| reader.next_transaction().ok().flatten())
            .flat_map(|transaction| transaction.commands)
            .filter(|command| {
                command[0] == "XCLAIM" && command.get(1).is_some_and(|word| word == key.as_bytes())
            })
            .filter_map(|command| entry_id(command.get(5)?).ok());
        let earlier_is_wrong = if stream.entries.contains_key(&id) {
            // Two entries have one id. The group reads them in order: the one that it reads under this id is right.
            let is_read = stream.group.as_ref().is_some_and(|group| group.last_delivered >= id);
            let first = delivered.find(|read| *read == id || !stream.entries.contains_key(read));
            !is_read && first != Some(id)
        } else {
            delivered.any(|read| read == id)
        };
        if earlier_is_wrong { self } else { Self { earlier: None, ..self } }
    }
}

impl From<String> for Misfit {
    fn from(why: String) -> Self {
        Self { why, earlier: None, if_delivered: None }
    }
}

impl From<&str> for Misfit {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

impl Stream {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn append(&mut self, id: EntryId, event: Option<OrderEvent>, place: Place) {
        self.entries.insert(id, Entry { event, place });
        self.last = self.last.max(id);
        self.added += 1;
    }

    /// Removes the entries below an id, and returns how many there were.
    pub fn trim(&mut self, floor: EntryId) -> u64 {
        let kept = self.entries.split_off(&floor);
        std::mem::replace(&mut self.entries, kept).len() as u64
    }

    /// Orders whose event is not acknowledged.
    pub fn unacknowledged(&self) -> impl Iterator<Item = &OrderEvent> {
        self.entries.values().filter_map(|entry| entry.event.as_ref())
    }

    /// A delivery that Redis logs for XREADGROUP and XCLAIM: `key group consumer 0 id TIME ms RETRYCOUNT n FORCE JUSTID
    /// LASTID id`. A read delivers the next entry of the stream; a reclaim delivers a pending one again.
    pub fn deliver(&mut self, words: &Command) -> Result<(), Misfit> {
        let [_, _, _, consumer, idle, id, time, ms, retry, count, force, just_id, last, last_id] = &words[..]
        else {
            return Err("an XCLAIM in a form that Redis does not log".into());
        };
        let fixed = [&idle[..], time, retry, force, just_id, last];
        if fixed != [&b"0"[..], b"TIME", b"RETRYCOUNT", b"FORCE", b"JUSTID", b"LASTID"] || consumer.is_empty()
        {
            return Err("an XCLAIM in a form that Redis does not log".into());
        }
        let (id, last_id) = (entry_id(id)?, entry_id(last_id)?);
        number::<u64>(ms)?;
        let count = number(count)?;
        let group = self.group.as_mut().ok_or("the consumer group does not exist")?;
        if id <= group.last_delivered {
            let before = group.pending.get_mut(&id).ok_or("an entry is reclaimed that is not pending")?;
            if last_id != group.last_delivered || !(*before..=*before + 1).contains(&count) {
                return Err("a reclaim has another last id or delivery count than the group".into());
            }
            *before = count;
            return Ok(());
        }
        if last_id != id || count != 1 {
            return Err("a first delivery has another last id or delivery count".into());
        }
        let next = self.entries.range((Excluded(group.last_delivered), Unbounded)).next();
        match next {
            Some((next, _)) if *next == id => {}
            // The command names the id twice: the entry was written under another id.
            Some((_, entry)) if !self.entries.contains_key(&id) => {
                let earlier = Some(entry.place);
                let why = "the group reads this entry under another id".into();
                return Err(Misfit { why, earlier, if_delivered: None });
            }
            _ => return Err("the group reads an entry that is not the next one".into()),
        }
        group.last_delivered = id;
        group.pending.insert(id, 1);
        Ok(())
    }

    /// `XACK key group id…`: each entry was pending. Returns how many were acknowledged.
    pub fn acknowledge(&mut self, ids: &[bytes::Bytes]) -> Result<u64, Misfit> {
        let group = self.group.as_mut().ok_or("the consumer group does not exist")?;
        if ids.is_empty() {
            return Err("an XACK without an id".into());
        }
        for id in ids {
            let id = entry_id(id)?;
            if group.pending.remove(&id).is_none() {
                return Err("an entry is acknowledged that is not pending".into());
            }
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.event = None;
            }
        }
        Ok(ids.len() as u64)
    }
}

/// A whole number as Redis and the program write it.
pub fn number<T: std::str::FromStr + ToString>(word: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(word).unwrap_or_default();
    let number = text.parse().ok().filter(|number: &T| number.to_string() == text);
    number.ok_or_else(|| format!("{text:?} is not a number"))
}
