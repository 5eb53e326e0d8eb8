//! The limit of open files of this process; each connection needs one.

use anyhow::{Context, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config;

/// Raises the soft limit to this many files, or to the hard limit if that is lower; returns the new limit.
///
/// # Errors
/// When the system does not report its limits, or refuses the new one.
pub fn raise_limit(files: u64) -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let allowed = soft.max(files.min(hard));
    setrlimit(Resource::RLIMIT_NOFILE, allowed, hard)?;
    Ok(allowed)
}

/// How many client connections may be open at once. First raises the soft limit, which is 1,024 files on most systems.
///
/// # Errors
/// When fewer than `HTTP_MIN_CONNECTIONS` are left.
pub fn max_connections() -> anyhow::Result<usize> {
    let reserved = config::RESERVED_OPEN_FILES;
    let wanted = config::HTTP_MAX_CONNECTIONS + reserved;
    let files = raise_limit(wanted as u64).context("cannot read or raise the limit of open files")?;
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let least = reserved + config::HTTP_MIN_CONNECTIONS;
    ensure!(
        files >= least,
        "a limit of {files} open files leaves too few client connections: allow at least {least}, \
         better {wanted} (`ulimit -n {wanted}`, in systemd LimitNOFILE={wanted}, in Docker --ulimit nofile={wanted})"
    );
    Ok((files - reserved).min(config::HTTP_MAX_CONNECTIONS))
}

/// Logs a warning if this is few connections for a sale.
pub fn warn_if_few(connections: usize) {
    if connections < config::HTTP_CONNECTIONS_WARN_BELOW {
        let (files, wanted) = (
            connections + config::RESERVED_OPEN_FILES,
            config::HTTP_MAX_CONNECTIONS + config::RESERVED_OPEN_FILES,
        );
        tracing::warn!(
            "{files} open files leave room for {connections} connections: raise the hard limit (`ulimit -n {wanted}`)"
        );
    }
}
