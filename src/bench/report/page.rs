//! The parts of docs/BENCHMARKS.md and README.md that show the figures of docs/benchmarks.json, each between two
//! markers. The test compares these parts, or writes them if `UPDATE_BENCHMARKS` is set.

use super::{Figure, Report, format_value};
use crate::bench::parameters::FEW_CONNECTIONS;
use crate::bench::scenarios::{
    CONNECTIONS, FEW_CONNECTIONS_SCENARIO, P50, RATE, rate_with_connections, with_connections,
};
use crate::bench::tcc::{
    CLAIMED_AGAIN_P50, CLAIMED_AGAIN_P99, CYCLES, PLAIN, PLAIN_RECORDED, RESERVING, RESERVING_RECORDED, TCC,
    TEXTBOOK_TCC,
};

const PAGE: &str = "docs/BENCHMARKS.md";
const README: &str = "README.md";
/// The alternatives' scenarios with their names on the page.
const ALTERNATIVES: [(&str, &str); 4] = [
    ("optimistic-lock", "optimistic lock"),
    ("row-per-unit", "row per unit"),
    ("lua-then-lock", "Lua, then optimistic lock"),
    ("two-phase", "two-phase commit"),
];
/// The names of figures that do not show the alternative itself start with this.
const UPDATE_ALONE: &str = "its update alone";
const NOT_MEASURED: &str = "–";

impl Report {
    fn figure(&self, scenario: &str, what: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.scenario == scenario && figure.what == what)
    }

    fn median(&self, scenario: &str, what: &str) -> String {
        self.figure(scenario, what).map_or(NOT_MEASURED.into(), |figure| format_value(figure.value))
    }

    /// `4.41 (4.05 – 5.12)`
    fn spread(&self, scenario: &str, what: &str) -> String {
        self.figure(scenario, what).map_or(NOT_MEASURED.into(), |Figure { value, low, high, .. }| {
            format!("{} ({} – {})", format_value(*value), format_value(*low), format_value(*high))
        })
    }

    /// The rates of an alternative with each number of clients.
    fn rates(&self, scenario: &str) -> impl Iterator<Item = &Figure> {
        self.figures.iter().filter(move |figure| {
            figure.scenario == scenario
                && figure.what.ends_with(" at once")
                && !figure.what.starts_with(UPDATE_ALONE)
        })
    }

    fn best(&self, scenario: &str) -> String {
        let best = self.rates(scenario).filter(|figure| figure.unit == "/s");
        let best = best.max_by(|a, b| a.value.total_cmp(&b.value));
        best.map_or(NOT_MEASURED.into(), |figure| {
            format!("{}/s: {}", format_value(figure.value), figure.what)
        })
    }

    fn block(&self) -> String {
        format!("```\n{}\n```", self.table().lines().map(str::trim_end).collect::<Vec<_>>().join("\n"))
    }

    /// Each alternative's best rate, and the ratio of our end-to-end rate to it.
    fn comparison(&self) -> String {
        let mut lines = vec![
            "| alternative | its best | end to end ÷ it, 256 connections | 64 connections |".to_owned(),
            "|---|---|---|---|".to_owned(),
        ];
        for (scenario, name) in ALTERNATIVES {
            let ratio = format!("÷ {scenario} a second");
            lines.push(format!(
                "| {name} | {} | {} | {} |",
                self.best(scenario),
                self.spread("end-to-end", &format!("a second {ratio}")),
                self.spread(FEW_CONNECTIONS_SCENARIO, &format!("a second, 64 connections {ratio}")),
            ));
        }
        let check = "buyers in this process, 8 at once ÷ client-check pgbench, 8 at once";
        lines.push(String::new());
        lines.push(format!(
            "With the same statement, the bench's own clients sell {} times as many units as pgbench.",
            self.spread("client-check", check)
        ));
        lines.join("\n")
    }

    /// Our rate with as many connections as an alternative has clients.
    fn by_connections(&self) -> String {
        let mut lines = vec![
            "| connections | end to end | claim p50 | ÷ optimistic lock with as many | ÷ row per unit with as many |"
                .to_owned(),
            "|---|---|---|---|---|".to_owned(),
        ];
        for connections in FEW_CONNECTIONS.into_iter().chain([CONNECTIONS]) {
            let (scenario, rate, p50) = if connections == CONNECTIONS {
                ("end-to-end", RATE.to_owned(), P50.to_owned())
            } else {
                (
                    FEW_CONNECTIONS_SCENARIO,
                    rate_with_connections(connections),
                    with_connections(P50, connections),
                )
            };
            let ratio = |to: &str| self.spread(scenario, &format!("{rate} ÷ {to}, {connections} at once"));
            lines.push(format!(
                "| {connections} | {}/s | {} ms | {} | {} |",
                self.median(scenario, &rate),
                self.median(scenario, &p50),
                ratio("optimistic-lock"),
                ratio("row-per-unit"),
            ));
        }
        lines.join("\n")
    }

    /// Our figures with a time to pay, and the best rate of the textbook TCC.
    fn tcc(&self) -> String {
        let rows = [
            ("claims of a reserving coupon ÷ those of a plain one", self.ratio(RESERVING, PLAIN)),
            ("the same, until the orders are recorded", self.ratio(RESERVING_RECORDED, PLAIN_RECORDED)),
            ("whole cycles of claim, reserved and confirm", format!("{}/s", self.spread(TCC, CYCLES))),
            ("textbook TCC at its best, without HTTP", self.best(TEXTBOOK_TCC)),
            (
                "our cycles ÷ those of the textbook TCC",
                self.spread(TCC, &format!("{CYCLES} ÷ {TEXTBOOK_TCC} {RATE}")),
            ),
            (CLAIMED_AGAIN_P50, format!("{} ms", self.spread(TCC, CLAIMED_AGAIN_P50))),
            (CLAIMED_AGAIN_P99, format!("{} ms", self.spread(TCC, CLAIMED_AGAIN_P99))),
        ];
        let mut lines = vec!["| what | figure |".to_owned(), "|---|---|".to_owned()];
        lines.extend(rows.map(|(what, figure)| format!("| {what} | {figure} |")));
        lines.join("\n")
    }

    fn ratio(&self, what: &str, to: &str) -> String {
        self.spread(TCC, &format!("{what} ÷ {TCC} {to}"))
    }

    fn sentence(&self) -> String {
        let times =
            |scenario: &str, rate: &str, to: &str| self.median(scenario, &format!("{rate} ÷ {to} a second"));
        let many = |to| times("end-to-end", "a second", to);
        let few = |to| times(FEW_CONNECTIONS_SCENARIO, "a second, 64 connections", to);
        format!(
            "On two cores, the program records {}/s with 256 connections and {}/s with 64, from a claim over HTTP to its row\n\
             in Postgres. That is {} and {} times the best rate of an optimistic lock in Postgres, and {} and {} times that\n\
             of one row per unit. Both alternatives run without HTTP.",
            self.median("end-to-end", "a second"),
            self.median(FEW_CONNECTIONS_SCENARIO, "a second, 64 connections"),
            many("optimistic-lock"),
            few("optimistic-lock"),
            many("row-per-unit"),
            few("row-per-unit"),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Reads a report. Leaks the memory of its names until the test process ends.
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
        assert!(json.get("left_out").is_none(), "a run without some scenarios");
        Report {
            seckill: text(&json["seckill"]),
            cores: 0,
            quick: json["quick"].as_bool().unwrap(),
            figures,
            left_out: vec![],
        }
    }

    /// The text with `block` between the markers of `name`.
    fn filled(text: &str, name: &str, block: &str) -> String {
        let [begin, end] = [format!("<!-- {name} -->\n"), format!("\n<!-- /{name} -->")];
        let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no {begin}"));
        let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no {end}"));
        format!("{before}{begin}{block}{end}{after}")
    }

    #[test]
    fn the_pages_show_the_run_of_the_json_file() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let report = read(&fs::read_to_string(root.join("docs/benchmarks.json")).unwrap());
        assert!(!report.quick && report.figures.len() >= 80, "{} figures", report.figures.len());
        let blocks = [
            (PAGE, "run", report.block()),
            (PAGE, "comparison", report.comparison()),
            (PAGE, "connections", report.by_connections()),
            (PAGE, "tcc", report.tcc()),
            (README, "bench", report.sentence()),
        ];
        for (file, name, block) in blocks {
            let path = root.join(file);
            let text = fs::read_to_string(&path).unwrap();
            let expected = filled(&text, name, &block);
            if std::env::var_os("UPDATE_BENCHMARKS").is_some() {
                fs::write(&path, expected).unwrap();
            } else {
                assert_eq!(text, expected, "{file}, {name}: run this test with UPDATE_BENCHMARKS=1");
            }
        }
    }

    #[test]
    fn only_the_text_between_markers_is_replaced() {
        let text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\n-\n<!-- /y -->\n";
        let expected = "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n<!-- y -->\n-\n<!-- /y -->\n";
        assert_eq!(filled(text, "x", "new"), expected);
    }
}
