//! Keeps a storm from filling the log: of lines that come from one place in the sources only the first few are shown,
//! the rest is counted, and one line says how many there were and what the last one said. Lines below `info` are for
//! those who ask for all of them.

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

/// What was said lately, by its place in the sources.
#[derive(Default)]
pub struct Repeats {
    places: Mutex<HashMap<Identifier, Place>>,
}

/// As a layer of tracing's, over that which writes the lines.
pub struct Shared(pub Arc<Repeats>);

struct Place {
    metadata: &'static Metadata<'static>,
    window: Window,
    left_out: Option<LeftOut>,
}

/// Lines that were not shown since that was last told.
struct LeftOut {
    since: Instant,
    count: u64,
    last: String,
}

/// How many lines came in the last seconds.
struct Window {
    began: Instant,
    lines: u64,
    /// The window before had too many: none is shown until one passes that has not.
    in_storm: bool,
}

/// Several lines in one.
struct Sum {
    level: Level,
    target: &'static str,
    lines: u64,
    seconds: u64,
    last: String,
}

impl Repeats {
    /// Says what was left out at least a window ago; called once in a while.
    pub fn sum_up(&self) {
        self.take_sums(Instant::now(), config::LOG_REPEATS_WINDOW).iter().for_each(Sum::say);
    }

    /// Says all that was left out.
    pub fn sum_up_at_end(&self) {
        self.take_sums(Instant::now(), Duration::ZERO).iter().for_each(Sum::say);
    }

    /// Whether this line is shown.
    fn note(&self, event: &Event<'_>, now: Instant) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == module_path!() {
            return true;
        }
        let mut places = self.places();
        let place = places.entry(metadata.callsite()).or_insert_with(|| Place::new(metadata, now));
        let is_shown = place.window.admits(now);
        if !is_shown {
            let left_out = place.left_out.get_or_insert_with(|| LeftOut::none(now));
            left_out.count += 1;
            left_out.last = message(event);
        }
        is_shown
    }

    fn take_sums(&self, now: Instant, age: Duration) -> Vec<Sum> {
        let mut sums = Vec::new();
        for place in self.places().values_mut() {
            if let Some(left_out) = place.left_out.take_if(|left_out| now - left_out.since >= age) {
                sums.push(Sum {
                    level: *place.metadata.level(),
                    target: place.metadata.target(),
                    lines: left_out.count,
                    seconds: (now - left_out.since).as_secs().max(1),
                    last: left_out.last,
                });
            }
        }
        sums
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Identifier, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Shared {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.note(event, Instant::now())
    }
}

impl Place {
    fn new(metadata: &'static Metadata<'static>, now: Instant) -> Self {
        Self { metadata, window: Window::new(now), left_out: None }
    }
}

impl LeftOut {
    fn none(now: Instant) -> Self {
        Self { since: now, count: 0, last: String::new() }
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { began: now, lines: 0, in_storm: false }
    }

    /// Counts a line; whether it is one of the few that are shown.
    fn admits(&mut self, now: Instant) -> bool {
        let age = now - self.began;
        if age >= config::LOG_REPEATS_WINDOW {
            let went_on = age < 2 * config::LOG_REPEATS_WINDOW;
            *self =
                Self { in_storm: went_on && self.lines > config::LOG_REPEATS_MAX_LINES, ..Self::new(now) };
        }
        self.lines += 1;
        !self.in_storm && self.lines <= config::LOG_REPEATS_MAX_LINES
    }
}

impl Sum {
    fn say(&self) {
        let Self { level, target, lines, .. } = self;
        match *level {
            Level::ERROR => tracing::error!(repeats = lines, of = target, "{self}"),
            Level::WARN => tracing::warn!(repeats = lines, of = target, "{self}"),
            _ => tracing::info!(repeats = lines, of = target, "{self}"),
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lines, seconds, last, .. } = self;
        write!(f, "{lines} more lines like this one in {seconds} s: {last}")
    }
}

/// What the line says, without its fields.
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

    /// How many of so many lines at once are shown.
    fn admitted(window: &mut Window, lines: u64, now: Instant) -> u64 {
        (0..lines).map(|_| u64::from(window.admits(now))).sum()
    }

    #[test]
    fn a_few_lines_are_all_shown_for_as_long_as_they_come() {
        let start = Instant::now();
        let mut window = Window::new(start);
        for round in 0..5 {
            assert_eq!(admitted(&mut window, SHOWN, start + WINDOW * round), SHOWN);
        }
    }

    #[test]
    fn a_storm_shows_its_first_lines_and_is_over_after_a_quiet_window() {
        let start = Instant::now();
        let mut window = Window::new(start);
        assert_eq!(admitted(&mut window, 1_000, start), SHOWN);
        assert_eq!(admitted(&mut window, 1_000, start + WINDOW), 0);
        assert_eq!(admitted(&mut window, 1, start + 2 * WINDOW), 0);
        assert_eq!(admitted(&mut window, 1_000, start + 3 * WINDOW), SHOWN);
        assert_eq!(admitted(&mut window, 1_000, start + 6 * WINDOW), SHOWN);
    }
}
