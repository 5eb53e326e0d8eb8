//! How much room the disk of a store has: a full one ends Redis, stops Postgres's commits, and keeps either from
//! logging why.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::config;

/// In the folder of each embedded store; its processes hold a lock on it.
pub const STORE_LOCK: &str = "alive.lock";

/// What a user may still write below a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub free_bytes: u64,
    pub total_bytes: u64,
    pub has_inodes: bool,
}

/// `None` where the system does not tell.
#[must_use]
pub fn room(folder: &Path) -> Option<Room> {
    let disk = statvfs(folder).ok()?;
    let unit = disk.fragment_size();
    Some(Room {
        // Without what only root may use.
        free_bytes: disk.blocks_available().saturating_mul(unit),
        total_bytes: disk.blocks().saturating_mul(unit),
        has_inodes: disk.files() == 0 || disk.files_available() > 0,
    })
}

/// Says that a folder's disk is full, or as good as: a Postgres that finds no room for its next 16 MB of log gives up
/// what it had written of them.
#[must_use]
pub fn shortage(folder: &Path) -> Option<String> {
    let room = room(folder)?;
    (!room.has_inodes || room.free_bytes < config::DISK_FULL_BELOW_BYTES).then(|| told(folder, room, "full"))
}

/// The same after an error that a full disk caused: what failed may have given its room back since.
#[must_use]
pub fn shortage_behind(error: &str, folder: &Path) -> Option<String> {
    let too_small = || Some(told(folder, room(folder)?, "too small"));
    shortage(folder).or_else(|| is_cause_of(error).then(too_small).flatten())
}

fn told(folder: &Path, room: Room, state: &str) -> String {
    let folder = folder.display();
    if !room.has_inodes {
        return format!("the disk of {folder} is {state}: it has no inode left");
    }
    let (free, total) = (room.free_bytes / 1_000_000, room.total_bytes / 1_000_000);
    format!("the disk of {folder} is {state}: {free} of {total} MB are free")
}

/// Whether an embedded store lives there, rather than a server of the operator's own.
#[must_use]
pub fn is_store(folder: &Path) -> bool {
    folder.join(STORE_LOCK).exists()
}

/// Whether an error is about a full disk, in the words of the system, of either store or of this file.
#[must_use]
pub fn is_cause_of(error: &str) -> bool {
    ["is full: ", "No space left", "Disk quota exceeded", "53100", "MISCONF"]
        .iter()
        .any(|words| error.contains(words))
}
