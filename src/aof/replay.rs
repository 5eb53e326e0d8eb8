//! The state of the sale's keys during a replay, and the effect of each command. While the marker is `building:`, a
//! rebuild writes: its commands are applied without the rules, and all sums are checked when it ends.

use bytes::Bytes;

use super::commands::{Command, Transaction};
use super::coupons::Coupon;
use super::partitions::key_of;
use super::state::{State, is_foreign};
use super::stream::{Misfit, Stream, entry_id, number};
use super::transaction::Changes;
use super::{Log, Place, Violation};
use crate::domain::CouponId;
use crate::redis::keys::Kind;

fn at(place: Place, misfit: Misfit) -> Violation {
    Violation::new(misfit.earlier.unwrap_or(place), misfit.why)
}

impl State {
    /// Applies commands of the base file, which are no transactions.
    pub(super) fn load(&mut self, transaction: &Transaction) -> Result<(), Violation> {
        let mut changes = Changes::new(transaction.place);
        self.is_loading = true;
        for command in &transaction.commands {
            self.run(command, &mut changes, false).map_err(|misfit| at(transaction.place, misfit))?;
        }
        self.tally.extend(changes.tally);
        Ok(())
    }

    /// Checks the state of the base file.
    pub(super) fn loaded(&mut self, place: Place) -> Result<(), Violation> {
        self.is_loading = false;
        if let Some(group) = &self.stream.group {
            for (id, entry) in self.stream.entries.range_mut(..=group.last_delivered) {
                if !group.pending.contains_key(id) {
                    entry.event = None;
                }
            }
        }
        if self.is_ready() { self.check_all(place) } else { Ok(()) }
    }

    /// Applies one transaction, then checks the rules.
    pub(super) fn apply(&mut self, transaction: &Transaction, log: &Log) -> Result<(), Violation> {
        let place = transaction.place;
        let was_ready = self.is_ready();
        let mut changes = Changes::new(place);
        for command in &transaction.commands {
            let run = self.run(command, &mut changes, was_ready);
            run.map_err(|misfit| {
                self.blame(place, misfit.decided(log, place, &self.stream, &self.rules.keys.orders))
            })?;
        }
        if was_ready && self.is_ready() {
            changes.check(self).map_err(|misfit| self.blame(place, misfit))?;
        } else if self.is_ready() {
            self.check_all(place)?;
        }
        self.tally.extend(changes.tally);
        Ok(())
    }

    /// The violation of a transaction at `place`. If a coupon is in the log that Postgres does not know, its id is wrong,
    /// and the commands on the right id break rules later.
    fn blame(&self, place: Place, misfit: Misfit) -> Violation {
        let known = self.rules.known.as_ref();
        let is_unknown = |id: &&CouponId| known.is_some_and(|known| !known.contains_key(*id));
        let unknown =
            self.coupons.iter().find(|(id, _)| is_unknown(id)).and_then(|(_, coupon)| coupon.defined_at());
        match unknown {
            Some(earlier) if earlier < place => {
                Violation::new(earlier, "a coupon that Postgres does not know")
            }
            _ => at(place, misfit),
        }
    }

    /// Checks what only the end of the log decides.
    pub(super) fn end(&self) -> Result<(), Violation> {
        match &self.positions.fall {
            Some((_, earlier, _)) => Err(Violation::new(*earlier, "a WAL position above the next one")),
            None => Ok(()),
        }
    }

    fn check_all(&self, place: Place) -> Result<(), Violation> {
        let wrong = self.coupons.iter().find_map(|(id, coupon)| {
            let is_absent = coupon.hash.is_empty() && coupon.held.is_empty();
            Some((id, coupon.wrong_sum().filter(|_| !is_absent)?))
        });
        wrong.map_or(Ok(()), |(id, why)| Err(Violation::new(place, format!("coupon {id}: {why}"))))
    }

    fn run(&mut self, command: &Command, changes: &mut Changes, is_strict: bool) -> Result<(), Misfit> {
        let name = &command[0][..];
        if name == b"SELECT" {
            let database: u64 = number(command.get(1).map_or(&b""[..], |word| &word[..]))?;
            self.is_selected = database == self.rules.database;
            if command.len() != 2 || (self.rules.is_own && !self.is_selected) {
                return Err("another database than that of the sale".into());
            }
            return Ok(());
        }
        if !self.is_selected {
            return Ok(());
        }
        // An operator's command: Redis logs it as it was typed.
        if [&b"FLUSHALL"[..], b"FLUSHDB"].iter().any(|flush| name.eq_ignore_ascii_case(flush)) {
            *self = Self::new(self.rules.clone());
            return Ok(());
        }
        if name == b"DEL" || name == b"UNLINK" {
            return self.delete(&command[1..], is_strict);
        }
        let kind = key_of(command).and_then(|key| self.rules.keys.kind(key));
        let Some(kind) = kind else {
            let is_known = self.rules.is_own;
            return if is_known {
                Err("a command on a key that is not the program's".into())
            } else {
                Ok(())
            };
        };
        let words = &command[2..];
        match (name, kind) {
            (b"SET", Kind::Epoch) => self.mark(words, changes.place),
            (b"SET", Kind::PostgresLsn) => self.record_position(words, changes.place, is_strict),
            (b"HSET" | b"HMSET", Kind::Tally) => self.count(words, changes),
            (b"HSET" | b"HMSET", Kind::Coupon(id)) => {
                changes.coupons.insert(id.clone());
                let coupon = self.coupons.entry(id.clone()).or_default();
                if is_strict && Coupon::is_take(words) {
                    coupon.take(words, changes.place)
                } else if is_strict {
                    let known = self.rules.known.as_ref().and_then(|known| known.get(&id));
                    coupon.publish(&id, words, changes.place, known)
                } else {
                    coupon.set(words, changes.place)
                }
            }
            (b"HINCRBY", Kind::Coupon(id)) => self.move_stock(id, words, changes),
            (b"HSET" | b"HMSET", Kind::Claims(id)) => self.hold(&id, words, changes, is_strict),
            (b"HDEL", Kind::Claims(id)) => self.release(&id, words, changes, is_strict),
            (b"ZADD", Kind::Waitlist(id)) => self.place(&id, words, changes, is_strict),
            (b"ZREM", Kind::Waitlist(id)) => self.unplace(&id, words, changes),
            (b"HSET" | b"HMSET", Kind::WaitlistOrders(id)) => self.promise(&id, words, changes),
            (b"HDEL", Kind::WaitlistOrders(id)) => self.unpromise(&id, words, changes),
            (b"XADD", Kind::Orders) => self.send(words, changes, is_strict),
            (b"XCLAIM", Kind::Orders) if words.first().is_some_and(|group| is_foreign(group)) => {
                self.know_group(&words[0])
            }
            (b"XCLAIM", Kind::Orders) if is_strict => self.stream.deliver(command),
            (b"XCLAIM", Kind::Orders) => self.load_pending(words),
            (name, Kind::Orders) if name.eq_ignore_ascii_case(b"XACK") => {
                if let Some(group) = words.first().filter(|group| is_foreign(group)) {
                    return self.know_group(group);
                }
                if name != b"XACK" {
                    return Err("a command that the program does not send".into());
                }
                changes.acknowledged += self.stream.acknowledge(words.get(1..).unwrap_or_default())?;
                Ok(())
            }
            (b"XTRIM", Kind::Orders) => {
                let [strategy, exact, floor] = words else { return Err("an XTRIM of another form".into()) };
                if strategy != "MINID" || exact != "=" {
                    return Err("an XTRIM that the program does not send".into());
                }
                changes.trimmed += self.stream.trim(entry_id(floor)?);
                Ok(())
            }
            (b"XSETID", Kind::Orders) if !is_strict => {
                let [last, _, added, ..] = words else { return Err("an XSETID of another form".into()) };
                (self.stream.last, self.stream.added) = (entry_id(last)?, number(added)?);
                Ok(())
            }
            (name, Kind::Orders) if name.eq_ignore_ascii_case(b"XGROUP") => {
                let is_typed = name != b"XGROUP" || command[1].iter().any(u8::is_ascii_lowercase);
                if is_typed && command.get(3).is_none_or(|group| !is_foreign(group)) {
                    return Err("a command that the program does not send".into());
                }
                self.change_group(&command[1], &command[3..], is_strict)
            }
            _ => Err("a command that the program does not send".into()),
        }
    }

    fn count(&self, words: &[Bytes], changes: &mut Changes) -> Result<(), Misfit> {
        for pair in words.chunks(2) {
            match pair {
                [name, value] if matches!(&name[..], b"acknowledged" | b"trimmed") => {
                    changes.tally.insert(name.clone(), number(value)?);
                }
                [name, value] if name == "settled" => {
                    if !self.is_loading && !self.may_settle(&String::from_utf8_lossy(value)) {
                        return Err("not a tally".into());
                    }
                }
                _ => return Err("the tally has another field".into()),
            }
        }
        Ok(())
    }

    /// Whether a tally, `<removed> <passed>`, may be what `lua/probe.lua` counts now. Redis counts what the group has
    /// passed anew after a restart, so that the log does not show it.
    fn may_settle(&self, tally: &str) -> bool {
        let Some((removed, passed)) = tally.split_once(' ') else { return false };
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let stream = &self.stream;
        let left = signed(stream.added) - signed(stream.len() as u64);
        removed == (left - signed(self.tally_before("trimmed"))).to_string()
            && (matches!(passed, "?" | "!") || number::<i64>(passed.as_bytes()).is_ok())
    }

    fn delete(&mut self, keys: &[Bytes], is_strict: bool) -> Result<(), Misfit> {
        for key in keys {
            let kind = self.rules.keys.kind(key);
            if kind.is_some() && is_strict {
                return Err("a key of the sale is deleted".into());
            }
            match kind {
                Some(Kind::Orders) => self.stream = Stream::default(),
                Some(Kind::Tally) => self.tally.clear(),
                Some(Kind::PostgresLsn) => self.position = None,
                Some(Kind::Epoch) => self.marker = None,
                Some(Kind::Coupon(id)) => self.coupons.entry(id).or_default().hash.clear(),
                Some(Kind::Claims(id)) => {
                    let coupon = self.coupons.entry(id).or_default();
                    for held in std::mem::take(&mut coupon.held).into_values() {
                        self.holders.remove(&held.order);
                    }
                }
                Some(Kind::Waitlist(id)) => {
                    let coupon = self.coupons.entry(id).or_default();
                    (coupon.line, coupon.scores) = Default::default();
                }
                Some(Kind::WaitlistOrders(id)) => self.coupons.entry(id).or_default().promises.clear(),
                None if self.rules.is_own => return Err("a key that is not the program's".into()),
                None => {}
            }
        }
        Ok(())
    }
}
