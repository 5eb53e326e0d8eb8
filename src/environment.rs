//! The environment variables of this program: the program runs without the variables of libpq, which would redirect its
//! connections. `embedded` chooses the variables of the stores' processes, and `cli` those of psql.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;

/// Variables for what `DATABASE_URL` may leave out: a password and the files of TLS. They have no effect on a Unix
/// socket.
const KEPT: [&str; 6] = ["PGPASSWORD", "PGPASSFILE", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"];
/// Settings of this program.
const OURS: [&str; 1] = ["REDIS_URL"];

/// Restarts the program (exec) without the variables that would redirect its connections, if there are any: sqlx reads
/// them for each address, and a process cannot safely remove variables from its own environment.
///
/// # Errors
/// When the program cannot be restarted.
pub fn restart_without_foreign_variables() -> anyhow::Result<()> {
    let foreign: Vec<_> = env::vars_os().map(|(name, _)| name).filter(|name| is_foreign(name)).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let mut arguments = env::args_os();
    let mut again = Command::new(env::current_exe().context("cannot find this program")?);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    again.args(arguments);
    for name in &foreign {
        again.env_remove(name);
    }
    Err(again.exec()).context("cannot restart without PG… and REDIS… variables: unset them")
}

/// Whether the variable belongs to another program and could change where this program connects.
fn is_foreign(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let is_kept = KEPT.iter().chain(&OURS).any(|kept| kept.as_bytes() == name);
    (name.starts_with(b"PG") || name.starts_with(b"REDIS")) && !is_kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_passwords_and_tls_files_of_libpqs_variables_are_kept() {
        let foreign = ["PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGDATABASE", "PGOPTIONS", "PGSERVICE"];
        let more = ["PGAPPNAME", "PGTZ", "PG_COLOR", "REDISCLI_AUTH", "REDIS_HOST", "REDIS_URL_2"];
        for name in foreign.into_iter().chain(more) {
            assert!(is_foreign(OsStr::new(name)), "{name}");
        }
        for name in ["PGPASSWORD", "PGSSLROOTCERT", "REDIS_URL", "DATABASE_URL", "PATH", "PAGER", "PSQLRC"] {
            assert!(!is_foreign(OsStr::new(name)), "{name}");
        }
    }
}
