//! The time of one flush of the stores' disk: no durable write can be faster.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// One page of Postgres.
const PAGE_BYTES: usize = 8 * 1024;
const FLUSHES: usize = 100;
const FILE: &str = "bench-fdatasync";

/// The median time of an fdatasync after a page was appended to a file in `dir`. Removes the file afterwards.
///
/// # Errors
/// When `dir` cannot be written to.
pub async fn fdatasync(dir: &Path) -> Result<Duration> {
    let path = dir.join(FILE);
    tokio::task::spawn_blocking(move || median_of(&path)).await?
}

fn median_of(path: &Path) -> Result<Duration> {
    let mut times = flush_pages(path).with_context(|| format!("cannot write {}", path.display()))?;
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn flush_pages(path: &Path) -> std::io::Result<Vec<Duration>> {
    let mut file = File::create(path)?;
    let mut times = Vec::with_capacity(FLUSHES);
    for _ in 0..FLUSHES {
        file.write_all(&[0; PAGE_BYTES])?;
        let started = Instant::now();
        file.sync_data()?;
        times.push(started.elapsed());
    }
    Ok(times)
}
