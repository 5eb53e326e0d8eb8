//! Numbers every request and every reply that passes the proxies of a test, in the order of passing, and
//! strikes at one of them. What is struck is not passed on.

use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;

use crate::process::signal;

/// A handle; clones share one count.
#[derive(Clone, Default)]
pub struct Meter {
    count: Arc<Mutex<Count>>,
}

#[derive(Default)]
struct Count {
    is_running: bool,
    passed: usize,
    strike: Option<(usize, Strike)>,
    /// What was struck.
    struck: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// The chunk's connection is cut.
    Cut,
    /// The process of this id is killed.
    Kill(i32),
}

impl Meter {
    /// Counts from 1 again, to strike at chunk `at` if one is given.
    pub fn start(&self, strike: Option<(usize, Strike)>) {
        *self.count.lock().unwrap() = Count { is_running: true, passed: 0, strike, struck: None };
    }

    /// Ends the count; how many chunks have passed.
    pub fn stop(&self) -> usize {
        let mut count = self.count.lock().unwrap();
        count.is_running = false;
        count.passed
    }

    /// The chunk that was struck, once it has come.
    pub fn struck(&self) -> Option<String> {
        self.count.lock().unwrap().struck.clone()
    }

    /// Counts a chunk; whether it may pass.
    pub(super) fn lets_pass(&self, direction: &str, bytes: &[u8]) -> bool {
        let mut count = self.count.lock().unwrap();
        count.passed += usize::from(count.is_running);
        let Some((at, strike)) = count.strike else { return true };
        if !count.is_running || count.struck.is_some() || count.passed != at {
            return true;
        }
        if let Strike::Kill(pid) = strike {
            signal(pid, Signal::SIGKILL);
        }
        let text: String =
            String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(80).collect();
        count.struck = Some(format!("{direction} {text}"));
        false
    }
}
