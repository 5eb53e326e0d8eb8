//! How many files this process may have open; each connection is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

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
