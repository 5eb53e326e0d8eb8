//! The data directory: its path, mode, lock and generated secrets. The folders of the stores inside it belong to
//! `embedded`; the callers decide whether a setting replaces a secret.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::Uid;
use tracing::{info, warn};

use crate::config::{self, Credential};

/// File of the admin API's bearer token.
pub const ADMIN_TOKEN: &str = "admin-token";
/// File of the HS256 secret of user tokens.
pub const JWT_SECRET: &str = "jwt-secret";

const DEFAULT: &str = "./data";
const DEFAULT_OF_ROOT: &str = "/var/lib/seckill";
const LOCK: &str = "lock";
/// The users of the stores can reach their folders inside the data directory, but cannot list the data directory.
const MODE: u32 = 0o711;

/// A data directory that exists and is reachable for the users of the stores.
#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
}

/// Held by the process that runs the stores in the directory.
#[derive(Debug)]
pub struct DataDirLock {
    file: File,
}

impl DataDir {
    /// Finds the directory, or makes it. Without `explicit`, the directory is `./data`; for root it is
    /// `/var/lib/seckill` if the users of the stores cannot reach `./data`.
    ///
    /// # Errors
    /// When the directory cannot be made, other users may write into it, or the users of the stores cannot reach it.
    pub fn open(explicit: Option<&Path>) -> Result<Self> {
        let path = resolve(explicit)?;
        if explicit.is_none() && path == Path::new(DEFAULT_OF_ROOT) {
            info!(
                data_dir = %path.display(),
                "the unprivileged user that root runs Postgres as cannot reach {DEFAULT}; the data directory is {}",
                path.display()
            );
        }
        if Uid::effective().is_root()
            && let Some(blocking) = blocking_ancestor(&path)
        {
            bail!(unreachable_text(&path, &blocking));
        }
        create(&path).with_context(|| {
            format!("cannot make the data directory {}: choose another with SECKILL_DATA_DIR", path.display())
        })?;
        let path = path.canonicalize().with_context(|| format!("cannot open {}", path.display()))?;
        set_or_check_mode(&path)?;
        Ok(Self { path })
    }

    /// The path that [`open`](Self::open) would use; makes nothing. Prefers an existing data directory.
    pub fn locate(explicit: Option<&Path>) -> PathBuf {
        let resolved = resolve(explicit).unwrap_or_else(|_| PathBuf::from(DEFAULT));
        if explicit.is_some() {
            return resolved;
        }
        [resolved.as_path(), Path::new(DEFAULT), Path::new(DEFAULT_OF_ROOT)]
            .into_iter()
            .find(|path| [LOCK, ADMIN_TOKEN, JWT_SECRET].iter().any(|name| path.join(name).exists()))
            .map_or_else(
                || resolved.clone(),
                |path| std::path::absolute(path).unwrap_or_else(|_| path.into()),
            )
    }

    /// Absolute and free of symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text of `<data>/<name>`. The first call generates the text; concurrent first calls return the same text.
    ///
    /// # Errors
    /// When the file is empty, or cannot be read or made.
    pub fn secret(&self, name: &str) -> Result<String> {
        let path = self.path.join(name);
        if !path.try_exists().with_context(|| format!("cannot look for {}", path.display()))? {
            generate_secret(&self.path, name)
                .with_context(|| format!("cannot generate {}", path.display()))?;
        }
        read_secret(&self.path, name)
    }

    /// Locks the directory for this process, until the lock is dropped or the process ends in any way.
    ///
    /// # Errors
    /// When another process holds the lock, or the lock file cannot be opened.
    pub fn lock(&self) -> Result<DataDirLock> {
        let path = self.path.join(LOCK);
        // Mode 0600: any user who can open the file could lock it.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| cannot_open(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(in_use(&self.path, &mut file)),
            Err(TryLockError::Error(e)) => {
                return Err(e).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(DataDirLock { file })
    }
}

impl DataDirLock {
    /// A copy of the descriptor, for another process: the lock ends with its last copy.
    ///
    /// # Errors
    /// When no more files may be open.
    pub fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// The lock of another process, which this process has got. Names this process as its holder.
    ///
    /// # Errors
    /// When the lock file cannot be written.
    pub fn adopt(descriptor: OwnedFd) -> Result<Self> {
        let mut file = File::from(descriptor);
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .context("cannot write the lock file of the data directory")?;
        Ok(Self { file })
    }

    /// Whether a process runs the stores in this directory.
    ///
    /// # Errors
    /// When the directory belongs to another user.
    pub fn is_held(data_dir: &Path) -> Result<bool> {
        let path = data_dir.join(LOCK);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e).with_context(|| cannot_open(&path)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// The text of `<data_dir>/<name>` without its final line end; generates nothing.
///
/// # Errors
/// When the file is missing, unreadable, or not a valid credential; the text says what to do.
pub fn read_secret(data_dir: &Path, name: &str) -> Result<String> {
    let path = data_dir.join(name);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => bail!(
            "{} does not exist: run `seckill serve` first, or set SECKILL_DATA_DIR to its data directory, or set {}",
            path.display(),
            variable_of(name)
        ),
        Err(e) => {
            return Err(e).with_context(|| {
                format!(
                    "cannot read {}: run this as the user that runs the server, or set {}",
                    path.display(),
                    variable_of(name)
                )
            });
        }
    };
    let kind = if name == ADMIN_TOKEN { Credential::AdminToken } else { Credential::JwtSecret };
    let shown = path.display().to_string();
    let secret = match std::str::from_utf8(&bytes) {
        Ok(text) => kind.read(&shown, text),
        Err(_) => Err(format!("{shown} is not UTF-8 text")),
    };
    let secret = secret.map_err(|wrong| {
        anyhow!("{wrong}: write one line of text into it, or delete it so that a new one is generated")
    })?;
    if fs::metadata(&path).is_ok_and(|meta| meta.mode() & 0o077 != 0) {
        warn!("other users may read the secret in {0}: chmod 600 {0}", path.display());
    }
    Ok(secret)
}

fn variable_of(name: &str) -> String {
    format!("SECKILL_{}", name.to_uppercase().replace('-', "_"))
}

fn generate_secret(data_dir: &Path, name: &str) -> Result<()> {
    let mut text = String::with_capacity(config::GENERATED_SECRET_BYTES * 2 + 1);
    for byte in rand::random::<[u8; config::GENERATED_SECRET_BYTES]>() {
        write!(text, "{byte:02x}")?;
    }
    text.push('\n');
    let temporary = data_dir.join(format!(".{name}.{:016x}", rand::random::<u64>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // A hard link, unlike a rename, does not replace a file that another process has just made.
    let linked = match fs::hard_link(&temporary, data_dir.join(name)) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    fs::remove_file(&temporary)?;
    linked?;
    File::open(data_dir)?.sync_all()?;
    Ok(())
}

fn resolve(explicit: Option<&Path>) -> Result<PathBuf> {
    let path = std::path::absolute(explicit.unwrap_or(Path::new(DEFAULT)))
        .context("the current directory is gone: cd to another, or set SECKILL_DATA_DIR")?;
    let fall_back = explicit.is_none() && Uid::effective().is_root() && blocking_ancestor(&path).is_some();
    Ok(if fall_back { DEFAULT_OF_ROOT.into() } else { path })
}

/// The uppermost directory above `path` that other users cannot pass through.
fn blocking_ancestor(path: &Path) -> Option<PathBuf> {
    let existing = path.parent()?.ancestors().find_map(|ancestor| ancestor.canonicalize().ok())?;
    let real =
        path.canonicalize().ok().and_then(|real| real.parent().map(Path::to_owned)).unwrap_or(existing);
    real.ancestors()
        .filter(|ancestor| fs::metadata(ancestor).is_ok_and(|meta| meta.mode() & 0o001 == 0))
        .last()
        .map(Path::to_owned)
}

fn create(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create(parent)?;
    }
    match DirBuilder::new().mode(MODE).create(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        other => other?,
    }
    // The umask may have removed the bits that the users of the stores need.
    fs::set_permissions(path, Permissions::from_mode(MODE))
}

/// Sets the mode of an empty directory. A directory with files may serve another purpose: only checks its mode.
fn set_or_check_mode(path: &Path) -> Result<()> {
    let meta = fs::metadata(path).with_context(|| format!("cannot read the mode of {}", path.display()))?;
    let euid = Uid::effective();
    let is_empty = fs::read_dir(path)
        .with_context(|| cannot_open(path))?
        .all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"));
    if is_empty && (euid.is_root() || meta.uid() == euid.as_raw()) {
        return fs::set_permissions(path, Permissions::from_mode(MODE))
            .with_context(|| format!("cannot set the mode of {}", path.display()));
    }
    if meta.mode() & 0o002 != 0 {
        bail!(
            "other users may write into {0}: set SECKILL_DATA_DIR to a folder that only seckill uses, or `chmod 711 {0}`",
            path.display()
        );
    }
    if euid.is_root() && meta.mode() & 0o001 == 0 {
        bail!(unreachable_text(path, path));
    }
    Ok(())
}

fn unreachable_text(path: &Path, blocking: &Path) -> String {
    format!(
        "the unprivileged user that root has to run Postgres as cannot reach the data directory {}, because {1} is \
         closed to other users: `chmod o+x {1}`, or set SECKILL_DATA_DIR to a folder such as {DEFAULT_OF_ROOT}",
        path.display(),
        blocking.display()
    )
}

fn cannot_open(path: &Path) -> String {
    let owner = fs::metadata(path)
        .or_else(|_| fs::metadata(path.parent().unwrap_or(path)))
        .map_or_else(|_| "another user".to_owned(), |meta| format!("uid {}", meta.uid()));
    format!(
        "cannot open {} (it belongs to {owner}, this process is uid {}): run this as that user, or set SECKILL_DATA_DIR",
        path.display(),
        Uid::effective()
    )
}

fn in_use(data_dir: &Path, file: &mut File) -> String {
    let mut pid = String::new();
    let holder = match file.read_to_string(&mut pid) {
        Ok(_) if !pid.trim().is_empty() => format!("process {}", pid.trim()),
        _ => "another process".to_owned(),
    };
    format!(
        "the data directory {} is in use by {holder}: set SECKILL_DATA_DIR to another folder for a separate sale, \
         or run `seckill worker` to join the running server",
        data_dir.display()
    )
}
