//! The environment that this program lives in: libpq's variables would turn its connections elsewhere, so it runs
//! without them. What the stores' own processes get is `embedded`'s work, what psql gets `cli`'s.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;

/// What `DATABASE_URL` may leave out: a password and the files of TLS. None of it counts on a Unix socket.
const KEPT: [&str; 6] = ["PGPASSWORD", "PGPASSFILE", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"];
/// Settings of this program.
const OURS: [&str; 1] = ["REDIS_URL"];

/// Starts the program anew without the variables that would reach its connections, if there are any; sqlx reads them
/// for every address, and a process cannot safely take them out of its own environment.
///
/// # Errors
/// When the program cannot be started again.
pub fn settle() -> anyhow::Result<()> {
    let unwanted: Vec<_> = env::vars_os().map(|(name, _)| name).filter(|name| is_unwanted(name)).collect();
    if unwanted.is_empty() {
        return Ok(());
    }
    let mut arguments = env::args_os();
    let mut again = Command::new(env::current_exe().context("cannot find this program")?);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    again.args(arguments);
    for name in &unwanted {
        again.env_remove(name);
    }
    Err(again.exec()).context("cannot start again without PG… and REDIS… variables: unset them")
}

/// Whether it is a variable of another program's that must not change where this one connects.
fn is_unwanted(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let is_kept = KEPT.iter().chain(&OURS).any(|kept| kept.as_bytes() == name);
    (name.starts_with(b"PG") || name.starts_with(b"REDIS")) && !is_kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_passwords_and_files_of_tls_are_taken_from_libpqs_variables() {
        let unwanted = ["PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGDATABASE", "PGOPTIONS", "PGSERVICE"];
        let more = ["PGAPPNAME", "PGTZ", "PG_COLOR", "REDISCLI_AUTH", "REDIS_HOST", "REDIS_URL_2"];
        for name in unwanted.into_iter().chain(more) {
            assert!(is_unwanted(OsStr::new(name)), "{name}");
        }
        for name in ["PGPASSWORD", "PGSSLROOTCERT", "REDIS_URL", "DATABASE_URL", "PATH", "PAGER", "PSQLRC"] {
            assert!(!is_unwanted(OsStr::new(name)), "{name}");
        }
    }
}
