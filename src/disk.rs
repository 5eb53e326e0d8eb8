//! Free space on the disk of a store. A full disk ends Redis, makes Postgres's commits fail, and keeps both from logging
//! the reason.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::config;

/// A file in the folder of each embedded store; the store's processes hold a lock on the file.
pub const STORE_LOCK: &str = "alive.lock";

/// How much an unprivileged user may still write to the disk of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// Whether a new file can be made.
    pub has_inodes: bool,
}

/// `None` if the system does not say.
#[must_use]
pub fn space(folder: &Path) -> Option<DiskSpace> {
    let disk = statvfs(folder).ok()?;
    let unit = disk.fragment_size();
    Some(DiskSpace {
        // Without the blocks that are reserved for root.
        free_bytes: disk.blocks_available().saturating_mul(unit),
        total_bytes: disk.blocks().saturating_mul(unit),
        has_inodes: disk.files() == 0 || disk.files_available() > 0,
    })
}

/// A sentence that says that the disk of a folder is full; `None` if it is not. A disk counts as full below
/// `DISK_FULL_BELOW_BYTES`: Postgres frees the 16 MB of a new WAL file again when they do not fit.
#[must_use]
pub fn shortage(folder: &Path) -> Option<String> {
    let space = space(folder)?;
    let is_full = !space.has_inodes || space.free_bytes < config::DISK_FULL_BELOW_BYTES;
    is_full.then(|| sentence(folder, space, "full"))
}

/// As [`shortage`], after an error. An error of a full disk counts even when there is space again, since the failed
/// write may have freed the space.
#[must_use]
pub fn shortage_after(error: &str, folder: &Path) -> Option<String> {
    let too_small = || Some(sentence(folder, space(folder)?, "too small"));
    shortage(folder).or_else(|| is_disk_full_error(error).then(too_small).flatten())
}

fn sentence(folder: &Path, space: DiskSpace, state: &str) -> String {
    let folder = folder.display();
    if !space.has_inodes {
        return format!("the disk of {folder} is {state}: it has no free inode");
    }
    let (free, total) = (space.free_bytes / 1_000_000, space.total_bytes / 1_000_000);
    format!("the disk of {folder} is {state}: {free} of {total} MB are free")
}

/// Whether the folder belongs to an embedded store. Otherwise it belongs to a server of the operator.
#[must_use]
pub fn is_embedded_store(folder: &Path) -> bool {
    folder.join(STORE_LOCK).exists()
}

/// Whether an error text, of the system, of a store or of this file, says that a disk is full.
#[must_use]
pub fn is_disk_full_error(error: &str) -> bool {
    ["is full: ", "No space left", "Disk quota exceeded", "53100", "MISCONF"]
        .iter()
        .any(|text| error.contains(text))
}
