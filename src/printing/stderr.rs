//! Lines for stderr, written by a separate thread. If the reader is slow or gone, or the disk is full, only log lines
//! are lost: the program continues. The thread counts lost lines, and logs their number.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use crate::config;

static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Starts the thread. The thread also calls `periodic` about once a second, unless a write blocks.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(periodic: impl Fn() + Send + 'static) -> io::Result<()> {
    let queue = QUEUE.get_or_init(Arc::default).clone();
    std::thread::Builder::new().name("log".into()).spawn(move || queue.write_lines(&periodic)).map(drop)
}

/// Writes one line; no log filter applies.
pub fn line(text: &str) {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(b'\n');
    enqueue(bytes);
}

/// Waits until the queue is written, at most for `LOG_FLUSH_TIMEOUT`.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(config::LOG_FLUSH_TIMEOUT);
    }
}

/// Whether lines may have colours.
#[must_use]
pub fn takes_colours() -> bool {
    io::stderr().is_terminal() && !super::are_colours_unwanted()
}

/// A writer for `tracing`, which writes one line with each call.
#[derive(Clone, Copy)]
pub struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        enqueue(line.to_vec());
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

fn enqueue(line: Vec<u8>) {
    match QUEUE.get() {
        Some(queue) => queue.push(line),
        // Before `start` the line is written at once. If this fails, the line is lost.
        None => drop(super::write_whole(&mut io::stderr().lock(), &line)),
    }
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// Notified when there is a line to write.
    has_line: Condvar,
    /// Notified when all lines are written.
    is_empty: Condvar,
}

#[derive(Default)]
struct State {
    /// The first line stays until it is written.
    lines: VecDeque<Arc<[u8]>>,
    bytes: usize,
    /// Lost lines since the last log line that reported a number of lost lines.
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
        self.has_line.notify_one();
    }

    fn write_lines(&self, periodic: &impl Fn()) {
        let mut is_cut = false;
        let mut last_call = Instant::now();
        loop {
            if let Some(line) = self.next() {
                let outcome = write_line(&line, is_cut);
                is_cut = outcome.is_err_and(|written| written > 0 || is_cut);
                self.written(&line, outcome.is_ok());
            }
            if last_call.elapsed() >= config::LOG_REPEATS_CHECK_INTERVAL {
                last_call = Instant::now();
                periodic();
            }
        }
    }

    /// The line to write; `None` after a second without one.
    fn next(&self) -> Option<Arc<[u8]>> {
        let state = self.state();
        let is_idle = |state: &mut State| state.lines.is_empty();
        let waited = self.has_line.wait_timeout_while(state, config::LOG_REPEATS_CHECK_INTERVAL, is_idle);
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

    fn flush(&self, timeout: Duration) {
        let is_busy = |state: &mut State| !state.lines.is_empty();
        drop(self.is_empty.wait_timeout_while(self.state(), timeout, is_busy));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a line; starts with a line end if the line before was only partly written. The error is the number of bytes
/// that were written.
fn write_line(line: &[u8], is_cut: bool) -> Result<(), usize> {
    let mut stderr = io::stderr().lock();
    if is_cut {
        super::write_whole(&mut stderr, b"\n").map_err(|(written, _)| written)?;
    }
    super::write_whole(&mut stderr, line).map_err(|(written, _)| written)
}
