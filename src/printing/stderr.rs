//! Lines for stderr, written by a thread of their own: a reader that has gone, is slow or stands still, and a disk
//! that is full, cost lines of the log and nothing else. Lines that were lost are counted and told of.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use crate::config;

static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Starts the thread, which also calls `tick` about once a second while lines can be written.
///
/// # Errors
/// When the system has no thread to give.
pub fn start(tick: impl Fn() + Send + 'static) -> io::Result<()> {
    let queue = QUEUE.get_or_init(Arc::default).clone();
    std::thread::Builder::new().name("log".into()).spawn(move || queue.write_for_ever(&tick)).map(drop)
}

/// Says one line, whatever the log filter.
pub fn line(text: &str) {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(b'\n');
    say(bytes);
}

/// Waits until what was said is written, for a moment.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(config::LOG_FLUSH_TIMEOUT);
    }
}

/// Whether lines may hold colours.
#[must_use]
pub fn takes_colours() -> bool {
    io::stderr().is_terminal() && !super::are_colours_unwanted()
}

/// A writer for tracing: what is written at once is one line.
#[derive(Clone, Copy)]
pub struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        say(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

fn say(line: Vec<u8>) {
    match QUEUE.get() {
        Some(queue) => queue.push(line),
        // Before the start there is no sale to hold up; a line that cannot be written is lost.
        None => drop(super::write_whole(&mut io::stderr().lock(), &line)),
    }
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// There is a line to write.
    waits: Condvar,
    /// All lines are written.
    is_empty: Condvar,
}

#[derive(Default)]
struct State {
    /// The first one is being written.
    lines: VecDeque<Arc<[u8]>>,
    bytes: usize,
    /// Lines that were not written since that was last told.
    lost: u64,
}

impl Queue {
    fn push(&self, line: Vec<u8>) {
        let mut state = self.state();
        if state.bytes + line.len() > config::LOG_QUEUE_MAX_BYTES {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.into());
        self.waits.notify_one();
    }

    fn write_for_ever(&self, tick: &impl Fn()) {
        let mut is_cut = false;
        let mut ticked = Instant::now();
        loop {
            if let Some(line) = self.next() {
                let outcome = write_line(&line, is_cut);
                is_cut = outcome.is_err_and(|written| written > 0 || is_cut);
                self.written(&line, outcome.is_ok());
            }
            if ticked.elapsed() >= config::LOG_REPEATS_CHECK_INTERVAL {
                ticked = Instant::now();
                tick();
            }
        }
    }

    /// The line to write, after at most a tick.
    fn next(&self) -> Option<Arc<[u8]>> {
        let state = self.state();
        let is_idle = |state: &mut State| state.lines.is_empty();
        let waited = self.waits.wait_timeout_while(state, config::LOG_REPEATS_CHECK_INTERVAL, is_idle);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.lines.front().cloned()
    }

    fn written(&self, line: &[u8], is_written: bool) {
        let mut state = self.state();
        state.lines.pop_front();
        state.bytes -= line.len();
        state.lost += u64::from(!is_written);
        let is_empty = state.lines.is_empty();
        let lost = if is_empty && is_written { std::mem::take(&mut state.lost) } else { 0 };
        drop(state);
        if lost > 0 {
            tracing::warn!(
                lines = lost,
                "{lost} lines of this log were lost: they could not be written in time"
            );
        } else if is_empty {
            self.is_empty.notify_all();
        }
    }

    fn flush(&self, patience: Duration) {
        let is_busy = |state: &mut State| !state.lines.is_empty();
        drop(self.is_empty.wait_timeout_while(self.state(), patience, is_busy));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After a line that was cut the next one begins anew. The error is how much was written.
fn write_line(line: &[u8], is_cut: bool) -> Result<(), usize> {
    let mut stderr = io::stderr().lock();
    if is_cut {
        super::write_whole(&mut stderr, b"\n").map_err(|(written, _)| written)?;
    }
    super::write_whole(&mut stderr, line).map_err(|(written, _)| written)
}
