//! Holds the first request that contains the given texts, or cuts its connection.

use std::sync::{Arc, Condvar, Mutex};

use super::Request;
use crate::wait::until;

/// What happens to the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrapAction {
    /// Not sent, and its connection waits, until the trap is released.
    Hold,
    /// Sent and executed; its reply, and all later ones of its connection, wait until the trap is released.
    HoldReply,
    /// Not sent; its connection is cut.
    Cut,
    /// Sent and executed; its connection is cut before the reply.
    CutReply,
}

/// Takes one request. A drop sends the request that the trap holds.
pub struct Trap {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    needles: Vec<String>,
    pub action: TrapAction,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Set,
    Taken,
    /// Released, cut, or executed and cut.
    Done,
    /// The held request is never sent.
    Discarded,
}

impl Trap {
    pub(super) fn new(needles: &[&str], action: TrapAction) -> Self {
        let needles = needles.iter().map(|needle| (*needle).to_owned()).collect();
        let (state, changed) = (Mutex::new(State::Set), Condvar::new());
        Self { shared: Arc::new(Shared { needles, action, state, changed }) }
    }

    /// Waits until the trap holds a request.
    pub async fn until_taken(&self) {
        self.until(State::Taken).await;
    }

    /// Waits until the trap has cut its connection.
    pub async fn until_done(&self) {
        self.until(State::Done).await;
    }

    async fn until(&self, state: State) {
        let what = format!("the proxy gets {:?}", self.shared.needles);
        until(&what, async || (*self.shared.state.lock().unwrap() == state).then_some(())).await;
    }

    pub fn release(self) {
        drop(self);
    }

    /// Drops the held request, as if it had been lost with its sender.
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

    /// Takes the request if the trap is still set and the request contains the needles.
    pub fn takes(&self, request: &Request) -> bool {
        let mut state = self.state.lock().unwrap();
        let takes = *state == State::Set && request.matches(&self.needles);
        if takes {
            *state = State::Taken;
        }
        takes
    }

    /// Waits; returns whether the request must be sent.
    pub fn wait_for_release(&self) -> bool {
        let state = self.state.lock().unwrap();
        let state = self.changed.wait_while(state, |state| *state == State::Taken).unwrap();
        *state == State::Done
    }
}
