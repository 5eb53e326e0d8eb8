//! The data directory: secrets, the lock, and directories that other users control.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::unistd::Uid;
use seckill::data_dir::{ADMIN_TOKEN, DataDir, DataDirLock, JWT_SECRET, read_secret};
use support::temp_dir;

use crate::harness::{data_dir, mode_and_uid};

#[test]
fn secrets_are_private_stable_and_made_once() {
    let parent = temp_dir("seckill-test-");
    let dir = data_dir(&parent, "data");
    let missing = read_secret(dir.path(), ADMIN_TOKEN).unwrap_err().to_string();
    assert!(missing.contains("SECKILL_ADMIN_TOKEN") && missing.contains("seckill serve"), "{missing}");

    let racing: Vec<_> = (0..16)
        .map(|_| {
            let dir = dir.clone();
            std::thread::spawn(move || dir.secret(JWT_SECRET).unwrap())
        })
        .collect();
    let secrets: Vec<String> = racing.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(secrets.iter().all(|secret| *secret == secrets[0]));
    assert_eq!(secrets[0].len(), 64);
    assert_eq!(read_secret(dir.path(), JWT_SECRET).unwrap(), secrets[0]);
    assert_eq!(mode_and_uid(&dir.path().join(JWT_SECRET)), (0o600, Uid::effective().as_raw()));
    assert_ne!(dir.secret(ADMIN_TOKEN).unwrap(), secrets[0]);
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [ADMIN_TOKEN, JWT_SECRET], "no temporary file is left");

    fs::write(dir.path().join(ADMIN_TOKEN), "\n").unwrap();
    assert!(dir.secret(ADMIN_TOKEN).unwrap_err().to_string().contains("is empty"));
}

#[test]
fn the_lock_has_one_holder_at_a_time() {
    let parent = temp_dir("seckill-test-");
    let dir = data_dir(&parent, "data");
    assert!(!DataDirLock::is_held(dir.path()).unwrap());
    let lock = dir.lock().unwrap();
    assert!(DataDirLock::is_held(dir.path()).unwrap());
    assert!(dir.lock().unwrap_err().to_string().contains(&format!("process {}", std::process::id())));
    drop(lock);
    assert!(!DataDirLock::is_held(dir.path()).unwrap());
    dir.lock().unwrap();
}

#[test]
fn a_directory_out_of_reach_is_refused_by_name() {
    if !Uid::effective().is_root() {
        return;
    }
    let parent = temp_dir("seckill-test-");
    let closed = parent.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let wanted = closed.join("below/data");
    let refused = DataDir::open(Some(&wanted)).unwrap_err().to_string();
    assert!(refused.contains(&format!("chmod o+x {}", closed.display())), "{refused}");
    assert!(!closed.join("below").exists());
    // The closed directory itself can be a data directory while it is empty.
    assert_eq!(mode_and_uid(DataDir::open(Some(&closed)).unwrap().path()).0, 0o711);
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let parent = temp_dir("seckill-test-");
    let shared = parent.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("foreign"), "").unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    assert!(DataDir::open(Some(&shared)).unwrap_err().to_string().contains("other users"));
    assert_eq!(mode_and_uid(&shared).0, 0o1777, "left as it was");
}
