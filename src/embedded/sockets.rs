//! The paths and addresses of the stores' sockets. A socket is in its store's folder, or in a short private run
//! directory if the folder's path is too long for a socket or cannot be part of an address.

use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use tracing::{info, warn};

use super::layout::{
    POSTGRES_DATABASE, POSTGRES_FOLDER, POSTGRES_SOCKET, POSTGRES_USER, REDIS_FOLDER, REDIS_SOCKET,
};
use super::user::StoreFolder;
use crate::config::{self, StoreAddresses};

/// The file with the path of the run directory, for processes that join.
const RECORD: &str = "run-dir";
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'_').remove(b'-').remove(b'~');

/// The paths of both sockets.
#[derive(Debug)]
pub struct Sockets {
    /// The socket itself.
    pub redis: PathBuf,
    /// The folder of the socket, which Postgres and its clients take as an address.
    pub postgres_dir: PathBuf,
    data_dir: PathBuf,
    run_dir: Option<PathBuf>,
}

impl Sockets {
    /// Chooses the paths for stores that will start in these folders; makes a run directory if one is needed.
    ///
    /// # Errors
    /// When a run directory is needed and cannot be made.
    pub fn choose(data_dir: &Path, redis: &StoreFolder, postgres: &StoreFolder) -> Result<Self> {
        let record = data_dir.join(RECORD);
        let inside = Self::inside(data_dir, data_dir, None);
        if inside.are_usable() {
            match fs::remove_file(&record) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot remove {}", record.display()));
                }
                _ => return Ok(inside),
            }
        }
        let run_dir = make_run_dir(data_dir)?;
        StoreFolder::prepare(run_dir.join(REDIS_FOLDER), redis.user.clone())?;
        StoreFolder::prepare(run_dir.join(POSTGRES_FOLDER), postgres.user.clone())?;
        fs::write(&record, run_dir.as_os_str().as_bytes())
            .with_context(|| format!("cannot write {}", record.display()))?;
        info!(
            run_dir = %run_dir.display(),
            "the data directory's path cannot be used for sockets: they are in {}",
            run_dir.display()
        );
        Ok(Self::inside(data_dir, &run_dir, Some(run_dir.clone())))
    }

    /// The sockets of the program that runs in this data directory.
    ///
    /// # Errors
    /// When the file that names the run directory cannot be read.
    pub fn locate(data_dir: &Path) -> Result<Self> {
        let record = data_dir.join(RECORD);
        match fs::read_to_string(&record) {
            Ok(run_dir) => Ok(Self::inside(data_dir, Path::new(&run_dir), Some(PathBuf::from(&run_dir)))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self::inside(data_dir, data_dir, None)),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", record.display())),
        }
    }

    /// Addresses as clients take them, percent-encoded.
    pub fn addresses(&self) -> StoreAddresses {
        let encode = |path: &Path| percent_encode(path.as_os_str().as_bytes(), ENCODED).to_string();
        StoreAddresses {
            redis_url: format!("redis+unix://{}", encode(&self.redis)),
            database_url: format!(
                "postgres://{}@localhost/{}?host={}",
                POSTGRES_USER,
                POSTGRES_DATABASE,
                encode(&self.postgres_dir)
            ),
        }
    }

    /// The socket of Postgres itself.
    pub fn postgres(&self) -> PathBuf {
        self.postgres_dir.join(POSTGRES_SOCKET)
    }

    /// Removes the run directory, after the stores have stopped.
    pub fn remove(&self) {
        let Some(run_dir) = &self.run_dir else { return };
        let removed = fs::remove_dir_all(run_dir).and_then(|()| fs::remove_file(self.data_dir.join(RECORD)));
        if let Err(e) = removed {
            warn!(error = %e, "could not remove {}", run_dir.display());
        }
    }

    fn inside(data_dir: &Path, base: &Path, run_dir: Option<PathBuf>) -> Self {
        Self {
            redis: base.join(REDIS_FOLDER).join(REDIS_SOCKET),
            postgres_dir: base.join(POSTGRES_FOLDER),
            data_dir: data_dir.to_owned(),
            run_dir,
        }
    }

    fn are_usable(&self) -> bool {
        [&self.redis, &self.postgres()].into_iter().all(|path| {
            // libpq reads a comma as the start of a second host, and sqlx reads only UTF-8.
            path.as_os_str().len() <= config::SOCKET_PATH_MAX_BYTES
                && path.to_str().is_some_and(|text| !text.contains(','))
        })
    }
}

/// FNV-1a with 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>). The result must be the same in every version of
/// this program: names of directories and processes contain it.
pub fn path_hash(path: &Path) -> u64 {
    path.as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn make_run_dir(data_dir: &Path) -> Result<PathBuf> {
    let bases = if Uid::effective().is_root() {
        [Some(PathBuf::from("/run")), Some(PathBuf::from("/tmp"))]
    } else {
        [std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), Some(PathBuf::from("/tmp"))]
    };
    let mut failures = Vec::new();
    for base in bases.into_iter().flatten() {
        let run_dir = base.join(format!("seckill-{:016x}", path_hash(data_dir)));
        if !base.is_absolute() || !Sockets::inside(data_dir, &run_dir, None).are_usable() {
            continue;
        }
        match make_private(&run_dir) {
            Ok(()) => return Ok(run_dir),
            Err(e) => failures.push(format!("{e:#}")),
        }
    }
    bail!(
        "the data directory's path cannot be used for sockets, and no short run directory could be made ({}): \
         set SECKILL_DATA_DIR to a shorter path",
        failures.join("; ")
    )
}

/// Checks the owner: in a folder such as /tmp another user may have made the directory first.
fn make_private(run_dir: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o711).create(run_dir) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        other => other.with_context(|| format!("cannot make {}", run_dir.display()))?,
    }
    let meta = fs::symlink_metadata(run_dir)?;
    if !meta.is_dir() || meta.uid() != Uid::effective().as_raw() || meta.mode() & 0o022 != 0 {
        bail!("{} is not a folder that only this user can write to: remove it", run_dir.display());
    }
    fs::set_permissions(run_dir, Permissions::from_mode(0o711))?;
    Ok(())
}
