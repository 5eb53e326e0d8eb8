//! What a test sets for one request: the fate of the first that contains its texts.

use std::sync::{Arc, Condvar, Mutex};

use super::Request;
use crate::wait::until;

/// What happens to the first request that contains a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Its connection waits, the request unsent, until the trap is released.
    Hold,
    /// Its connection breaks, the request unsent.
    Cut,
    /// The store executes it; its connection breaks instead of carrying the reply.
    CutReply,
}

/// One request's fate. Dropped, it lets the request go.
pub struct Trap {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    needles: Vec<String>,
    pub act: Act,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Set,
    Taken,
    /// The act is over: released, cut, or executed and cut.
    Done,
    /// Held for ever: it is never sent.
    Discarded,
}

impl Trap {
    pub(super) fn new(needles: &[&str], act: Act) -> Self {
        let needles = needles.iter().map(|needle| (*needle).to_owned()).collect();
        let (state, changed) = (Mutex::new(State::Set), Condvar::new());
        Self { shared: Arc::new(Shared { needles, act, state, changed }) }
    }

    /// Waits until a request is held here.
    pub async fn until_taken(&self) {
        self.until(State::Taken).await;
    }

    /// Waits until the connection is cut.
    pub async fn until_done(&self) {
        self.until(State::Done).await;
    }

    async fn until(&self, state: State) {
        let what = format!("the proxy sees {:?}", self.shared.needles);
        until(&what, async || (*self.shared.state.lock().unwrap() == state).then_some(())).await;
    }

    pub fn release(self) {
        drop(self);
    }

    /// The held request is never sent, as if it had been lost with its sender.
    pub fn discard(self) {
        self.shared.end(State::Discarded);
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.shared.done();
    }
}

impl Shared {
    pub fn done(&self) {
        self.end(State::Done);
    }

    fn end(&self, how: State) {
        let mut state = self.state.lock().unwrap();
        if *state != State::Discarded {
            *state = how;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Takes the request if the trap is still set and the request is the one.
    pub fn takes(&self, request: &Request) -> bool {
        let mut state = self.state.lock().unwrap();
        let takes = *state == State::Set && request.is_meant_by(&self.needles);
        if takes {
            *state = State::Taken;
        }
        takes
    }

    /// Whether the request is to be sent after all.
    pub fn wait_for_release(&self) -> bool {
        let state = self.state.lock().unwrap();
        let state = self.changed.wait_while(state, |state| *state == State::Taken).unwrap();
        *state == State::Done
    }
}
