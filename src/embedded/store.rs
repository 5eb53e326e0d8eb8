//! What the embedded stores have in common, as starting, supervising and stopping need it. How each of these is done
//! is in `starting.rs`, `supervise.rs` and `stopping.rs`.

use std::future::Future;

use anyhow::Result;
use nix::sys::signal::Signal;
use tokio::process::Command;

use super::log_file::LogFile;
use super::process::{Process, Role};
use super::user::StoreFolder;

/// A Redis or Postgres server in a folder of its own.
pub trait Store: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    fn folder(&self) -> &StoreFolder;
    fn log(&self) -> &LogFile;
    /// The server in the foreground, its log on stderr or stdout.
    fn command(&self) -> Command;
    /// The signal for a clean stop.
    fn stop_signal(&self) -> Signal;
    /// The signal if the clean stop takes too long.
    fn quit_signal(&self) -> Signal;
    /// `None` where the process does not belong to this store.
    fn role_of(&self, process: &Process) -> Option<Role>;
    /// What the operator can do about a failure with these last lines of the log.
    fn repair_advice(&self, _log_lines: &[String]) -> Option<String> {
        None
    }
    /// With less free space on its disk the server cannot start.
    fn min_free_bytes(&self) -> u64 {
        0
    }
    /// Removes what an earlier run left. Called before each start, when no process of the store is left.
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
