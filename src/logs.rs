//! Sets up logging: which lines are said (the filter, and `repeats`), in which format, and that a panic is a line of
//! the log like any other. Where the lines go is `printing`'s work.

mod repeats;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, registry};

use crate::config::LogFormat;
use crate::printing::stderr::{self, Lines};
use repeats::{Repeats, Shared};

/// A line at `info` where what happens is part of a normal start, at `warn` where it is not.
macro_rules! info_or_warn {
    ($is_normal:expr, $($line:tt)+) => {
        if $is_normal { tracing::info!($($line)+) } else { tracing::warn!($($line)+) }
    };
}
pub(crate) use info_or_warn;

/// Writes what is left to write when it is dropped, also by a panic.
#[must_use]
pub struct Logs {
    repeats: Arc<Repeats>,
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.repeats.sum_up_at_end();
        stderr::flush();
    }
}

/// Reads a filter such as `info,seckill::fence=debug`.
///
/// # Errors
/// In a sentence, when it is no filter.
pub fn filter(text: &str) -> Result<EnvFilter, String> {
    // What sqlx calls information and fred a warning are our reconnects; who wants them says so in the filter.
    EnvFilter::try_new(format!("sqlx=warn,fred=error,{text}"))
        .map_err(|error| format!("SECKILL_LOG is no tracing filter: {error}"))
}

/// Logs go to stderr from here on; dropping what is returned writes the last lines.
///
/// # Errors
/// When the process logs already, or the system has no thread to give.
pub fn start(filter: EnvFilter, format: LogFormat) -> anyhow::Result<Logs> {
    let repeats = Arc::new(Repeats::default());
    let sums = repeats.clone();
    let layer = fmt::layer()
        .with_writer(Lines)
        .with_ansi(stderr::takes_colours())
        // Else tracing would tell of a writer's error by a macro that panics.
        .log_internal_errors(false);
    let layer = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    };
    tracing::subscriber::set_global_default(
        registry().with(layer).with(filter).with(Shared(repeats.clone())),
    )?;
    stderr::start(move || sums.sum_up())?;
    panic::set_hook(Box::new(move |panic| log_panic(panic, format)));
    Ok(Logs { repeats })
}

/// A line in the words of tracing's JSON, for what is said whatever the filter.
#[must_use]
pub fn json_line(level: &str, target: &str, fields: &serde_json::Value) -> String {
    let line = serde_json::json!({"timestamp": now(), "level": level, "fields": fields, "target": target});
    line.to_string()
}

/// The usual hook waits for the reader of stderr. Without tracing, which may be where the panic is.
fn log_panic(panic: &PanicHookInfo<'_>, format: LogFormat) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let why = panic.payload_as_str().unwrap_or("it does not say why");
    let message = format!("a panic at {place}: {why}");
    stderr::line(&match format {
        LogFormat::Text => format!("{} ERROR {}: {message}", now(), module_path!()),
        LogFormat::Json => json_line("ERROR", module_path!(), &serde_json::json!({"message": message})),
    });
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        stderr::line(&trace.to_string());
    }
}

fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}
