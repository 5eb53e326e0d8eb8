//! What open connections cost in memory, beside warp's own server with the same ones.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::load::{answer, connect_all};
use super::report::whole;
use super::round::Round;
use super::scenarios::{Bench, CONNECTIONS, COUPON, PLENTY, count};
use super::stage::{Server, until};
use crate::config::RESERVED_OPEN_FILES;
use crate::open_files;

const MIB: f64 = 1024.0 * 1024.0;
/// Memory has settled when two looks so far apart see the same, but for what any server's housekeeping moves.
const SETTLING: Duration = Duration::from_millis(300);
const SETTLED_WITHIN_BYTES: u64 = 64 * 1024;
/// Connections that wait to be accepted at a time: the system drops those beyond its queue, and they are tried again
/// only a second later.
const UNACCEPTED: usize = 100;

/// Memory in bytes.
struct Sizes {
    /// Of a connection that has sent nothing.
    silent: f64,
    /// Of the whole process when each connection has sent a request.
    process: f64,
}

impl Bench<'_> {
    pub async fn connections(&self, round: &mut Round) -> anyhow::Result<()> {
        let server = self.stage.start_noop().await?;
        let bare = self.sizes(&server).await?;
        server.stop().await?;
        let server = self.stage.serve(1).await?;
        server.create(COUPON, PLENTY).await?;
        let own = self.sizes(&server).await?;
        server.stop().await?;
        let open = whole(self.plan.connections);
        for (name, sizes) in [("warp alone", &bare), ("the program", &own)] {
            round.add("connections", format!("{name}, a silent one"), sizes.silent, "bytes");
            round.add("connections", format!("{name}, {open} that have claimed"), sizes.process / MIB, "MiB");
        }
        let what = format!("the program ÷ warp alone, {open} that have claimed");
        round.add("connections", what, own.process / bare.process, "");
        Ok(())
    }

    async fn sizes(&self, server: &Server) -> anyhow::Result<Sizes> {
        let pid = server.pid()?;
        let open = self.plan.connections;
        let memory = settled(pid).await?;
        let mut streams = Vec::with_capacity(open);
        while streams.len() < open {
            let more = (open - streams.len()).min(UNACCEPTED);
            streams.append(&mut connect_all(server.address, more).await?);
            // But for the last few, for which it has time while its memory settles.
            let accepted = async || Ok((open_files(pid)? >= streams.len()).then_some(()));
            until("the server has accepted the connections", accepted).await?;
        }
        let silent = count(settled(pid).await?.saturating_sub(memory)) / count(open as u64);
        // Few at a time: it is about connections that are open, not about requests that are under way.
        for (chunk, streams) in streams.chunks_mut(CONNECTIONS).enumerate() {
            let first = chunk * CONNECTIONS;
            let each = streams.iter_mut().enumerate();
            try_join_all(each.map(|(place, stream)| self.claim_once(stream, first + place))).await?;
        }
        Ok(Sizes { silent, process: count(settled(pid).await?) })
    }

    async fn claim_once(&self, stream: &mut TcpStream, user: usize) -> anyhow::Result<()> {
        stream.write_all(self.users.claim(user, COUPON, "").as_bytes()).await?;
        let status = answer(stream, &mut Vec::new()).await?;
        ensure!(status == 202, "a claim was answered {status}");
        Ok(())
    }
}

/// Resident memory in bytes, once it stays as it is.
async fn settled(pid: Pid) -> anyhow::Result<u64> {
    until("the server's memory has settled", async || {
        let before = resident(pid)?;
        tokio::time::sleep(SETTLING).await;
        let now = resident(pid)?;
        Ok((now.abs_diff(before) <= SETTLED_WITHIN_BYTES).then_some(now))
    })
    .await
}

fn resident(pid: Pid) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    resident_in(&status).context("/proc tells no VmRSS")
}

/// The kernel's unit is kB, by which it means 1,024 bytes.
fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1_024)
}

fn open_files(pid: Pid) -> anyhow::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Here and in the servers that are started from here.
///
/// # Errors
/// When the system allows fewer files than so many connections need: better now than minutes later.
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
