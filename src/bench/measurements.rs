//! The measurements of one round, in their order. Ratios are computed here, so that both figures are from the same
//! round.

use super::Rate;

#[derive(Default)]
pub struct Measurements {
    pub measurements: Vec<Measurement>,
}

pub struct Measurement {
    pub scenario: &'static str,
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
}

impl Measurements {
    pub fn add(&mut self, scenario: &'static str, what: impl Into<String>, value: f64, unit: &'static str) {
        self.measurements.push(Measurement { scenario, what: what.into(), value, unit });
    }

    /// Adds a rate in operations per second.
    pub fn add_rate(&mut self, scenario: &'static str, what: impl Into<String>, rate: Rate) {
        self.add(scenario, what, rate.per_second(), "/s");
    }

    pub fn value(&self, scenario: &str, what: &str) -> Option<f64> {
        let measured = self.measurements.iter().find(|m| m.scenario == scenario && m.what == what);
        measured.map(|measurement| measurement.value)
    }

    /// Adds the ratio of a figure to another, if both were measured.
    pub fn add_ratio(&mut self, scenario: &'static str, what: &str, to: (&str, &str)) {
        if let (Some(value), Some(base)) = (self.value(scenario, what), self.value(to.0, to.1)) {
            self.add(scenario, format!("{what} ÷ {} {}", to.0, to.1), value / base, "");
        }
    }
}
