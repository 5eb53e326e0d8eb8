//! The user that a store runs as, the folder that only this user can read, and commands that run as this user. If root
//! starts the program, the stores run as an unprivileged user, otherwise as the current user.

use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, User};
use tokio::process::Command;

/// The only variables of this process that a store gets: the others may hold secrets.
const PASSED_VARIABLES: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// A user of this machine.
#[derive(Clone, Debug)]
pub struct StoreUser {
    name: String,
    uid: u32,
    gid: u32,
    /// Whether this process is root and has to switch to this user.
    is_switched_to: bool,
}

/// The folder of one store. It belongs to the store's user and has mode 0700.
#[derive(Clone, Debug)]
pub struct StoreFolder {
    pub path: PathBuf,
    pub user: StoreUser,
}

impl StoreUser {
    /// For root: the user `postgres` or `nobody`, since Postgres refuses to run as root.
    ///
    /// # Errors
    /// When root finds neither.
    pub fn for_postgres() -> Result<Self> {
        Self::choose(&["postgres", "nobody"])
    }

    /// For root: the user `redis`, `postgres` or `nobody`.
    ///
    /// # Errors
    /// When root finds none of them.
    pub fn for_redis() -> Result<Self> {
        Self::choose(&["redis", "postgres", "nobody"])
    }

    fn choose(names: &[&str]) -> Result<Self> {
        let euid = Uid::effective();
        if !euid.is_root() {
            let gid = nix::unistd::Gid::effective().as_raw();
            return Ok(Self { name: format!("uid {euid}"), uid: euid.as_raw(), gid, is_switched_to: false });
        }
        for name in names {
            if let Some(user) = User::from_name(name).context("cannot look up users")? {
                let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
                return Ok(Self { name: user.name, uid, gid, is_switched_to: true });
            }
        }
        bail!("root has to run the stores as an unprivileged user, but none of {} exists", names.join(", "))
    }

    /// Runs `program` as this user, in a separate process group: Ctrl-C in a terminal must not reach it.
    pub fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C.UTF-8").current_dir(folder).process_group(0);
        for name in PASSED_VARIABLES {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if self.is_switched_to {
            // The standard library then removes root's supplementary groups too.
            command.uid(self.uid).gid(self.gid);
        }
        command
    }
}

impl StoreFolder {
    /// Makes the folder if it is absent, and sets its mode.
    ///
    /// # Errors
    /// When the path is not a folder, or belongs to another user.
    pub fn prepare(path: PathBuf, user: StoreUser) -> Result<Self> {
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            other => other.with_context(|| format!("cannot make {}", path.display()))?,
        }
        let meta = fs::symlink_metadata(&path)
            .with_context(|| format!("cannot read the owner of {}", path.display()))?;
        if !meta.is_dir() {
            bail!("{} is not a folder: move it away", path.display());
        }
        if user.is_switched_to && meta.uid() == 0 && fs::read_dir(&path).is_ok_and(|mut d| d.next().is_none())
        {
            chown(&path, Some(user.uid), Some(user.gid))
                .with_context(|| format!("cannot give {} to the user {}", path.display(), user.name))?;
        } else if meta.uid() != user.uid {
            bail!(
                "{0} belongs to uid {1}, but its store runs as {2} (uid {3}) here: run seckill as it ran before, \
                 or stop it everywhere and `chown -R {3}:{4} {0}`",
                path.display(),
                meta.uid(),
                user.name,
                user.uid,
                user.gid
            );
        }
        fs::set_permissions(&path, Permissions::from_mode(0o700))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        Ok(Self { path, user })
    }
}
