//! Postgres's own load program, which drives the alternatives that consist of SQL: statements prepared, over the
//! stores' socket, with the settings of the program's own connections. What was sold is not known here: the
//! alternatives read that from the database.

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

use super::shop;
use crate::config::StoreAddresses;
use crate::embedded;
pub use output::Summary;

/// Longest start and end of a run beside the time that it sells for.
const SLACK: Duration = Duration::from_mins(1);
/// Exit status for errors during the run, such as of the database.
const STATUS_ABORTED: i32 = 2;
/// What a sale's last buyers begin to count with: none of them has bought before.
const LATE: Numbers = Numbers { users_from: 1_000_000_000_000, ids_from: 0 };
/// The first users again, with other orders than theirs.
const AGAIN: Numbers = Numbers { users_from: 0, ids_from: 1_000_000 };
const FIRST: Numbers = Numbers { users_from: 0, ids_from: 0 };

/// What all clients of a run do. A client keeps its variables from one transaction to the next.
#[derive(Clone, Copy)]
pub struct Script {
    /// Its file's name.
    pub name: &'static str,
    /// `:client_id` and `:n`, which the script counts up, name a new user and a new order each time; `:ids` makes
    /// another order of it for the same user.
    pub text: &'static str,
    /// The constraint that refuses a user's second order.
    pub one_per_user: &'static str,
}

/// The program, a folder for its scripts, and the database.
#[derive(Clone, Debug)]
pub struct Pgbench {
    program: PathBuf,
    folder: PathBuf,
    database_url: String,
}

/// One run.
#[derive(Clone, Copy)]
pub struct Load<'l> {
    pub script: Script,
    pub clients: usize,
    /// What these variables are when a client begins.
    pub variables: &'l [(&'static str, i64)],
}

/// Where the clients of a run begin to count.
struct Numbers {
    users_from: i64,
    ids_from: i64,
}

/// How long the clients of a run go on.
#[derive(Clone, Copy)]
enum Length {
    /// In whole seconds, rounded up.
    For(Duration),
    TransactionsPerClient(i64),
}

/// What became of a run.
enum Run {
    Done(Summary),
    /// A statement was refused, after which its client stops: what pgbench says of it.
    Aborted(String),
}

impl Pgbench {
    /// # Errors
    /// When this machine has no pgbench: which package brings it.
    pub fn find(folder: &Path, stores: &StoreAddresses) -> Result<Self> {
        let database_url = stores.database_url.clone();
        Ok(Self { program: embedded::pgbench()?, folder: folder.to_owned(), database_url })
    }

    /// Lets all clients buy for so long, each a new user in each transaction.
    ///
    /// # Errors
    /// When a transaction fails or is refused.
    pub async fn sell(&self, load: &Load<'_>, run_for: Duration) -> Result<Summary> {
        let name = load.script.name;
        match self.run(load, &FIRST, Length::For(run_for)).await? {
            Run::Done(summary) => {
                ensure!(summary.failed == 0, "{}: {} transactions failed", name, summary.failed);
                Ok(summary)
            }
            Run::Aborted(errors) => bail!("{name}: a new user was refused though units are left: {errors}"),
        }
    }

    /// Lets the first client's first user buy once more.
    ///
    /// # Errors
    /// When the database does not refuse that for the user's sake.
    pub async fn must_refuse_repeat(&self, load: &Load<'_>) -> Result<()> {
        let name = load.script.name;
        match self.run(&Load { clients: 1, ..*load }, &AGAIN, Length::TransactionsPerClient(1)).await? {
            Run::Aborted(errors) if errors.contains(load.script.one_per_user) => Ok(()),
            Run::Aborted(errors) => bail!("{name}: a user's second order was an error: {errors}"),
            Run::Done(_) => bail!("{name}: a user's second order was not refused"),
        }
    }

    /// Lets all clients try to buy more than so many units, each a new user in each transaction. What they were sold
    /// is the caller's to look up: here a refusal is an empty transaction or an error, as the scheme has it.
    ///
    /// # Errors
    /// When a client stops for anything but a refusal.
    pub async fn storm(&self, load: &Load<'_>, units: i64) -> Result<()> {
        let each = units / i64::try_from(load.clients)? + 2;
        match self.run(load, &LATE, Length::TransactionsPerClient(each)).await? {
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

    async fn run(&self, load: &Load<'_>, numbers: &Numbers, length: Length) -> Result<Run> {
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
        numbers: &Numbers,
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
        let patience = match length {
            Length::For(time) => {
                command.arg(format!("--time={}", time.as_millis().div_ceil(1_000).max(1)));
                SLACK + time
            }
            Length::TransactionsPerClient(count) => {
                command.arg(format!("--transactions={count}"));
                SLACK
            }
        };
        command.arg("--file").arg(script).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(patience, command.output()).await.context("pgbench takes too long")?;
        output.with_context(|| format!("cannot run {}", self.program.display()))
    }
}

/// All that pgbench gets of an environment: no password in its arguments, and nothing of ours that libpq would read.
fn environment(database_url: &str) -> Result<Vec<(&'static str, OsString)>> {
    let url = Url::parse(database_url).context("DATABASE_URL is not a URL")?;
    let decode = |text: &str| -> Result<String> { Ok(percent_decode_str(text).decode_utf8()?.into_owned()) };
    let parameter =
        |name| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let host = parameter("host").or_else(|| url.host_str().map(str::to_owned));
    let mut variables: Vec<(&'static str, OsString)> = vec![
        ("LC_ALL", "C".into()),
        ("PGHOST", host.context("an address without a host")?.into()),
        ("PGUSER", decode(url.username())?.into()),
        ("PGDATABASE", decode(url.path().trim_start_matches('/'))?.into()),
        ("PGAPPNAME", shop::APPLICATION.into()),
        ("PGOPTIONS", shop::libpq_options().into()),
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
