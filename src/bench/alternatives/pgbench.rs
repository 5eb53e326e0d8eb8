//! pgbench, the load generator of Postgres (<https://www.postgresql.org/docs/current/pgbench.html>), for alternatives that
//! consist of SQL: with prepared statements, over the stores' socket, and with the session settings of the program. The
//! alternatives read the number of sales from the database.

mod output;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use percent_encoding::percent_decode_str;
use tokio::process::Command;
use tokio::time::timeout;
use url::Url;

use super::schema;
use crate::config::StoreAddresses;
use crate::embedded;
pub use output::Summary;

/// Longest time for the start and the end of a run, in addition to its duration.
const START_AND_END_MAX: Duration = Duration::from_mins(1);
/// The exit status of pgbench after errors during the run, such as errors of the database.
const STATUS_ABORTED: i32 = 2;
/// Numbers of users that have not bought before, for the check at the end of a measurement.
const LATE_USERS: StartNumbers = StartNumbers { users_from: 1_000_000_000_000, ids_from: 0 };
/// The numbers of the first users, with other order ids.
const REPEATED_USERS: StartNumbers = StartNumbers { users_from: 0, ids_from: 1_000_000 };
const FIRST_USERS: StartNumbers = StartNumbers { users_from: 0, ids_from: 0 };

/// The script that all clients of a run execute. A client keeps its variables from one transaction to the next.
#[derive(Clone, Copy)]
pub struct Script {
    /// The file name.
    pub name: &'static str,
    /// `:client_id` and `:n`, which the script increments, give a new user and a new order each time; `:ids` gives another
    /// order id for the same user.
    pub text: &'static str,
    /// The constraint that refuses a user's second order.
    pub one_per_user: &'static str,
}

/// The program, a folder for its scripts, and the address of the database.
#[derive(Clone, Debug)]
pub struct Pgbench {
    program: PathBuf,
    folder: PathBuf,
    database_url: String,
}

/// The load of one run.
#[derive(Clone, Copy)]
pub struct Load<'l> {
    pub script: Script,
    pub clients: usize,
    /// Initial values of additional variables, or other values of `n` and `ids`.
    pub variables: &'l [(&'static str, i64)],
}

/// Initial values of the counters of a script's clients.
struct StartNumbers {
    users_from: i64,
    ids_from: i64,
}

/// When the clients of a run stop.
#[derive(Clone, Copy)]
enum Length {
    /// In whole seconds, rounded up.
    For(Duration),
    TransactionsPerClient(i64),
}

/// The result of a run.
enum Run {
    Done(Summary),
    /// A statement failed and its client stopped; the error output of pgbench.
    Aborted(String),
}

impl Pgbench {
    /// # Errors
    /// When this machine has no pgbench; the error names its package.
    pub fn find(folder: &Path, stores: &StoreAddresses) -> Result<Self> {
        let database_url = stores.database_url.clone();
        Ok(Self { program: embedded::pgbench()?, folder: folder.to_owned(), database_url })
    }

    /// All clients buy for `run_for`, with a new user in each transaction.
    ///
    /// # Errors
    /// When a transaction fails or is refused.
    pub async fn run_buyers(&self, load: &Load<'_>, run_for: Duration) -> Result<Summary> {
        let name = load.script.name;
        match self.run(load, &FIRST_USERS, Length::For(run_for)).await? {
            Run::Done(summary) => {
                ensure!(summary.failed == 0, "{}: {} transactions failed", name, summary.failed);
                Ok(summary)
            }
            Run::Aborted(errors) => bail!("{name}: a new user was refused though units are left: {errors}"),
        }
    }

    /// Checks that a second order of the first client's first user is refused.
    ///
    /// # Errors
    /// When the order is not refused, or is refused for another reason than the user's first order.
    pub async fn check_repeat_refused(&self, load: &Load<'_>) -> Result<()> {
        let name = load.script.name;
        match self
            .run(&Load { clients: 1, ..*load }, &REPEATED_USERS, Length::TransactionsPerClient(1))
            .await?
        {
            Run::Aborted(errors) if errors.contains(load.script.one_per_user) => Ok(()),
            Run::Aborted(errors) => bail!("{name}: a user's second order was an error: {errors}"),
            Run::Done(_) => bail!("{name}: a user's second order was not refused"),
        }
    }

    /// All clients try to buy, in total, more than `units` units, with a new user in each transaction. The caller
    /// checks the number of sales. A refusal is an empty transaction or an error, depending on the alternative.
    ///
    /// # Errors
    /// When a client stops for another reason than a refusal.
    pub async fn oversell(&self, load: &Load<'_>, units: i64) -> Result<()> {
        let each = units / i64::try_from(load.clients)? + 2;
        match self.run(load, &LATE_USERS, Length::TransactionsPerClient(each)).await? {
            Run::Done(_) => Ok(()),
            Run::Aborted(errors) => {
                let is_refusal = |error: &str| {
                    error.contains("violates check constraint") || error.contains("expected one row, got 0")
                };
                let is_refused = errors
                    .lines()
                    .filter(|line| line.contains("error: "))
                    .all(|line| is_refusal(line) || line.contains("Run was aborted"));
                ensure!(is_refused, "{}: {errors}", load.script.name);
                Ok(())
            }
        }
    }

    async fn run(&self, load: &Load<'_>, numbers: &StartNumbers, length: Length) -> Result<Run> {
        let path = self.folder.join(load.script.name);
        let written = tokio::fs::write(&path, load.script.text).await;
        written.with_context(|| format!("cannot write {}", path.display()))?;
        let ran = self.execute(&path, load, numbers, length).await;
        tokio::fs::remove_file(&path).await.with_context(|| format!("cannot remove {}", path.display()))?;
        let Output { status, stdout, stderr } = ran?;

        let errors = String::from_utf8_lossy(&stderr).into_owned();
        match status.code() {
            Some(0) => {
                let summary = output::parse(&String::from_utf8(stdout)?, load.clients);
                Ok(Run::Done(summary.with_context(|| format!("pgbench with {}", load.script.name))?))
            }
            Some(STATUS_ABORTED) => Ok(Run::Aborted(errors)),
            _ => bail!("pgbench with {} ended with {status}: {}", load.script.name, errors.trim()),
        }
    }

    async fn execute(
        &self,
        script: &Path,
        load: &Load<'_>,
        numbers: &StartNumbers,
        length: Length,
    ) -> Result<Output> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(load.clients);
        let mut command = Command::new(&self.program);
        command.env_clear().envs(environment(&self.database_url)?);
        command.args(["--no-vacuum", "--protocol=prepared"]);
        command.arg(format!("--client={}", load.clients)).arg(format!("--jobs={threads}"));
        for (name, value) in
            [("n", numbers.users_from), ("ids", numbers.ids_from)].iter().chain(load.variables)
        {
            command.arg(format!("--define={name}={value}"));
        }
        let time_limit = match length {
            Length::For(time) => {
                command.arg(format!("--time={}", time.as_millis().div_ceil(1_000).max(1)));
                START_AND_END_MAX + time
            }
            Length::TransactionsPerClient(count) => {
                command.arg(format!("--transactions={count}"));
                START_AND_END_MAX
            }
        };
        command.arg("--file").arg(script).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(time_limit, command.output()).await.context("pgbench did not end in time")?;
        output.with_context(|| format!("cannot run {}", self.program.display()))
    }
}

/// The whole environment of pgbench. It has the password, which must not be in the arguments, and none of the user's
/// variables, which libpq would read.
fn environment(database_url: &str) -> Result<Vec<(&'static str, OsString)>> {
    let url = Url::parse(database_url).context("DATABASE_URL is not a URL")?;
    let decode = |text: &str| -> Result<String> { Ok(percent_decode_str(text).decode_utf8()?.into_owned()) };
    let parameter =
        |name| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let host = parameter("host").or_else(|| url.host_str().map(str::to_owned));
    let mut variables: Vec<(&'static str, OsString)> = vec![
        ("LC_ALL", "C".into()),
        ("PGHOST", host.context("DATABASE_URL has no host")?.into()),
        ("PGUSER", decode(url.username())?.into()),
        ("PGDATABASE", decode(url.path().trim_start_matches('/'))?.into()),
        ("PGAPPNAME", schema::APPLICATION.into()),
        ("PGOPTIONS", schema::libpq_options().into()),
    ];
    if let Some(port) = url.port() {
        variables.push(("PGPORT", port.to_string().into()));
    }
    if let Some(password) = url.password() {
        variables.push(("PGPASSWORD", decode(password)?.into()));
    }
    for name in ["PATH", "LD_LIBRARY_PATH"] {
        variables.extend(std::env::var_os(name).map(|value| (name, value)));
    }
    Ok(variables)
}
