//! Runs `seckill doctor --json` and checks its findings.

use super::{Command, Output, Sale, Value};

/// The doctor's findings and exit status.
pub struct Diagnosis {
    pub status: i32,
    pub findings: Vec<Value>,
    pub stderr: String,
}

impl Diagnosis {
    fn read(output: &Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let findings = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {stderr}"));
        Self { status: output.status.code().unwrap(), findings, stderr }
    }

    pub fn find(&self, check: &str) -> &Value {
        let found = self.findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("no {check} in {:#?}", self.findings))
    }

    /// Checks a finding's level and a part of its text. Also checks that a finding that is not green says what to do.
    #[track_caller]
    pub fn assert(&self, check: &str, level: &str, what: &str) -> &Self {
        let finding = self.find(check);
        assert_eq!(finding["level"], level, "{finding:#}");
        assert!(finding["what"].as_str().unwrap().contains(what), "{what:?} in {finding:#}");
        assert_eq!(finding["do"].is_null(), level == "green", "{finding:#}");
        self
    }

    /// Checks that only these findings are not green, and the exit status.
    #[track_caller]
    pub fn assert_only(&self, bad: &[(&str, &str)]) -> &Self {
        let mut found: Vec<(&str, &str)> = self
            .findings
            .iter()
            .filter(|finding| finding["level"] != "green")
            .map(|finding| (finding["check"].as_str().unwrap(), finding["level"].as_str().unwrap()))
            .collect();
        let mut expected = bad.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{:#?}", self.findings);
        let red = bad.iter().filter(|(_, level)| *level == "red").count();
        assert_eq!(self.status, i32::from(red > 0), "{}", self.stderr);
        let last_line = format!("seckill: {red} of {} checks are red\n", self.findings.len());
        assert_eq!(self.stderr, if red > 0 { last_line } else { String::new() });
        self
    }
}

pub fn diagnose(sale: &Sale) -> Diagnosis {
    diagnose_with(sale, &[])
}

pub fn diagnose_with(sale: &Sale, environment: &[(&str, &str)]) -> Diagnosis {
    let mut doctor = sale.command();
    doctor.args(["doctor", "--json"]).envs(environment.iter().copied());
    Diagnosis::read(&doctor.output().unwrap())
}

/// Runs the doctor on the stores at these addresses.
pub fn diagnose_at(redis: &str, postgres: &str, environment: &[(&str, &str)]) -> Diagnosis {
    let mut doctor = Command::new(support::program());
    doctor.env_clear().args(["doctor", "--json"]).env("REDIS_URL", redis).env("DATABASE_URL", postgres);
    Diagnosis::read(&doctor.envs(environment.iter().copied()).output().unwrap())
}
