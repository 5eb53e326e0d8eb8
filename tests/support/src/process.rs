//! Processes that a test starts and ends, and signals to processes.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{DEADLINE, until};

/// A process whose stderr goes to a file. A drop stops the process, and prints its log if the test has failed.
pub struct Process {
    child: Child,
    stderr: PathBuf,
}

impl Process {
    pub fn new(child: Child, stderr: PathBuf) -> Self {
        Self { child, stderr }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// The URL of a server, once it accepts claims.
    pub async fn url_when_up(&self) -> String {
        until("the process accepts claims", async || {
            let log = self.log();
            let first = log.lines().next()?.strip_prefix("listening on ")?;
            log.contains("fence up").then(|| first.to_owned())
        })
        .await
    }

    /// Waits until the log contains this text.
    pub async fn until_logged(&self, what: &str) {
        until(&format!("the log says {what:?}"), async || self.log().contains(what).then_some(())).await;
    }

    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    /// The exit status if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end of a process that was killed.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn signal(&self, what: Signal) {
        signal(self.pid(), what);
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap()
    }

    /// As `stop`; also returns the whole log.
    pub fn stop_and_read(self) -> (ExitStatus, String) {
        let stderr = self.stderr.clone();
        (self.stop(), fs::read_to_string(stderr).unwrap())
    }

    pub fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "a failed test shows the log")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.stderr.display(), self.log());
        }
        if self.is_running() {
            // A stopped process would not get the SIGTERM.
            self.signal(Signal::SIGCONT);
            self.signal(Signal::SIGTERM);
            let deadline = Instant::now() + DEADLINE;
            while self.is_running() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            if self.is_running() {
                drop(self.child.kill());
                drop(self.child.wait());
            }
        }
    }
}

/// A psql whose session stays open. A drop rolls back its transaction and ends psql.
pub struct PsqlSession {
    child: Child,
}

impl PsqlSession {
    pub(crate) fn new(child: Child) -> Self {
        Self { child }
    }

    pub fn send(&mut self, sql: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{sql}").unwrap();
        stdin.flush().unwrap();
    }

    pub fn release(self) {
        drop(self);
    }
}

impl Drop for PsqlSession {
    fn drop(&mut self) {
        // psql ends at the end of its input.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Sends a signal to a process by its id.
pub fn signal(pid: i32, what: Signal) {
    kill(Pid::from_raw(pid), what).unwrap();
}

pub fn signal_all(pids: &[i32], what: Signal) {
    for &pid in pids {
        signal(pid, what);
    }
}

/// Runs a command to its end; returns its stdout, or stdout and stderr if it fails.
pub fn output_of(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stdout) + &text(&output.stderr))
    }
}
