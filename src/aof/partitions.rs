//! Gives each transaction of the log to the state of the partition whose keys it names. A script, and so a transaction of
//! the program, has the keys of one partition.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::commands::{Command, Transaction};
use super::state::{Rules, State};
use super::{Log, Place, Violation};

/// The states of all partitions.
pub struct Partitions {
    states: Vec<State>,
}

impl Partitions {
    pub fn new(rules: &[Rules]) -> Self {
        Self { states: rules.iter().cloned().map(State::new).collect() }
    }

    /// As [`State::load`].
    pub fn load(&mut self, transaction: &Transaction) -> Result<(), Violation> {
        self.give(transaction, State::load)
    }

    /// As [`State::loaded`].
    pub fn loaded(&mut self, place: Place) -> Result<(), Violation> {
        self.states.iter_mut().try_for_each(|state| state.loaded(place))
    }

    /// As [`State::apply`].
    pub fn apply(&mut self, transaction: &Transaction, log: &Log) -> Result<(), Violation> {
        self.give(transaction, |state, transaction| state.apply(transaction, log))
    }

    /// As [`State::end`]; returns the states.
    pub fn end(self) -> Result<Vec<State>, Violation> {
        self.states.iter().try_for_each(State::end)?;
        Ok(self.states)
    }

    fn give(
        &mut self,
        transaction: &Transaction,
        mut to: impl FnMut(&mut State, &Transaction) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        if let [only] = &mut self.states[..] {
            return to(only, transaction);
        }
        let keys = transaction.commands.iter().flat_map(keys_of);
        let owners: BTreeSet<usize> = keys.filter_map(|key| self.owner(key)).collect();
        if owners.len() > 1 && self.states.iter().any(|state| state.is_selected) {
            return Err(Violation::new(transaction.place, "a transaction with the keys of two partitions"));
        }
        // A state judges keys that no partition has as it does with one partition.
        let of_unknown = owners.first().copied().unwrap_or(0);
        let is_of_one = transaction.commands.iter().all(|command| !keys_of(command).is_empty());
        if is_of_one && owners.len() < 2 {
            return to(&mut self.states[of_unknown], transaction);
        }
        for number in 0..self.states.len() {
            let is_for = |key: &Bytes| self.owner(key).unwrap_or(of_unknown) == number;
            let commands: Vec<Command> =
                transaction.commands.iter().filter_map(|command| part_of(command, is_for)).collect();
            if !commands.is_empty() {
                to(&mut self.states[number], &Transaction { place: transaction.place, commands })?;
            }
        }
        Ok(())
    }

    /// The number of the state that has the key.
    fn owner(&self, key: &Bytes) -> Option<usize> {
        self.states.iter().position(|state| state.rules.keys.kind(key).is_some())
    }
}

/// The command for the state of some keys; `None` if it has none of them. A command without a key, such as SELECT, is for
/// each state.
fn part_of(command: &Command, is_for: impl Fn(&Bytes) -> bool) -> Option<Command> {
    let keys = keys_of(command);
    let own: Vec<Bytes> = keys.iter().filter(|key| is_for(key)).cloned().collect();
    match (keys.len(), own.len()) {
        (all, own) if all == own => Some(command.clone()),
        (_, 0) => None,
        _ => Some([vec![command[0].clone()], own].concat()),
    }
}

/// The keys of a command. Only a deletion has several.
fn keys_of(command: &Command) -> &[Bytes] {
    let name = &command[0][..];
    let is = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
    if is(&["SELECT", "FLUSHALL", "FLUSHDB"]) {
        &[]
    } else if is(&["DEL", "UNLINK"]) {
        &command[1..]
    } else {
        key_of(command).map_or(&[], std::slice::from_ref)
    }
}

/// The key of a command. The one of XGROUP follows its subcommand.
pub fn key_of(command: &Command) -> Option<&Bytes> {
    command.get(if command[0].eq_ignore_ascii_case(b"XGROUP") { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Partition;
    use crate::redis::keys::Keys;

    fn partitions(is_own: bool) -> Partitions {
        let rules = [0, 2].map(|number| Rules {
            keys: Keys::new("seckill", Partition::new(number)),
            is_own,
            database: 0,
            epoch: None,
            known: None,
        });
        Partitions::new(&rules)
    }

    /// Applies one transaction, whose commands are lines; returns why it is wrong.
    fn apply(partitions: &mut Partitions, commands: &[&str]) -> Option<String> {
        let words =
            |line: &&str| line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        let transaction =
            Transaction { place: Place::default(), commands: commands.iter().map(words).collect() };
        partitions.apply(&transaction, &Log { files: Vec::new() }).err().map(|violation| violation.why)
    }

    fn markers(partitions: &Partitions) -> [Option<&str>; 2] {
        [0, 1]
            .map(|number: usize| partitions.states[number].marker.as_ref().map(|(marker, _)| marker.as_str()))
    }

    #[test]
    fn a_transaction_changes_only_the_state_whose_keys_it_names() {
        let mut both = partitions(true);
        assert_eq!(apply(&mut both, &["SELECT 0", "SET seckill:{2}:epoch building:1-ab"]), None);
        assert_eq!(markers(&both), [None, Some("building:1-ab")]);
        // Epochs of another partition do not count: 1 is not below 7 here.
        assert_eq!(apply(&mut both, &["SET seckill:{0}:epoch building:7-cd"]), None);
        assert_eq!(apply(&mut both, &["SET seckill:{2}:epoch ready:1-ab"]), None);
        assert_eq!(markers(&both), [Some("building:7-cd"), Some("ready:1-ab")]);
        assert_eq!(apply(&mut both, &["FLUSHALL"]), None);
        assert_eq!(markers(&both), [None, None]);
    }

    #[test]
    fn keys_of_two_partitions_in_one_transaction_and_keys_of_none_are_wrong() {
        let two = ["SET seckill:{0}:epoch building:1-ab", "SET seckill:{2}:epoch building:1-ab"];
        let why = apply(&mut partitions(false), &two);
        assert_eq!(why.as_deref(), Some("a transaction with the keys of two partitions"));
        let none = ["SET seckill:{7}:epoch building:1-ab"];
        let why = apply(&mut partitions(true), &none);
        assert_eq!(why.as_deref(), Some("a command on a key that is not the program's"));
        assert_eq!(apply(&mut partitions(false), &none), None);
    }

    #[test]
    fn a_deletion_reaches_the_state_of_each_of_its_keys() {
        let mut both = partitions(false);
        assert_eq!(apply(&mut both, &["SET seckill:{2}:epoch building:1-ab"]), None);
        assert_eq!(apply(&mut both, &["DEL another seckill:{2}:epoch"]), None);
        assert_eq!(markers(&both), [None, None]);
    }
}
