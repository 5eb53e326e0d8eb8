//! Counts the requests and replies ("chunks") that pass the proxies of a test, and causes a fault at one of them. The
//! proxy does not pass this chunk on.

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
    fault: Option<(usize, MeterFault)>,
    /// The chunk at which the fault happened.
    hit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeterFault {
    /// Cuts the chunk's connection.
    Cut,
    /// Kills the process with this id.
    Kill(i32),
}

impl Meter {
    /// Starts counting at 1, and causes a fault at the chunk with the given number.
    pub fn start(&self, fault: Option<(usize, MeterFault)>) {
        *self.count.lock().unwrap() = Count { is_running: true, passed: 0, fault, hit: None };
    }

    /// Stops counting; returns how many chunks have passed.
    pub fn stop(&self) -> usize {
        let mut count = self.count.lock().unwrap();
        count.is_running = false;
        count.passed
    }

    /// The chunk at which the fault happened, if it has happened.
    pub fn hit(&self) -> Option<String> {
        self.count.lock().unwrap().hit.clone()
    }

    /// Counts a chunk; returns whether it may pass.
    pub(super) fn lets_pass(&self, direction: &str, bytes: &[u8]) -> bool {
        let mut count = self.count.lock().unwrap();
        count.passed += usize::from(count.is_running);
        let Some((at, fault)) = count.fault else { return true };
        if !count.is_running || count.hit.is_some() || count.passed != at {
            return true;
        }
        if let MeterFault::Kill(pid) = fault {
            signal(pid, Signal::SIGKILL);
        }
        let text: String =
            String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(80).collect();
        count.hit = Some(format!("{direction} {text}"));
        false
    }
}
