//! Which user a store runs as, the folder that belongs to that user alone, and a command line that
//! runs as it. As root neither store keeps root's rights; otherwise both are the current user.

use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, User};
use tokio::process::Command;

/// Programs are looked up and linked as ours was; nothing else of our environment, least of all the
/// secrets in it, reaches a store.
const KEPT_VARIABLES: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

#[derive(Clone, Debug)]
pub(super) struct Account {
    name: String,
    uid: u32,
    gid: u32,
    /// Whether we are root and have to become this user.
    dropped_to: bool,
}

/// A store's own folder: 0700, and its user's.
#[derive(Clone, Debug)]
pub(super) struct StoreFolder {
    pub path: PathBuf,
    pub account: Account,
}

impl Account {
    /// Postgres refuses to run as root.
    pub fn for_postgres() -> Result<Self> {
        Self::choose(&["postgres", "nobody"])
    }

    pub fn for_redis() -> Result<Self> {
        Self::choose(&["redis", "postgres", "nobody"])
    }

    fn choose(names: &[&str]) -> Result<Self> {
        let euid = Uid::effective();
        if !euid.is_root() {
            let gid = nix::unistd::Gid::effective().as_raw();
            return Ok(Self { name: format!("uid {euid}"), uid: euid.as_raw(), gid, dropped_to: false });
        }
        for name in names {
            if let Some(user) = User::from_name(name).context("cannot look up users")? {
                let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
                return Ok(Self { name: user.name, uid, gid, dropped_to: true });
            }
        }
        bail!("root has to run the stores as an unprivileged user, but there is none of {}", names.join(", "))
    }

    /// `program` as this user, in its own process group: a terminal's Ctrl-C is ours to handle.
    pub fn command(&self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C.UTF-8").current_dir(folder).process_group(0);
        for name in KEPT_VARIABLES {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if self.dropped_to {
            // The standard library drops root's supplementary groups along with the uid.
            command.uid(self.uid).gid(self.gid);
        }
        command
    }
}

impl StoreFolder {
    pub fn prepare(path: PathBuf, account: Account) -> Result<Self> {
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            other => other.with_context(|| format!("cannot make {}", path.display()))?,
        }
        let meta =
            fs::symlink_metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?;
        if !meta.is_dir() {
            bail!("{} is not a folder: move it away", path.display());
        }
        if account.dropped_to && meta.uid() == 0 && fs::read_dir(&path).is_ok_and(|mut d| d.next().is_none())
        {
            chown(&path, Some(account.uid), Some(account.gid))
                .with_context(|| format!("cannot give {} to the user {}", path.display(), account.name))?;
        } else if meta.uid() != account.uid {
            bail!(
                "{0} belongs to uid {1}, but its store runs as {2} (uid {3}) here: run seckill as it ran before, \
                 or stop it everywhere and `chown -R {3}:{4} {0}`",
                path.display(),
                meta.uid(),
                account.name,
                account.uid,
                account.gid
            );
        }
        fs::set_permissions(&path, Permissions::from_mode(0o700))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        Ok(Self { path, account })
    }
}
