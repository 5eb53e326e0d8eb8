//! A data directory for a test, and direct access to its stores.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::Pid;
use seckill::config::StoreAddresses;
use seckill::data_dir::DataDir;
use support::output_of;
use tempfile::TempDir;

pub fn data_dir(parent: &TempDir, name: &str) -> DataDir {
    DataDir::open(Some(&parent.path().join(name))).unwrap()
}

pub fn redis_cli(addresses: &StoreAddresses, arguments: &[&str]) -> Result<String, String> {
    let socket = addresses.redis_socket().unwrap().unwrap();
    output_of(Command::new("redis-cli").arg("-e").arg("-s").arg(socket).args(arguments))
}

pub fn psql(addresses: &StoreAddresses, sql: &str) -> Result<String, String> {
    output_of(
        Command::new("psql")
            .args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(&addresses.database_url),
    )
}

pub fn redis_pid(addresses: &StoreAddresses) -> Option<Pid> {
    let info = redis_cli(addresses, &["info", "server"]).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("process_id:"))?;
    Some(Pid::from_raw(pid.trim().parse().unwrap()))
}

pub fn postmaster_pid(dir: &DataDir) -> Option<Pid> {
    let lock = fs::read_to_string(dir.path().join("postgres/cluster/postmaster.pid")).ok()?;
    Some(Pid::from_raw(lock.lines().next()?.parse().unwrap()))
}

/// Command lines of the running processes of the directory's stores.
pub fn processes_of(dir: &DataDir) -> Vec<String> {
    let needle = dir.path().to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|line| line.contains(needle) && (line.contains("redis-") || line.contains("postgres")))
        .collect()
}

pub fn mode_and_uid(path: &Path) -> (u32, u32) {
    let meta = fs::metadata(path).unwrap();
    (meta.mode() & 0o7777, meta.uid())
}
