//! What was measured, as a table for people and as JSON for whoever compares runs.

use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::Rate;

#[derive(Serialize)]
pub struct Report {
    pub seckill: &'static str,
    pub cores: usize,
    pub quick: bool,
    pub figures: Vec<Figure>,
}

/// One line.
#[derive(Serialize)]
pub struct Figure {
    pub scenario: &'static str,
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
}

impl Report {
    pub fn add(&mut self, scenario: &'static str, what: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { scenario, what: what.into(), value, unit });
    }

    pub fn rate(&mut self, scenario: &'static str, what: impl Into<String>, rate: Rate) {
        self.add(scenario, what, rate.per_second(), "/s");
    }

    pub fn value(&self, scenario: &str, what: &str) -> Option<f64> {
        self.figures.iter().find(|f| f.scenario == scenario && f.what == what).map(|figure| figure.value)
    }

    /// How one figure stands to another, where both were measured.
    pub fn ratio(&mut self, scenario: &'static str, what: &str, to: (&str, &str)) {
        if let (Some(value), Some(of)) = (self.value(scenario, what), self.value(to.0, to.1)) {
            self.add(scenario, format!("{what} ÷ {} {}", to.0, to.1), value / of, "");
        }
    }

    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["scenario", "figure", "value", ""]);
        if let Some(column) = table.column_mut(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut last = "";
        for Figure { scenario, what, value, unit } in &self.figures {
            let name = if last == *scenario { "" } else { scenario };
            last = scenario;
            table.add_row([name.to_owned(), what.clone(), number(*value), (*unit).to_owned()]);
        }
        table.to_string()
    }
}

/// Three digits that say something, thousands apart.
fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_as_long_as_they_are_worth_reading() {
        let shown = [
            (0.716, "0.72"),
            (99.9, "99.90"),
            (100.4, "100"),
            (26_385.2, "26,385"),
            (1_234_567.0, "1,234,567"),
        ];
        for (value, text) in shown {
            assert_eq!(number(value), text);
        }
    }
}
