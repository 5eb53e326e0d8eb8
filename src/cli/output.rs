//! Text on stdout: lines, columns that fit the terminal, colours, and text of the server without control characters. The
//! commands write the texts.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::config;
use crate::printing;

/// A colour or a weight of a terminal (ECMA-48, SGR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
}

impl Colour {
    pub fn paint(self, text: &str, in_colour: bool) -> String {
        if in_colour { format!("\x1b[{}m{text}\x1b[0m", self as u8) } else { text.to_owned() }
    }
}

/// Waits for work; on a terminal it shows after two seconds that it waits, and for how long.
pub async fn with_spinner<T>(what: &'static str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(config::CLI_SPINNER_AFTER, &mut work).await {
        return done;
    }
    let spinner = ProgressBar::new_spinner().with_message(what).with_elapsed(config::CLI_SPINNER_AFTER);
    spinner.set_style(spinner_style());
    spinner.enable_steady_tick(config::CLI_SPINNER_TICK);
    let done = work.await;
    spinner.finish_and_clear();
    done
}

/// Waits for work of `total` bytes, of which `done` are done; on a terminal it shows after two seconds how far it is.
pub async fn with_bar<T>(
    what: &'static str,
    total: u64,
    done: &AtomicU64,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(config::CLI_SPINNER_AFTER, &mut work).await {
        return done;
    }
    let bar = ProgressBar::new(total).with_message(what).with_elapsed(config::CLI_SPINNER_AFTER);
    let style = ProgressStyle::with_template("{wide_bar} {percent}% {msg}, {bytes}/{total_bytes}, {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut ticks = tokio::time::interval(config::CLI_SPINNER_TICK);
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            _ = ticks.tick() => bar.set_position(done.load(Ordering::Relaxed)),
        }
    }
}

fn spinner_style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
    style.unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Prints one line.
pub fn print_line(line: &str) -> anyhow::Result<()> {
    Ok(printing::to_stdout(&format!("{line}\n"))?)
}

/// The text on one line, without control characters, which a terminal would interpret.
pub fn single_line(text: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    text.trim_end().chars().map(visible).collect()
}

/// A field as text: `-` if it is missing or null, and differences between the stores as a list.
pub fn field(body: &Value, name: &str) -> String {
    match &body[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => single_line(text),
        Value::Array(differences)
            if differences.iter().any(|difference| difference["postgres"].is_string()) =>
        {
            differences.iter().map(difference).collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    }
}

/// A field of a coupon that differs between the stores: `total: 10 in Postgres, 110 in Redis`.
fn difference(difference: &Value) -> String {
    let [name, postgres, redis] = ["field", "postgres", "redis"].map(|name| field(difference, name));
    format!("{name}: {postgres} in Postgres, {redis} in Redis")
}

/// A row of `columns` with a name and its value.
pub fn named_row(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}

/// Columns below a heading, one row for each item. On a terminal long texts are wrapped, and ids stay whole.
pub fn table<const N: usize>(
    heading: [&str; N],
    items: &[Value],
    row: impl Fn(&Value) -> [String; N],
) -> String {
    let rows: Vec<Vec<String>> = items.iter().map(|item| row(item).to_vec()).collect();
    let wraps = heading.map(|name| WRAPPED.contains(&name));
    let layout = Layout { width_columns: printing::stdout_width_columns(), wraps: &wraps };
    layout.render(Some(&heading), &rows, printing::stdout_takes_colours())
}

/// Headings of the columns that may be wrapped.
const WRAPPED: [&str; 5] = ["TITLE", "ERROR", "CHANGES", "USER", "WHY"];

/// Left-aligned columns, without blanks at the end of a line. On a terminal the last column is wrapped.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut wraps = vec![false; count];
    if let Some(last) = wraps.last_mut() {
        *last = true;
    }
    Layout { width_columns: printing::stdout_width_columns(), wraps: &wraps }.render(None, rows, false)
}

/// How columns are laid out.
pub struct Layout<'a> {
    /// The terminal's width; `None` for a pipe, whose lines are never wrapped.
    pub width_columns: Option<u16>,
    /// For each column, whether its texts may be wrapped. If none may, all may.
    pub wraps: &'a [bool],
}

impl Layout<'_> {
    /// Whether enough of the terminal is left for texts that are wrapped. Otherwise the terminal wraps whole lines, which
    /// is easier to read than a column of letters.
    fn fits(&self, width_columns: u16, heading: Option<&[&str]>, rows: &[Vec<String>]) -> bool {
        let width_of = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).flat_map(|cell| cell.lines());
            let heading = heading.and_then(|heading| heading.get(column)).copied();
            cells.chain(heading).map(|line| line.chars().count()).max().unwrap_or(0)
        };
        let needed = self.wraps.iter().enumerate().map(|(column, &wraps)| {
            let width = width_of(column);
            2 + if wraps { width.min(config::CLI_WRAPPED_MIN_COLUMNS) } else { width }
        });
        !self.wraps.contains(&true) || needed.sum::<usize>() <= usize::from(width_columns) + 2
    }

    pub fn render(&self, heading: Option<&[&str]>, rows: &[Vec<String>], in_colour: bool) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if let Some(heading) = heading {
            table.set_header(heading.iter().copied());
        }
        table.add_rows(rows.iter().cloned());
        if let Some(columns) = self.width_columns.filter(|columns| self.fits(*columns, heading, rows)) {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
            let any = self.wraps.contains(&true);
            for (column, &wraps) in table.column_iter_mut().zip(self.wraps) {
                if any && !wraps {
                    column.set_constraint(ColumnConstraint::ContentWidth);
                }
            }
        }
        // The table style adds blanks at both edges.
        let lines = table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned());
        let lines = lines.enumerate().map(|(number, line)| match heading {
            Some(_) if number == 0 => Colour::Bold.paint(&line, in_colour),
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}
