//! The next steps of one state: those of the program, and faults.

use crate::fault::Fault;
use crate::state::State;

/// The possible next steps of one state.
pub struct Steps<'a, S = State, F = Fault> {
    pub from: &'a S,
    pub next: Vec<Step<S, F>>,
    /// Steps to states with more stream entries than the model has room for.
    pub unfollowed: usize,
}

pub struct Step<S = State, F = Fault> {
    pub name: &'static str,
    pub fault: Option<F>,
    pub to: S,
}

impl<'a, S: Copy + PartialEq, F> Steps<'a, S, F> {
    pub fn of(from: &'a S) -> Self {
        Self { from, next: Vec::with_capacity(16), unfollowed: 0 }
    }

    /// Adds a step of the program; `act` returns `false` if the next state has no room for its entries.
    pub fn take(&mut self, name: &'static str, act: impl FnOnce(&mut S) -> bool) {
        let mut to = *self.from;
        if !act(&mut to) {
            self.unfollowed += 1;
        } else if to != *self.from {
            self.next.push(Step { name, fault: None, to });
        }
    }

    /// Adds a fault.
    pub fn inject(&mut self, fault: F, act: impl FnOnce(&mut S)) {
        let mut to = *self.from;
        act(&mut to);
        self.next.push(Step { name: "fault", fault: Some(fault), to });
    }
}
