//! The search. It goes breadth first, so that the first broken promise has a shortest path. Then it goes backwards
//! from the quiet states and finds the states from which no quiet state can be reached.

use std::fmt;
use std::hash::BuildHasher;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use crate::broken::Broken;
use crate::compare::is_quiet;
use crate::promise::broken;
use crate::state::State;
use crate::steps::{Step, Steps};
use crate::{Scope, compare, inject, rebuild, record, serve, transition, waitlist};

/// Every step from a state, and how many steps were dropped because the stream had no room.
pub fn steps_from(state: &State, scope: &Scope) -> (Vec<Step>, usize) {
    let mut steps = Steps { from: state, next: Vec::with_capacity(16), unfollowed: 0 };
    serve::steps(state, scope, &mut steps);
    transition::steps(state, scope, &mut steps);
    transition::pass_time(state, &mut steps);
    waitlist::steps(state, scope, &mut steps);
    record::steps(state, scope, &mut steps);
    rebuild::steps(state, scope, &mut steps);
    compare::steps(state, scope, &mut steps);
    inject::steps(state, scope, &mut steps);
    (steps.next, steps.unfollowed)
}

/// The result of a search.
#[derive(Debug)]
pub struct Search {
    pub states: usize,
    pub quiet: usize,
    /// Steps that were dropped because the model's stream had no room.
    pub unfollowed: usize,
    pub outcome: Outcome,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each search")]
pub enum Outcome {
    Holds,
    /// A broken promise, and the steps that lead to it.
    Breaks(Broken, Path),
    /// The scope has more states than the limit.
    TooLarge,
}

/// The steps to a state, and the state.
pub struct Path {
    pub steps: Vec<String>,
    /// The state after each step.
    pub states: Vec<State>,
    pub state: State,
}

impl Path {
    /// Whether the path contains these steps in this order, with any steps between them.
    #[must_use]
    pub fn passes(&self, steps: &[&str]) -> bool {
        let mut all = self.steps.iter();
        steps.iter().all(|step| all.any(|seen| seen.contains(step)))
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:3} {step}", number + 1)?;
        }
        write!(f, "    {:?}", self.state)
    }
}

struct Traversal<'a> {
    scope: &'a Scope,
    states: Vec<State>,
    parents: Vec<u32>,
    index: HashTable<u32>,
    /// Steps of the program, without faults: `(from, to)`.
    steps: Vec<(u32, u32)>,
    unfollowed: usize,
}

/// Searches every state of the scope, at most `max_states`.
#[must_use]
pub fn search(scope: &Scope, max_states: usize) -> Search {
    let mut walk = Traversal {
        scope,
        states: Vec::new(),
        parents: Vec::new(),
        index: HashTable::new(),
        steps: Vec::new(),
        unfollowed: 0,
    };
    walk.reach(&State::first(scope.total), u32::MAX);
    let mut at = 0;
    while at < walk.states.len() {
        if let Some(broken) = broken(&walk.states[at], scope) {
            return walk.end(Outcome::Breaks(broken, walk.path(at)));
        }
        if walk.states.len() > max_states {
            return walk.end(Outcome::TooLarge);
        }
        walk.follow(at);
        at += 1;
    }
    let outcome = match walk.never_at_rest() {
        Some(restless) => Outcome::Breaks(Broken::NeverAtRest, walk.path(restless)),
        None => Outcome::Holds,
    };
    walk.end(outcome)
}

impl Traversal<'_> {
    fn follow(&mut self, at: usize) {
        let (steps, unfollowed) = steps_from(&self.states[at], self.scope);
        self.unfollowed += unfollowed;
        for step in steps {
            let to = self.reach(&step.to, number(at));
            if step.fault.is_none() {
                self.steps.push((number(at), to));
            }
        }
    }

    fn reach(&mut self, state: &State, parent: u32) -> u32 {
        let hash = FxBuildHasher.hash_one(state);
        let states = &self.states;
        if let Some(&known) = self.index.find(hash, |&index| states[index as usize] == *state) {
            return known;
        }
        let new = number(self.states.len());
        self.states.push(*state);
        self.parents.push(parent);
        let states = &self.states;
        self.index.insert_unique(hash, new, |&index| FxBuildHasher.hash_one(states[index as usize]));
        new
    }

    fn quiet(&self) -> impl Iterator<Item = usize> {
        (0..self.states.len()).filter(|&index| is_quiet(&self.states[index], self.scope))
    }

    /// The first state from which the program's steps reach no quiet state.
    fn never_at_rest(&self) -> Option<usize> {
        let mut starts = vec![0_u32; self.states.len() + 1];
        for &(_, to) in &self.steps {
            starts[to as usize + 1] += 1;
        }
        for index in 1..starts.len() {
            starts[index] += starts[index - 1];
        }
        let mut free = starts.clone();
        let mut before = vec![0_u32; self.steps.len()];
        for &(from, to) in &self.steps {
            before[free[to as usize] as usize] = from;
            free[to as usize] += 1;
        }
        let mut rests = vec![false; self.states.len()];
        let mut waiting: Vec<usize> = self.quiet().collect();
        for &index in &waiting {
            rests[index] = true;
        }
        while let Some(index) = waiting.pop() {
            for &from in &before[starts[index] as usize..starts[index + 1] as usize] {
                if !std::mem::replace(&mut rests[from as usize], true) {
                    waiting.push(from as usize);
                }
            }
        }
        rests.iter().position(|rests| !rests)
    }

    fn path(&self, to: usize) -> Path {
        let (mut steps, mut states) = (Vec::new(), Vec::new());
        let mut at = to;
        while let Some(&parent) = self.parents.get(at).filter(|&&parent| parent != u32::MAX) {
            let (all, _) = steps_from(&self.states[parent as usize], self.scope);
            let step = all.iter().find(|step| step.to == self.states[at]);
            steps.push(match step {
                Some(Step { fault: Some(fault), .. }) => format!("{fault:?}"),
                Some(step) => step.name.to_owned(),
                None => "?".to_owned(),
            });
            states.push(self.states[at]);
            at = parent as usize;
        }
        steps.reverse();
        states.reverse();
        Path { steps, states, state: self.states[to] }
    }

    fn end(&self, outcome: Outcome) -> Search {
        Search {
            states: self.states.len(),
            quiet: self.quiet().count(),
            unfollowed: self.unfollowed,
            outcome,
        }
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX - 1)
}
