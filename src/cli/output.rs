//! Text on stdout: lines, columns, and server text made fit for a terminal. What the lines say is
//! each command's own business.

use serde_json::Value;

use crate::printing;

/// Prints one line.
pub fn print_line(line: &str) -> anyhow::Result<()> {
    Ok(printing::to_stdout(&format!("{line}\n"))?)
}

/// The text in one line without control characters, which could drive a terminal.
pub fn plain(text: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    text.trim_end().chars().map(visible).collect()
}

/// A field for people: text as it is, `-` where the field is missing or null, differences between the stores in words.
pub fn field(body: &Value, name: &str) -> String {
    match &body[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
        Value::Array(differences)
            if differences.iter().any(|difference| difference["postgres"].is_string()) =>
        {
            differences.iter().map(difference).collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    }
}

/// A field of a coupon that the two stores have otherwise: `total: 10 in Postgres, 110 in Redis`.
fn difference(difference: &Value) -> String {
    let [name, postgres, redis] = ["field", "postgres", "redis"].map(|name| field(difference, name));
    format!("{name}: {postgres} in Postgres, {redis} in Redis")
}

/// Left-aligned columns, the last one ragged.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
