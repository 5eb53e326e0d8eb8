//! A running process as /proc shows it, and the roles that it can have in a store. Each store recognises its own
//! processes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

/// The role of a process in its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The server. It stops its children itself.
    Main,
    /// A process that the server forked; it may outlive the server.
    Child,
}

/// The command line and the working directory of a process.
pub struct Process {
    command_line: Vec<u8>,
    /// `None` if this user may not read it.
    folder: Option<PathBuf>,
}

impl Process {
    /// Reads the process from /proc. The command line of a process that has ended is empty.
    pub fn read(pid: Pid) -> Self {
        Self {
            command_line: fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default(),
            folder: fs::read_link(format!("/proc/{pid}/cwd")).ok(),
        }
    }

    /// The ids of all processes on this machine.
    pub fn all() -> impl Iterator<Item = Pid> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
    }

    fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        self.command_line.split(|byte| *byte == 0)
    }

    /// The first argument; a process may replace it by its own title.
    pub fn title(&self) -> &[u8] {
        self.arguments().next().unwrap_or_default()
    }

    /// Whether its program has this file name.
    pub fn is_program(&self, name: &str) -> bool {
        self.title().rsplit(|byte| *byte == b'/').next() == Some(name.as_bytes())
    }

    pub fn has_argument(&self, argument: &str) -> bool {
        self.arguments().any(|arg| arg == argument.as_bytes())
    }

    /// The argument that follows this option.
    pub fn value_of(&self, option: &str) -> Option<&Path> {
        let value = self.arguments().skip_while(|arg| *arg != option.as_bytes()).nth(1)?;
        Some(Path::new(OsStr::from_bytes(value)))
    }

    /// Its working directory; `None` if this user may not read it.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }
}
