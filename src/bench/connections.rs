//! Memory of open connections, compared with warp's own server at the same number of connections.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::fixture::{Server, wait_until};
use super::load::{answer, connect_all};
use super::measurements::Measurements;
use super::rate::to_f64;
use super::report::format_count;
use super::scenarios::{Bench, CONNECTIONS, COUPON, MANY_UNITS};
use crate::config::RESERVED_OPEN_FILES;
use crate::open_files;

const MIB: f64 = 1024.0 * 1024.0;
/// Memory is stable when two measurements with this pause differ by at most `STABLE_WITHIN_BYTES`, the noise of a server's
/// background work.
const STABLE_FOR: Duration = Duration::from_millis(300);
const STABLE_WITHIN_BYTES: u64 = 64 * 1024;
/// How many connections may wait until the server accepts them: the system drops further ones, and the client retries
/// after a second.
const ACCEPT_QUEUE_MAX: usize = 100;

/// Memory in bytes.
struct Sizes {
    /// For each connection that has sent nothing.
    silent: f64,
    /// Of the whole process, after each connection has claimed once.
    process: f64,
}

impl Bench<'_> {
    pub async fn connections(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let server = self.fixture.start_noop_server().await?;
        let bare = self.sizes(&server).await?;
        server.stop().await?;
        let server = self.fixture.start_empty_server(1).await?;
        server.create(COUPON, MANY_UNITS).await?;
        let own = self.sizes(&server).await?;
        server.stop().await?;
        let open = format_count(self.parameters.connections);
        for (name, sizes) in [("warp alone", &bare), ("the program", &own)] {
            results.add("connections", format!("{name}, a silent one"), sizes.silent, "bytes");
            results.add(
                "connections",
                format!("{name}, {open} that have claimed"),
                sizes.process / MIB,
                "MiB",
            );
        }
        let what = format!("the program ÷ warp alone, {open} that have claimed");
        results.add("connections", what, own.process / bare.process, "");
        Ok(())
    }

    async fn sizes(&self, server: &Server) -> anyhow::Result<Sizes> {
        let pid = server.pid()?;
        let open = self.parameters.connections;
        let memory = stable_memory(pid).await?;
        let mut streams = Vec::with_capacity(open);
        while streams.len() < open {
            let more = (open - streams.len()).min(ACCEPT_QUEUE_MAX);
            streams.append(&mut connect_all(server.address, more).await?);
            // The last few connections may still wait: the server accepts them while `stable_memory` runs.
            let accepted = async || Ok((open_files(pid)? >= streams.len()).then_some(()));
            wait_until("the server has accepted the connections", accepted).await?;
        }
        let silent = to_f64(stable_memory(pid).await?.saturating_sub(memory)) / to_f64(open as u64);
        // Few at a time: this measures open connections, not concurrent requests.
        for (chunk, streams) in streams.chunks_mut(CONNECTIONS).enumerate() {
            let first = chunk * CONNECTIONS;
            let each = streams.iter_mut().enumerate();
            try_join_all(each.map(|(place, stream)| self.claim_once(stream, first + place))).await?;
        }
        Ok(Sizes { silent, process: to_f64(stable_memory(pid).await?) })
    }

    async fn claim_once(&self, stream: &mut TcpStream, user: usize) -> anyhow::Result<()> {
        stream.write_all(self.users.claim(user, COUPON, "").as_bytes()).await?;
        let status = answer(stream, &mut Vec::new()).await?;
        ensure!(status == 202, "a claim was answered {status}");
        Ok(())
    }
}

/// Resident memory in bytes, once it is stable.
async fn stable_memory(pid: Pid) -> anyhow::Result<u64> {
    wait_until("the server's memory is stable", async || {
        let before = resident(pid)?;
        tokio::time::sleep(STABLE_FOR).await;
        let now = resident(pid)?;
        Ok((now.abs_diff(before) <= STABLE_WITHIN_BYTES).then_some(now))
    })
    .await
}

fn resident(pid: Pid) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    resident_in(&status).context("/proc does not show VmRSS")
}

/// The kernel's kB is 1,024 bytes (<https://man7.org/linux/man-pages/man5/proc_pid_status.5.html>).
fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1_024)
}

fn open_files(pid: Pid) -> anyhow::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Raises the limit of open files of this process and of the servers that it starts.
///
/// # Errors
/// When the system allows fewer files than this number of connections needs.
pub fn allow_files_for(connections: usize) -> anyhow::Result<()> {
    let needed = (connections + RESERVED_OPEN_FILES) as u64;
    let allowed = open_files::raise_limit(needed).context("cannot raise the limit of open files")?;
    ensure!(
        allowed >= needed,
        "{connections} connections need {needed} open files, and this system allows {allowed}: raise the hard limit (ulimit -Hn)"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::resident_in;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let status = "Name:\tseckill\nVmHWM:\t   99999 kB\nVmRSS:\t   12345 kB\nThreads:\t3\n";
        assert_eq!(resident_in(status), Some(12_641_280));
        assert_eq!(resident_in("Name:\tseckill\n"), None);
    }
}
