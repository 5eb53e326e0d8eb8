//! Text on stdout: lines, columns, and text of the server without control characters. The commands write the texts.

use serde_json::Value;

use crate::printing;

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

/// Columns below a heading, one row for each item.
pub fn table<const N: usize>(
    heading: [&str; N],
    items: &[Value],
    row: impl Fn(&Value) -> [String; N],
) -> String {
    let rows = items.iter().map(|item| row(item).to_vec());
    columns(&std::iter::once(heading.map(str::to_owned).to_vec()).chain(rows).collect::<Vec<_>>())
}

/// Left-aligned columns, without blanks at the end of a line.
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
