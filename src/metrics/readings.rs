//! Reads this process's own metrics back from their text, all of one moment.

use std::collections::HashMap;

/// Every metric of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    /// By name and labels as the text has them, such as `seckill_claims_total{outcome="held"}`.
    values: HashMap<String, f64>,
}

impl Readings {
    /// The values now.
    #[must_use]
    pub fn now() -> Self {
        Self::parse(&super::render())
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pair = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self { values: lines.filter_map(pair).collect() }
    }

    /// A metric without labels; `None` if it is unknown or NaN.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied().filter(|value| !value.is_nan())
    }

    /// A counter with one label; 0 if it is unknown.
    #[must_use]
    pub fn count(&self, name: &str, label: &str, value: &str) -> u64 {
        let count = self.labelled(name, label, value).unwrap_or(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counts are whole, from 0"
        )]
        let count = count as u64;
        count
    }

    /// A metric with one label.
    #[must_use]
    pub fn labelled(&self, name: &str, label: &str, value: &str) -> Option<f64> {
        self.value(&format!("{name}{{{label}=\"{value}\"}}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name_and_label() {
        let text = "# TYPE seckill_claims_total counter\nseckill_claims_total{outcome=\"held\"} 12\n\
                    seckill_fence_up 1\nseckill_outbox_rows NaN\n";
        let readings = Readings::parse(text);
        assert_eq!(readings.labelled("seckill_claims_total", "outcome", "held"), Some(12.0));
        assert_eq!(readings.value("seckill_fence_up"), Some(1.0));
        assert_eq!(readings.value("seckill_outbox_rows"), None);
        assert_eq!(readings.value("seckill_claims_total"), None);
    }
}
