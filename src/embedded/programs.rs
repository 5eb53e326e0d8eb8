//! Finds the programs of the stores on this machine; downloads nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::{AccessFlags, access};

const POSTGRES_VERSIONS: &str = "/usr/lib/postgresql";

/// The paths of the stores' programs.
pub struct Programs {
    /// The program `redis-server`.
    pub redis_server: PathBuf,
    /// The folder with `postgres` and `initdb`.
    pub postgres_bin: PathBuf,
    /// The major version.
    pub postgres_version: u32,
}

impl Programs {
    /// Finds all programs. `cluster_version` is the major version of Postgres that made the existing cluster; without a
    /// cluster, takes the newest installed version.
    ///
    /// # Errors
    /// When a program is not installed; the text names the package.
    pub fn find(cluster_version: Option<u32>) -> Result<Self> {
        let redis_server = redis_server().ok();
        let installed = postgres_versions();
        let (Some(redis_server), false) = (&redis_server, installed.is_empty()) else {
            bail!(missing(redis_server.is_none(), installed.is_empty()));
        };
        let chosen = installed
            .iter()
            .filter(|(version, _)| cluster_version.is_none_or(|wanted| wanted == *version))
            .max_by_key(|(version, _)| *version);
        match (chosen, cluster_version) {
            (Some((version, bin)), _) => Ok(Self {
                redis_server: redis_server.clone(),
                postgres_bin: bin.clone(),
                postgres_version: *version,
            }),
            (None, Some(wanted)) => bail!(
                "the data directory was written by Postgres {wanted}, but only {} is installed: \
                 `apt-get install postgresql-{wanted}`, or move the data with pg_upgrade",
                installed.iter().map(|(version, _)| version.to_string()).collect::<Vec<_>>().join(", ")
            ),
            (None, None) => bail!(missing(false, true)),
        }
    }
}

/// The installed `redis-server`.
///
/// # Errors
/// When there is none; the text names the package.
pub fn redis_server() -> Result<PathBuf> {
    let mut on_path = search_path().into_iter().map(|dir| dir.join("redis-server"));
    on_path.find(|p| is_program(p)).context(
        "`redis-server` is not on PATH. Install it with `apt-get install --no-install-recommends redis-server`",
    )
}

/// The newest installed `pgbench`, Postgres's benchmark program, which Debian installs beside the server.
///
/// # Errors
/// When there is none; the text names the package.
pub fn pgbench() -> Result<PathBuf> {
    choose_pgbench(postgres_versions(), search_path())
}

fn choose_pgbench(installed: Vec<(u32, PathBuf)>, search_path: Vec<PathBuf>) -> Result<PathBuf> {
    let beside = installed.into_iter().map(|(version, bin)| (version, bin.join("pgbench")));
    let newest = beside.filter(|(_, program)| is_program(program)).max_by_key(|(version, _)| *version);
    let on_path = || search_path.into_iter().map(|dir| dir.join("pgbench")).find(|p| is_program(p));
    newest.map(|(_, program)| program).or_else(on_path).context(
        "`pgbench` is neither on PATH nor in /usr/lib/postgresql/*/bin. \
         Install it with `apt-get install --no-install-recommends postgresql`",
    )
}

/// The major version and the folder of each installed Postgres. Those on PATH come last, so that `max_by_key` prefers
/// them among equal versions.
fn postgres_versions() -> Vec<(u32, PathBuf)> {
    let has_both = |bin: &Path| is_program(&bin.join("postgres")) && is_program(&bin.join("initdb"));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(POSTGRES_VERSIONS).into_iter().flatten().flatten() {
        let bin = entry.path().join("bin");
        if let Some(version) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && has_both(&bin)
        {
            found.push((version, bin));
        }
    }
    for bin in search_path().into_iter().filter(|bin| has_both(bin)) {
        found.extend(ask_version(&bin.join("postgres")).map(|version| (version, bin)));
    }
    found
}

fn ask_version(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres).arg("--version").output().ok()?;
    // postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split_whitespace().nth(2)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

fn missing(redis: bool, postgres: bool) -> String {
    let (what, packages) = match (redis, postgres) {
        (true, false) => ("`redis-server` is not on PATH", "redis-server"),
        (false, true) => ("no `postgres` and `initdb` on PATH or in /usr/lib/postgresql/*/bin", "postgresql"),
        _ => (
            "neither `redis-server` on PATH nor `postgres` and `initdb` on PATH or in /usr/lib/postgresql/*/bin",
            "redis-server postgresql",
        ),
    };
    format!(
        "cannot run embedded stores: {what}. Install them with `apt-get install --no-install-recommends {packages}`, \
         or set REDIS_URL and DATABASE_URL to use your own servers"
    )
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_newest_pgbench_is_chosen_and_without_one_the_error_names_its_package() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str, mode| {
            let bin = dir.path().join(name);
            fs::create_dir(&bin).unwrap();
            fs::write(bin.join("pgbench"), "").unwrap();
            fs::set_permissions(bin.join("pgbench"), Permissions::from_mode(mode)).unwrap();
            bin
        };
        let (old, new, newest) = (folder("14", 0o755), folder("15", 0o755), folder("17", 0o644));
        let installed = vec![(14, old), (17, newest), (15, new.clone())];
        assert_eq!(choose_pgbench(installed, vec![]).unwrap(), new.join("pgbench"));
        assert_eq!(choose_pgbench(vec![], vec![new.clone()]).unwrap(), new.join("pgbench"));

        let error = choose_pgbench(vec![(16, dir.path().to_owned())], vec![]).unwrap_err().to_string();
        assert!(error.contains("apt-get install --no-install-recommends postgresql"), "{error}");
    }
}
