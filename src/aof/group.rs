//! Commands on the order stream and its consumer groups during a replay.

use bytes::Bytes;

use super::state::{State, is_foreign};
use super::stream::{EntryId, Group, Misfit, entry_id, number};
use super::transaction::Changes;
use crate::domain::OrderEvent;

impl State {
    /// Refuses a group of another program that was never created.
    pub(super) fn know_group(&self, group: &Bytes) -> Result<(), Misfit> {
        if self.foreign_groups.contains(group) {
            Ok(())
        } else {
            Err("a consumer group that does not exist".into())
        }
    }

    pub(super) fn send(
        &mut self,
        words: &[Bytes],
        changes: &mut Changes,
        is_strict: bool,
    ) -> Result<(), Misfit> {
        let words = match words {
            [option, rest @ ..] if option == "NOMKSTREAM" => rest,
            // The base file makes an empty stream.
            [option, ..] if self.is_loading && option == "MAXLEN" => return Ok(()),
            _ if is_strict => return Err("an XADD that the program does not send".into()),
            words => words,
        };
        let [id, fields @ ..] = words else { return Err("an XADD without an id".into()) };
        let id = entry_id(id)?;
        if id <= self.stream.last {
            let earlier = self.stream.entries.last_key_value().map(|(_, entry)| entry.place);
            let why = "an entry id is not above the one before it".into();
            return Err(Misfit { why, earlier, if_delivered: Some(id) });
        }
        let event = OrderEvent::read(fields);
        if is_strict {
            let event = event.map_err(|unreadable| format!("not an order event: {}", unreadable.reason))?;
            let is_own = event.fields().iter().map(String::as_bytes).eq(fields.iter().map(|word| &word[..]));
            if !is_own {
                return Err("an order event in another form".into());
            }
            changes.events.push(event.clone());
            self.stream.append(id, Some(event), changes.place);
        } else {
            self.stream.append(id, event.ok(), changes.place);
        }
        Ok(())
    }

    /// A pending entry in the base file, or one that is delivered during a rebuild.
    pub(super) fn load_pending(&mut self, words: &[Bytes]) -> Result<(), Misfit> {
        let [_, _, _, id, _, _, _, deliveries, ..] = words else {
            return Err("an XCLAIM of another form".into());
        };
        let (id, deliveries) = (entry_id(id)?, number(deliveries)?);
        if let Some(group) = &mut self.stream.group {
            group.pending.insert(id, deliveries);
            group.last_delivered = group.last_delivered.max(id);
        }
        Ok(())
    }

    pub(super) fn change_group(
        &mut self,
        verb: &[u8],
        words: &[Bytes],
        is_strict: bool,
    ) -> Result<(), Misfit> {
        let verb = verb.to_ascii_uppercase();
        let Some((group, words)) = words.split_first() else { return Err("XGROUP has another form".into()) };
        if is_foreign(group) {
            if verb != b"CREATE" {
                return self.know_group(group);
            }
            // Only a rebuild creates the stream with a group.
            if words.iter().any(|word| word == "MKSTREAM") && !is_strict {
                return Err("the stream is created with a group that is not the program's".into());
            }
            self.foreign_groups.insert(group.clone());
            return Ok(());
        }
        let start = |words: &[Bytes]| -> Result<EntryId, String> {
            match words.first() {
                Some(word) if word == "0" => Ok((0, 0)),
                Some(word) => entry_id(word),
                None => Err("XGROUP without an id".into()),
            }
        };
        match &verb[..] {
            b"CREATE" if !is_strict => {
                let removed = self.stream.added.saturating_sub(self.stream.len() as u64);
                let [from, options @ ..] = words else { return Err("XGROUP has another form".into()) };
                let read = match options {
                    [make, count, read] if make == "MKSTREAM" && count == "ENTRIESREAD" && from == "0" => {
                        number::<u64>(read)?
                    }
                    [count, read] if self.is_loading && count == "ENTRIESREAD" => number::<u64>(read)?,
                    [] if self.is_loading => removed,
                    _ => return Err("XGROUP has another form".into()),
                };
                if !self.is_loading && read != removed {
                    return Err("the group starts with another count than the stream".into());
                }
                let last_delivered = start(words)?;
                self.stream.group = Some(Group { last_delivered, ..Group::default() });
                Ok(())
            }
            b"SETID" => {
                let last_delivered = start(words)?;
                let group = self.stream.group.get_or_insert_default();
                if is_strict && group.last_delivered != last_delivered {
                    return Err("the position of the group is moved".into());
                }
                group.last_delivered = last_delivered;
                Ok(())
            }
            b"DESTROY" if !is_strict => {
                self.stream.group = None;
                Ok(())
            }
            b"CREATECONSUMER" | b"DELCONSUMER" if words.len() == 1 && !words[0].is_empty() => Ok(()),
            _ => Err("a change of the group that the program does not make".into()),
        }
    }
}
