//! The disk of the embedded stores. External stores have no finding here.

use std::path::Path;

use super::finding::Finding;
use crate::{config, disk};

/// Whether the embedded stores have free disk space; `None` if there are none, or the system does not say.
pub fn space(folder: Option<&Path>) -> Option<Finding> {
    let check = "disk";
    let folder = folder?;
    let space = disk::space(folder)?;
    if let Some(shortage) = disk::shortage(folder) {
        return Some(Finding::red(
            check,
            shortage,
            "free disk space: the stores then continue by themselves",
        ));
    }
    let (free, total) = (space.free_bytes / 1_000_000, space.total_bytes / 1_000_000);
    let what = format!("{free} of {total} MB are free for the embedded stores");
    Some(if space.free_bytes < config::DOCTOR_DISK_YELLOW_BYTES {
        Finding::yellow(check, what, "free disk space: without it claims are refused")
    } else {
        Finding::green(check, what)
    })
}

/// What to do about an embedded store that does not answer. It has no password, so only its log or its disk can show
/// the cause.
pub fn advice_for_store(folder: &Path, log: &str, error: &str) -> String {
    if disk::is_disk_full_error(error) {
        let folder = folder.display();
        return format!("free space on the disk of {folder}: the store then continues by itself");
    }
    format!("find the cause in {} and in the log of `seckill serve`", folder.join(log).display())
}
