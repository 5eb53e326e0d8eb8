//! A temporary Redis that reads a copy of an RDB file and writes its content as commands. The RDB format belongs to
//! Redis, and each version of Redis reads the files of older ones.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::programs;
use super::redis::is_ready;
use crate::config;

const LOG: &str = "redis.log";

/// The content of an RDB file as Redis's commands. Needs `redis-server` on PATH.
///
/// # Errors
/// If no `redis-server` is installed, or it cannot load the file.
pub async fn commands_of_rdb(rdb: &[u8]) -> Result<Vec<u8>> {
    let folder = tempfile::Builder::new().prefix("seckill-audit-").tempdir()?;
    let path = folder.path();
    tokio::fs::write(path.join("dump.rdb"), rdb).await?;
    let mut server = start(path)?;
    let socket = path.join("redis.sock");
    let written = timeout(config::REBUILD_TIMEOUT, async {
        while !is_ready(&socket).await? {
            if let Some(status) = server.try_wait()? {
                bail!("Redis ended ({status}): {}", last_line(path).await);
            }
            sleep(config::STORE_POLL).await;
        }
        // The first log is a rewrite of all data.
        ask(&socket, "CONFIG SET appendonly yes").await?;
        loop {
            let info = ask(&socket, "INFO persistence").await?;
            let has = |line: &str| info.lines().any(|found| found.trim_end() == line);
            ensure!(
                has("aof_last_bgrewrite_status:ok"),
                "Redis cannot write its data: {}",
                last_line(path).await
            );
            if has("aof_rewrite_in_progress:0") && has("aof_rewrite_scheduled:0") {
                break;
            }
            sleep(config::STORE_POLL).await;
        }
        let base = path.join("appendonlydir/appendonly.aof.1.base.aof");
        tokio::fs::read(&base).await.with_context(|| format!("cannot read {}", base.display()))
    });
    let written = written.await.context("Redis takes too long to read the file")?;
    server.kill().await?;
    written
}

fn start(folder: &Path) -> Result<Child> {
    let log = std::fs::File::create(folder.join(LOG))?;
    let mut command = Command::new(programs::redis_server()?);
    command.arg("--dir").arg(folder).arg("--unixsocket").arg(folder.join("redis.sock"));
    command.args(["--port", "0", "--save", "", "--appendonly", "no", "--aof-use-rdb-preamble", "no"]);
    command.args(["--databases", "16", "--appendfsync", "no"]);
    command.env_clear().current_dir(folder).stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    command.kill_on_drop(true).spawn().context("cannot start redis-server")
}

/// Sends one inline command; returns the reply.
async fn ask(socket: &Path, command: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    ensure!(!reply.starts_with('-'), "Redis refuses {command}: {}", reply.trim_end());
    Ok(reply)
}

async fn last_line(folder: &Path) -> String {
    let log = tokio::fs::read_to_string(folder.join(LOG)).await.unwrap_or_default();
    log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}
