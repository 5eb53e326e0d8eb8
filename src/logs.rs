//! Sets up logging: which lines are logged (the filter, and `repeats`), their format, and panics as lines of the same
//! log. Writing the lines to stderr is in `printing`.

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

/// Logs at `info` when the event is part of a normal start, at `warn` otherwise.
macro_rules! info_or_warn {
    ($is_normal:expr, $($line:tt)+) => {
        if $is_normal { tracing::info!($($line)+) } else { tracing::warn!($($line)+) }
    };
}
pub(crate) use info_or_warn;

/// Logs one step in the life of an order, with the order's id in the field `order`. At `debug` and with a target of its
/// own, because a sale has thousands of them a second: `SECKILL_LOG=info,seckill::order=debug` shows them.
macro_rules! order_step {
    ($order:expr, $($line:tt)+) => {
        tracing::debug!(target: "seckill::order", order = %$order, $($line)+)
    };
}
pub(crate) use order_step;

/// Whether the log shows the steps of orders: a batch then takes the time to go through its orders.
#[must_use]
pub fn shows_order_steps() -> bool {
    tracing::enabled!(target: "seckill::order", tracing::Level::DEBUG)
}

/// The running logging. Dropping this value writes the last lines, also during a panic.
#[must_use]
pub struct Logs {
    repeats: Arc<Repeats>,
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.repeats.summarise_all();
        stderr::flush();
    }
}

/// Parses a filter such as `info,seckill::fence=debug`.
///
/// # Errors
/// With a sentence, when the text is not a filter of `tracing`.
pub fn filter(text: &str) -> Result<EnvFilter, String> {
    // sqlx logs reconnects at info, fred at warn. The user's filter follows and may show them again.
    EnvFilter::try_new(format!("sqlx=warn,fred=error,{text}"))
        .map_err(|error| format!("SECKILL_LOG is not a tracing filter: {error}"))
}

/// Starts logging to stderr.
///
/// # Errors
/// When this process logs already, or the thread that writes cannot be started.
pub fn start(filter: EnvFilter, format: LogFormat) -> anyhow::Result<Logs> {
    let repeats = Arc::new(Repeats::default());
    let summaries = repeats.clone();
    let layer = fmt::layer()
        .with_writer(Lines)
        .with_ansi(stderr::takes_colours())
        // Otherwise tracing would report a write error with a macro that panics.
        .log_internal_errors(false);
    let layer = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    };
    tracing::subscriber::set_global_default(
        registry().with(layer).with(filter).with(Shared(repeats.clone())),
    )?;
    stderr::start(move || summaries.summarise())?;
    panic::set_hook(Box::new(move |panic| log_panic(panic, format)));
    Ok(Logs { repeats })
}

/// A line in the JSON format of `tracing`, for lines that no filter hides.
#[must_use]
pub fn json_line(level: &str, target: &str, fields: &serde_json::Value) -> String {
    let line = serde_json::json!({"timestamp": now(), "level": level, "fields": fields, "target": target});
    line.to_string()
}

/// Logs a panic; the default hook would block on a slow reader of stderr. Does not use tracing: the panic may be in
/// tracing.
fn log_panic(panic: &PanicHookInfo<'_>, format: LogFormat) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let reason = panic.payload_as_str().unwrap_or("no message");
    let message = format!("a panic at {place}: {reason}");
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
