//! The first start: makes the cluster with its database, whole and on disk, or not at all.

use std::fs::{self, File};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use command_fds::{CommandFdExt, FdMapping};

use nix::unistd::syncfs;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{CLUSTER, DATABASE, Postgres, USER};
use crate::disk;
use crate::embedded::{CancellationToken, takeover};

/// Where each process of the first start has the lock, `initdb`'s own children too: their stdin is taken.
const LOCK_FD: RawFd = 3;

impl Postgres {
    /// Makes the cluster and its database under another name first: there is a whole one or none. Told to stop,
    /// it ends without either.
    pub(in crate::embedded) async fn initialise(&self, stop: &CancellationToken) -> Result<()> {
        if self.cluster().join("PG_VERSION").exists() {
            return Ok(());
        }
        let made = stop.run_until_cancelled(self.make_cluster()).await.unwrap_or(Ok(()));
        made.map_err(|error| match disk::shortage_behind(&format!("{error:#}"), &self.folder.path) {
            Some(shortage) => error.context(shortage),
            None => error,
        })
    }

    async fn make_cluster(&self) -> Result<()> {
        let alive = takeover::take_over(self).await?;
        self.remove_half_made()?;
        let new = self.folder.path.join(format!("{CLUSTER}.new-{}", std::process::id()));
        let mut initdb = self.folder.account.command(&self.bin.join("initdb"), &self.folder.path);
        initdb.arg("--no-sync").arg("-D").arg(&new);
        initdb.args(["--username", USER, "--encoding=UTF8", "--locale=C.UTF-8"]);
        // The same order as C.UTF-8's, but compared as bytes and never changed by a new libc.
        initdb.arg("--lc-collate=C");
        // Safe: only the owner of the 0700 folder, and root, can reach the socket; no TCP.
        initdb.arg("--auth=trust");
        let (status, said) = run(initdb, &alive, b"").await?;
        if !status.success() {
            bail!("initdb failed ({status}): {said}");
        }
        self.create_database(&new, &alive).await?;
        sync_filesystem(&new).await?;
        fs::rename(&new, self.cluster()).context("cannot put the new cluster in its place")?;
        File::open(&self.folder.path)
            .and_then(|folder| folder.sync_all())
            .context("cannot sync the new cluster")
    }

    async fn create_database(&self, cluster: &Path, alive: &File) -> Result<()> {
        let mut postgres = self.folder.account.command(&self.bin.join("postgres"), &self.folder.path);
        postgres.arg("--single").arg("-F").arg("-D").arg(cluster);
        postgres.args(["-c", "log_checkpoints=off", "postgres"]);
        let statement = format!("create database {DATABASE};\n");
        let (status, said) = run(postgres, alive, statement.as_bytes()).await?;
        // A single-user server goes on after an error and ends with success.
        if !status.success() || said.contains("ERROR") || said.contains("FATAL") {
            bail!("postgres could not create the database ({status}): {said}");
        }
        Ok(())
    }

    fn remove_half_made(&self) -> Result<()> {
        let half_made = format!("{CLUSTER}.new-");
        let entries = fs::read_dir(&self.folder.path).context("cannot read the folder of Postgres")?;
        for entry in entries.flatten() {
            if entry.file_name().as_bytes().starts_with(half_made.as_bytes()) {
                fs::remove_dir_all(entry.path())
                    .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }
}

/// How the program ended and what it said on stderr. It holds the lock for as long as any of its processes lives.
async fn run(mut command: Command, alive: &File, input: &[u8]) -> Result<(ExitStatus, String)> {
    let program = command.as_std().get_program().display().to_string();
    let lock = alive.try_clone().context("cannot share the lock")?;
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command.fd_mappings(vec![FdMapping { parent_fd: lock.into(), child_fd: LOCK_FD }])?;
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    // Else our own copy of the lock would outlive its processes.
    drop(command);
    let mut stdin = child.stdin.take().with_context(|| format!("{program} has no stdin"))?;
    let written = stdin.write_all(input).await;
    drop(stdin);
    let output = child.wait_with_output().await.with_context(|| format!("cannot wait for {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        written.with_context(|| format!("{program} did not read its commands"))?;
    }
    Ok((output.status, said))
}

/// One flush instead of initdb's thousand, each of which waits its turn on a busy disk.
async fn sync_filesystem(path: &Path) -> Result<()> {
    let directory = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    tokio::task::spawn_blocking(move || syncfs(directory))
        .await
        .context("the thread that syncs the new cluster failed")?
        .context("cannot sync the new cluster")
}
