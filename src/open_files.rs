//! How many files this process may have open; each connection is one.

use anyhow::{Context, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config;

/// Raises the limit to so many files, as far as the system lets us; answers what it is then.
///
/// # Errors
/// When the system does not tell its limits, or refuses what it told.
pub fn allow(files: u64) -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let allowed = soft.max(files.min(hard));
    setrlimit(Resource::RLIMIT_NOFILE, allowed, hard)?;
    Ok(allowed)
}

/// How many connections of clients may be open at once: the usual limit is 1,024 files, and it is raised as far as the
/// system allows.
///
/// # Errors
/// When the limit leaves fewer connections than a server is of use with.
pub fn for_connections() -> anyhow::Result<usize> {
    let others = config::RESERVED_OPEN_FILES;
    let wanted = config::HTTP_MAX_CONNECTIONS + others;
    let files = allow(wanted as u64).context("the limit of open files is not known")?;
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let least = others + config::HTTP_MIN_CONNECTIONS;
    ensure!(
        files >= least,
        "{files} open files are too few for connections of clients beside those of the stores: allow at least {least}, \
         better {wanted} (`ulimit -n {wanted}`, in systemd LimitNOFILE={wanted}, in Docker --ulimit nofile={wanted})"
    );
    let places = (files - others).min(config::HTTP_MAX_CONNECTIONS);
    if places < config::HTTP_CONNECTIONS_WARN_BELOW {
        tracing::warn!(
            "{files} open files leave room for {places} connections: raise the hard limit (`ulimit -n {wanted}`)"
        );
    }
    Ok(places)
}
