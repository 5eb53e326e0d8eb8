//! The next steps of one state: those of the program, and faults.

use crate::fault::Fault;
use crate::state::State;

/// The possible next steps of one state.
pub struct Steps<'a> {
    pub from: &'a State,
    pub next: Vec<Step>,
    /// Steps to states with more stream entries than the model has room for.
    pub unfollowed: usize,
}

pub struct Step {
    pub name: &'static str,
    pub fault: Option<Fault>,
    pub to: State,
}

impl Steps<'_> {
    /// Adds a step of the program; `act` returns `false` if the next state has no room for its entries.
    pub fn take(&mut self, name: &'static str, act: impl FnOnce(&mut State) -> bool) {
        let mut to = *self.from;
        if !act(&mut to) {
            self.unfollowed += 1;
        } else if to != *self.from {
            self.next.push(Step { name, fault: None, to });
        }
    }

    /// Adds a fault.
    pub fn inject(&mut self, fault: Fault, act: impl FnOnce(&mut State)) {
        let mut to = *self.from;
        act(&mut to);
        self.next.push(Step { name: "fault", fault: Some(fault), to });
    }
}
