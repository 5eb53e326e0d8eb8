//! What was measured, as a table for people and as JSON for whoever compares runs: of each figure the median of the
//! rounds, and how far they lie apart.

use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::round::{Measurement, Round};

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
    /// The median of the rounds.
    pub value: f64,
    pub low: f64,
    pub high: f64,
    /// How often it was measured.
    pub rounds: usize,
    pub unit: &'static str,
}

/// Each figure once, where it first comes.
pub fn figures(rounds: Vec<Round>) -> Vec<Figure> {
    let mut gathered: Vec<(Measurement, Vec<f64>)> = Vec::new();
    for measured in rounds.into_iter().flat_map(|round| round.measurements) {
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

fn figure(measured: Measurement, mut values: Vec<f64>) -> Figure {
    values.sort_unstable_by(f64::total_cmp);
    let rounds = values.len();
    // The same one twice where their number is odd.
    let value = f64::midpoint(values[(rounds - 1) / 2], values[rounds / 2]);
    let Measurement { scenario, what, unit, .. } = measured;
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
            let mut row = vec![name.to_owned(), what.clone(), number(*value), (*unit).to_owned()];
            if *rounds > 1 {
                row.push(format!("{} – {}", number(*low), number(*high)));
            }
            table.add_row(row);
        }
        table.to_string()
    }
}

/// Three digits that say something, thousands apart.
fn number(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.2}") } else { thousands_apart(&format!("{value:.0}")) }
}

/// A count in a figure's name.
pub fn whole(count: usize) -> String {
    thousands_apart(&count.to_string())
}

fn thousands_apart(digits: &str) -> String {
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

    /// A round that has measured these values of the figures `a`, `b`, …
    fn round<const N: usize>(values: [f64; N]) -> Round {
        let mut round = Round::default();
        for (name, value) in ["a", "b", "c"].into_iter().zip(values) {
            round.add("claim", name, value, "/s");
        }
        round
    }

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
        assert_eq!([64, 999, 1_000, 5_000_000].map(whole), ["64", "999", "1,000", "5,000,000"]);
    }

    #[test]
    fn each_figure_is_the_median_of_its_rounds_beside_the_lowest_and_the_highest() {
        let figures = figures(vec![round([3.0, 10.0, 7.0]), round([9.0, 30.0]), round([1.0])]);
        let shown = figures.iter().map(|f| (&*f.what, [f.value, f.low, f.high].map(number), f.rounds));
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
    fn a_ratio_is_of_one_round_and_only_then_of_all() {
        // The quotient of the medians would be 1.
        let rounds = [[1.0, 2.0], [2.0, 1.0], [3.0, 1.0]].map(|values| {
            let mut round = round(values);
            round.ratio("claim", "a", ("claim", "b"));
            round.ratio("claim", "a", ("claim", "absent"));
            round
        });
        let figures = figures(rounds.into());
        assert_eq!(figures.len(), 3, "no ratio to what was not measured");
        assert_eq!((&*figures[2].what, number(figures[2].value)), ("a ÷ claim b", "2.00".into()));
    }

    #[test]
    fn the_spread_is_shown_where_there_is_one() {
        let report = |rounds| Report { seckill: "", cores: 1, quick: true, figures: figures(rounds) };
        let quick = report(vec![round([3.0])]).table();
        assert!(quick.contains("3.00") && !quick.contains('–'), "{quick}");
        let full = report(vec![round([3.0]), round([200.0]), round([1.0])]).table();
        assert!(full.contains("1.00 – 200"), "{full}");
    }

    /// A report read back; the process ends before its leaked names matter.
    fn read(json: &str) -> Report {
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        let text = |value: &serde_json::Value| -> &'static str { value.as_str().unwrap().to_owned().leak() };
        let figure = |figure: &serde_json::Value| {
            let number = |name: &str| figure[name].as_f64().unwrap();
            Figure {
                scenario: text(&figure["scenario"]),
                what: text(&figure["what"]).to_owned(),
                value: number("value"),
                low: number("low"),
                high: number("high"),
                rounds: usize::try_from(figure["rounds"].as_u64().unwrap()).unwrap(),
                unit: text(&figure["unit"]),
            }
        };
        let figures = json["figures"].as_array().unwrap().iter().map(figure).collect();
        Report { seckill: text(&json["seckill"]), cores: 0, quick: json["quick"].as_bool().unwrap(), figures }
    }

    #[test]
    fn the_page_shows_the_run_whose_json_lies_beside_it() {
        let report = read(include_str!("../../docs/benchmarks.json"));
        assert!(!report.quick && report.figures.len() >= 80, "{} figures", report.figures.len());
        let page = include_str!("../../docs/BENCHMARKS.md");
        for line in report.table().lines() {
            assert!(page.contains(line.trim_end()), "docs/BENCHMARKS.md does not show {line:?}");
        }
    }
}
