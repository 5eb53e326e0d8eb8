//! The search. It goes breadth first, so that the first broken promise has a shortest path. Then it goes backwards
//! from the quiet states and finds the states from which no quiet state can be reached.

use std::fmt;
use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use crate::broken::Broken;
use crate::compare::is_quiet;
use crate::fault::Fault;
use crate::promise::broken;
use crate::state::State;
use crate::steps::{Step, Steps};
use crate::{Scope, compare, inject, rebuild, record, serve, transition, waitlist};

/// What the search needs of a model.
pub trait Model {
    type State: Copy + Eq + Hash + fmt::Debug;
    type Fault: fmt::Debug;
    type Broken: fmt::Debug;
    /// How it breaks a promise that a state leads to no quiet state.
    const NEVER_AT_REST: Self::Broken;

    fn first(&self) -> Self::State;

    /// Every step from a state, and how many steps were dropped because the model had no room for them.
    fn steps(&self, state: &Self::State) -> (StepsOf<Self>, usize);

    /// The promise that this state breaks.
    fn broken(&self, state: &Self::State) -> Option<Self::Broken>;

    /// Whether no step is under way.
    fn is_quiet(&self, state: &Self::State) -> bool;
}

impl Model for Scope {
    type State = State;
    type Fault = Fault;
    type Broken = Broken;
    const NEVER_AT_REST: Broken = Broken::NeverAtRest;

    fn first(&self) -> State {
        State::first(self.total)
    }

    fn steps(&self, state: &State) -> (Vec<Step>, usize) {
        steps_from(state, self)
    }

    fn broken(&self, state: &State) -> Option<Broken> {
        broken(state, self)
    }

    fn is_quiet(&self, state: &State) -> bool {
        is_quiet(state, self)
    }
}

/// Every step from a state, and how many steps were dropped because the stream had no room.
pub fn steps_from(state: &State, scope: &Scope) -> (Vec<Step>, usize) {
    let mut steps = Steps::of(state);
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
pub struct Search<B = Broken, S = State> {
    pub states: usize,
    pub quiet: usize,
    /// Steps that were dropped because the model's stream had no room.
    pub unfollowed: usize,
    pub outcome: Outcome<B, S>,
}

#[derive(Debug)]
pub enum Outcome<B = Broken, S = State> {
    Holds,
    /// A broken promise, and the steps that lead to it.
    Breaks(B, Path<S>),
    /// The scope has more states than the limit.
    TooLarge,
}

/// The steps to a state, and the state.
pub struct Path<S = State> {
    pub steps: Vec<String>,
    /// The state after each step.
    pub states: Vec<S>,
    pub state: S,
}

impl<S> Path<S> {
    /// Whether the path contains these steps in this order, with any steps between them.
    #[must_use]
    pub fn passes(&self, steps: &[&str]) -> bool {
        let mut all = self.steps.iter();
        steps.iter().all(|step| all.any(|seen| seen.contains(step)))
    }
}

impl<S: fmt::Debug> fmt::Debug for Path<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:3} {step}", number + 1)?;
        }
        write!(f, "    {:?}", self.state)
    }
}

/// The steps from a state of the model `M`.
pub type StepsOf<M> = Vec<Step<<M as Model>::State, <M as Model>::Fault>>;

/// The result of a search of the model `M`.
pub type SearchOf<M> = Search<<M as Model>::Broken, <M as Model>::State>;

struct Traversal<'a, M: Model> {
    scope: &'a M,
    states: Vec<M::State>,
    parents: Vec<u32>,
    index: HashTable<u32>,
    /// Steps of the program, without faults: `(from, to)`.
    steps: Vec<(u32, u32)>,
    unfollowed: usize,
}

/// Searches every state of the scope, at most `max_states`.
#[must_use]
pub fn search<M: Model>(scope: &M, max_states: usize) -> SearchOf<M> {
    let mut walk = Traversal {
        scope,
        states: Vec::new(),
        parents: Vec::new(),
        index: HashTable::new(),
        steps: Vec::new(),
        unfollowed: 0,
    };
    walk.reach(&scope.first(), u32::MAX);
    let mut at = 0;
    while at < walk.states.len() {
        if let Some(broken) = scope.broken(&walk.states[at]) {
            return walk.end(Outcome::Breaks(broken, walk.path(at)));
        }
        if walk.states.len() > max_states {
            return walk.end(Outcome::TooLarge);
        }
        walk.follow(at);
        at += 1;
    }
    let outcome = match walk.never_at_rest() {
        Some(restless) => Outcome::Breaks(M::NEVER_AT_REST, walk.path(restless)),
        None => Outcome::Holds,
    };
    walk.end(outcome)
}

impl<M: Model> Traversal<'_, M> {
    fn follow(&mut self, at: usize) {
        let (steps, unfollowed) = self.scope.steps(&self.states[at]);
        self.unfollowed += unfollowed;
        for step in steps {
            let to = self.reach(&step.to, number(at));
            if step.fault.is_none() {
                self.steps.push((number(at), to));
            }
        }
    }

    fn reach(&mut self, state: &M::State, parent: u32) -> u32 {
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
        (0..self.states.len()).filter(|&index| self.scope.is_quiet(&self.states[index]))
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

    fn path(&self, to: usize) -> Path<M::State> {
        let (mut steps, mut states) = (Vec::new(), Vec::new());
        let mut at = to;
        while let Some(&parent) = self.parents.get(at).filter(|&&parent| parent != u32::MAX) {
            let (all, _) = self.scope.steps(&self.states[parent as usize]);
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

    fn end(&self, outcome: Outcome<M::Broken, M::State>) -> SearchOf<M> {
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
