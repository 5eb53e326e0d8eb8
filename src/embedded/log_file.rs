//! The log of a store: its stdout and stderr. This file bounds its size, and reads its last lines when the store fails.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc::O_NOFOLLOW;

use crate::config;

#[derive(Debug)]
/// The log file of a store; all runs of the store append to it.
pub struct LogFile {
    path: PathBuf,
    /// The offset at which the current run of the store begins.
    run_begins: AtomicU64,
}

impl LogFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, run_begins: AtomicU64::new(0) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file for a store that starts, to append to it. First renames a large file to `.1`.
    ///
    /// # Errors
    /// When the file cannot be renamed or opened.
    pub fn open(&self) -> io::Result<File> {
        if self.size() > config::STORE_LOG_MAX_BYTES {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            fs::rename(&self.path, old)?;
        }
        let file = options().append(true).create(true).mode(0o600).open(&self.path)?;
        self.run_begins.store(file.metadata()?.len(), Ordering::Relaxed);
        Ok(file)
    }

    /// Empties a large file; the running store continues to append to it.
    ///
    /// # Errors
    /// When the file cannot be truncated.
    pub fn truncate_if_large(&self) -> io::Result<()> {
        if self.size() > config::STORE_LOG_MAX_BYTES {
            options().write(true).open(&self.path)?.set_len(0)?;
            self.run_begins.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The last lines that the current run of the store wrote.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn tail(&self) -> io::Result<Vec<String>> {
        let mut file = options().read(true).open(&self.path)?;
        let begins = self.run_begins.load(Ordering::Relaxed);
        let start = file.metadata()?.len().saturating_sub(config::STORE_LOG_TAIL_BYTES).max(begins);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(config::STORE_LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    fn size(&self) -> u64 {
        fs::symlink_metadata(&self.path).map_or(0, |meta| meta.len())
    }
}

/// Follows no symbolic links: the store's user could place one that root would open.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(O_NOFOLLOW);
    options
}
