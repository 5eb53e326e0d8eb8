//! Limits repeated log lines. Of the lines of one source location, the first few in each time window are shown. Further
//! lines are counted, and a summary line gives their number and the text of the last one. Lines below `info` are not
//! limited.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::config;

/// The recent lines of each source location.
#[derive(Default)]
pub struct Repeats {
    locations: Mutex<HashMap<Identifier, Location>>,
}

/// The shared limits as a layer of `tracing`, above the layer that writes the lines.
pub struct Shared(pub Arc<Repeats>);

struct Location {
    metadata: &'static Metadata<'static>,
    window: Window,
    suppressed: Option<Suppressed>,
}

/// Lines that were not shown since the last summary.
struct Suppressed {
    since: Instant,
    count: u64,
    last: String,
}

/// Counts the lines of one time window.
struct Window {
    began: Instant,
    lines: u64,
    /// The window before had too many lines: no further line is shown until a window has few enough.
    follows_full: bool,
}

/// The line that replaces suppressed lines.
struct Summary {
    level: Level,
    target: &'static str,
    lines: u64,
    seconds: u64,
    last: String,
}

impl Repeats {
    /// Logs the summaries of lines that have been suppressed for at least one window. To be called about once a second.
    pub fn summarise(&self) {
        self.take_summaries(Instant::now(), config::LOG_REPEATS_WINDOW).iter().for_each(Summary::log);
    }

    /// Logs all summaries.
    pub fn summarise_all(&self) {
        self.take_summaries(Instant::now(), Duration::ZERO).iter().for_each(Summary::log);
    }

    /// Counts this line; `false` if the line is suppressed.
    fn count(&self, event: &Event<'_>, now: Instant) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == module_path!() {
            return true;
        }
        let mut locations = self.locations();
        let location = locations.entry(metadata.callsite()).or_insert_with(|| Location::new(metadata, now));
        let is_shown = location.window.admits(now);
        if !is_shown {
            let suppressed = location.suppressed.get_or_insert_with(|| Suppressed::none(now));
            suppressed.count += 1;
            suppressed.last = message(event);
        }
        is_shown
    }

    fn take_summaries(&self, now: Instant, min_age: Duration) -> Vec<Summary> {
        let mut summaries = Vec::new();
        for location in self.locations().values_mut() {
            if let Some(suppressed) = location.suppressed.take_if(|lines| now - lines.since >= min_age) {
                summaries.push(Summary {
                    level: *location.metadata.level(),
                    target: location.metadata.target(),
                    lines: suppressed.count,
                    seconds: (now - suppressed.since).as_secs().max(1),
                    last: suppressed.last,
                });
            }
        }
        summaries
    }

    fn locations(&self) -> MutexGuard<'_, HashMap<Identifier, Location>> {
        self.locations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Shared {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.count(event, Instant::now())
    }
}

impl Location {
    fn new(metadata: &'static Metadata<'static>, now: Instant) -> Self {
        Self { metadata, window: Window::new(now), suppressed: None }
    }
}

impl Suppressed {
    fn none(now: Instant) -> Self {
        Self { since: now, count: 0, last: String::new() }
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { began: now, lines: 0, follows_full: false }
    }

    /// Counts a line; `true` if the line is shown.
    fn admits(&mut self, now: Instant) -> bool {
        let age = now - self.began;
        if age >= config::LOG_REPEATS_WINDOW {
            let is_next = age < 2 * config::LOG_REPEATS_WINDOW;
            let was_full = self.lines > config::LOG_REPEATS_MAX_LINES;
            *self = Self { follows_full: is_next && was_full, ..Self::new(now) };
        }
        self.lines += 1;
        !self.follows_full && self.lines <= config::LOG_REPEATS_MAX_LINES
    }
}

impl Summary {
    fn log(&self) {
        let Self { level, target, lines, .. } = self;
        match *level {
            Level::ERROR => tracing::error!(repeats = lines, of = target, "{self}"),
            Level::WARN => tracing::warn!(repeats = lines, of = target, "{self}"),
            _ => tracing::info!(repeats = lines, of = target, "{self}"),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lines, seconds, last, .. } = self;
        write!(f, "{lines} more lines like this one in {seconds} s: {last}")
    }
}

/// The text of the line without its fields.
fn message(event: &Event<'_>) -> String {
    let mut message = Message(String::new());
    event.record(&mut message);
    message.0
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SHOWN: u64 = config::LOG_REPEATS_MAX_LINES;
    const WINDOW: Duration = config::LOG_REPEATS_WINDOW;

    /// How many of these lines are shown when they come at the same time.
    fn admitted(window: &mut Window, lines: u64, now: Instant) -> u64 {
        (0..lines).map(|_| u64::from(window.admits(now))).sum()
    }

    #[test]
    fn few_lines_in_each_window_are_all_shown() {
        let start = Instant::now();
        let mut window = Window::new(start);
        for round in 0..5 {
            assert_eq!(admitted(&mut window, SHOWN, start + WINDOW * round), SHOWN);
        }
    }

    #[test]
    fn of_many_lines_the_first_are_shown_and_again_after_a_quiet_window() {
        let start = Instant::now();
        let mut window = Window::new(start);
        assert_eq!(admitted(&mut window, 1_000, start), SHOWN);
        assert_eq!(admitted(&mut window, 1_000, start + WINDOW), 0);
        assert_eq!(admitted(&mut window, 1, start + 2 * WINDOW), 0);
        assert_eq!(admitted(&mut window, 1_000, start + 3 * WINDOW), SHOWN);
        assert_eq!(admitted(&mut window, 1_000, start + 6 * WINDOW), SHOWN);
    }
}
