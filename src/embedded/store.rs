//! The properties of an embedded store that `starting.rs`, `supervise.rs` and `stopping.rs` need.

use std::future::Future;

use anyhow::Result;
use nix::sys::signal::Signal;
use tokio::process::Command;

use super::log_file::LogFile;
use super::process::{Process, Role};
use super::user::StoreFolder;

/// A Redis or Postgres server with its own folder.
pub trait Store: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    fn folder(&self) -> &StoreFolder;
    fn log(&self) -> &LogFile;
    /// The command that runs the server in the foreground, with its log on stderr or stdout.
    fn command(&self) -> Command;
    /// The signal for a clean stop.
    fn stop_signal(&self) -> Signal;
    /// The signal to send if the clean stop takes too long.
    fn quit_signal(&self) -> Signal;
    /// `None` if the process does not belong to this store.
    fn role_of(&self, process: &Process) -> Option<Role>;
    /// What the operator can do about a failure; `log_lines` are the last lines of the log.
    fn repair_advice(&self, _log_lines: &[String]) -> Option<String> {
        None
    }
    /// The free space on the disk without which the server cannot start.
    fn min_free_bytes(&self) -> u64 {
        0
    }
    /// Removes files that an earlier run left behind. Called before each start, when no process of the store is left.
    ///
    /// # Errors
    /// When a file cannot be removed, or may belong to a running server.
    fn remove_stale_files(&self) -> Result<()>;
    /// `false` while the server starts.
    ///
    /// # Errors
    /// When waiting longer cannot help.
    fn is_ready(&self) -> impl Future<Output = Result<bool>> + Send;
}
