//! The report, as a table and as JSON: the median of each figure over the rounds, and its lowest and highest value.

#[cfg(test)]
mod page;

use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::measurements::{Measurement, Measurements};

/// The figures of one bench.
#[derive(Serialize)]
pub struct Report {
    pub seckill: &'static str,
    pub cores: usize,
    pub quick: bool,
    pub figures: Vec<Figure>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// A scenario that this machine cannot run.
#[derive(Serialize)]
pub struct LeftOut {
    pub scenario: &'static str,
    pub why: String,
}

/// One figure of a scenario over all rounds.
#[derive(Serialize)]
pub struct Figure {
    pub scenario: &'static str,
    pub what: String,
    /// The median of the rounds.
    pub value: f64,
    pub low: f64,
    pub high: f64,
    /// How many rounds measured it.
    pub rounds: usize,
    pub unit: &'static str,
}

/// Each figure once, in the order of its first measurement.
pub fn figures(rounds: &[Measurements]) -> Vec<Figure> {
    let mut gathered: Vec<(&Measurement, Vec<f64>)> = Vec::new();
    for measured in rounds.iter().flat_map(|round| &round.measurements) {
        let is_same =
            |first: &Measurement| first.scenario == measured.scenario && first.what == measured.what;
        if let Some((_, values)) = gathered.iter_mut().find(|(first, _)| is_same(first)) {
            values.push(measured.value);
        } else {
            let value = measured.value;
            gathered.push((measured, vec![value]));
        }
    }
    gathered.into_iter().map(|(measured, values)| figure(measured, values)).collect()
}

fn figure(measured: &Measurement, mut values: Vec<f64>) -> Figure {
    values.sort_unstable_by(f64::total_cmp);
    let rounds = values.len();
    // With an odd number of values both are the same.
    let value = f64::midpoint(values[(rounds - 1) / 2], values[rounds / 2]);
    let Measurement { scenario, what, unit, .. } = measured;
    let what = what.clone();
    Figure { scenario, what, value, low: values[0], high: values[rounds - 1], rounds, unit }
}

impl Report {
    pub fn table(&self) -> String {
        let has_spread = self.figures.iter().any(|figure| figure.rounds > 1);
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        let mut header = vec!["scenario", "figure", if has_spread { "median" } else { "value" }, ""];
        header.extend(has_spread.then_some("lowest – highest"));
        table.set_header(header);
        if let Some(column) = table.column_mut(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut last = "";
        for Figure { scenario, what, value, low, high, rounds, unit } in &self.figures {
            let name = if last == *scenario { "" } else { scenario };
            last = scenario;
            let mut row = vec![name.to_owned(), what.clone(), format_value(*value), (*unit).to_owned()];
            if *rounds > 1 {
                row.push(format!("{} – {}", format_value(*low), format_value(*high)));
            }
            table.add_row(row);
        }
        let left_out = self.left_out.iter().map(|out| format!("{} is left out: {}", out.scenario, out.why));
        let lines: Vec<String> = std::iter::once(table.to_string()).chain(left_out).collect();
        lines.join("\n")
    }
}

/// At least three significant digits, with separated thousands.
fn format_value(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.2}") } else { separate_thousands(&format!("{value:.0}")) }
}

/// A count with separated thousands, for the name of a figure.
pub fn format_count(count: usize) -> String {
    separate_thousands(&count.to_string())
}

fn separate_thousands(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round with these values of the figures `a`, `b`, …
    fn round<const N: usize>(values: [f64; N]) -> Measurements {
        let mut results = Measurements::default();
        for (name, value) in ["a", "b", "c"].into_iter().zip(values) {
            results.add("claim", name, value, "/s");
        }
        results
    }

    #[test]
    fn numbers_have_at_least_three_digits_and_separated_thousands() {
        let shown = [
            (0.716, "0.72"),
            (99.9, "99.90"),
            (100.4, "100"),
            (26_385.2, "26,385"),
            (1_234_567.0, "1,234,567"),
        ];
        for (value, text) in shown {
            assert_eq!(format_value(value), text);
        }
        assert_eq!([64, 999, 1_000, 5_000_000].map(format_count), ["64", "999", "1,000", "5,000,000"]);
    }

    #[test]
    fn each_figure_is_the_median_of_its_rounds_beside_the_lowest_and_the_highest() {
        let figures = figures(&[round([3.0, 10.0, 7.0]), round([9.0, 30.0]), round([1.0])]);
        let shown = figures.iter().map(|f| (&*f.what, [f.value, f.low, f.high].map(format_value), f.rounds));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [
                ("a", ["3.00", "1.00", "9.00"].map(str::to_owned), 3),
                ("b", ["20.00", "10.00", "30.00"].map(str::to_owned), 2),
                ("c", ["7.00", "7.00", "7.00"].map(str::to_owned), 1),
            ]
        );
    }

    #[test]
    fn a_ratio_is_computed_in_each_round_before_the_median() {
        // The quotient of the medians would be 1.
        let rounds = [[1.0, 2.0], [2.0, 1.0], [3.0, 1.0]].map(|values| {
            let mut results = round(values);
            results.add_ratio("claim", "a", ("claim", "b"));
            results.add_ratio("claim", "a", ("claim", "absent"));
            results
        });
        let figures = figures(&rounds);
        assert_eq!(figures.len(), 3, "no ratio to a figure that was not measured");
        assert_eq!((&*figures[2].what, format_value(figures[2].value)), ("a ÷ claim b", "2.00".into()));
    }

    #[test]
    fn the_spread_is_shown_with_more_than_one_round() {
        let report = |rounds: &[Measurements]| Report {
            seckill: "",
            cores: 1,
            quick: true,
            figures: figures(rounds),
            left_out: vec![],
        };
        let quick = report(&[round([3.0])]).table();
        assert!(quick.contains("3.00") && !quick.contains('–'), "{quick}");
        let full = report(&[round([3.0]), round([200.0]), round([1.0])]).table();
        assert!(full.contains("1.00 – 200"), "{full}");
    }

    #[test]
    fn scenarios_that_were_left_out_are_below_the_table_and_in_the_json() {
        let left_out = vec![LeftOut { scenario: "optimistic-lock", why: "install it".into() }];
        let figures = figures(&[round([3.0])]);
        let report = Report { seckill: "", cores: 1, quick: true, figures, left_out };
        let last = "optimistic-lock is left out: install it";
        assert_eq!(report.table().lines().last(), Some(last));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["left_out"][0]["scenario"], "optimistic-lock");
    }
}
