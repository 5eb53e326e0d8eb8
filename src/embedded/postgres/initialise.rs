//! The first start: makes the cluster with its database under a temporary name, and renames it when it is complete and
//! on disk. A crash then leaves a complete cluster or none.

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

use tokio_util::sync::CancellationToken;

use super::Postgres;
use crate::disk;
use crate::embedded::layout::{POSTGRES_CLUSTER, POSTGRES_DATABASE, POSTGRES_USER};
use crate::embedded::stopping;

/// The descriptor of the lock in each process of the first start, also in children of `initdb`; stdin is used for other
/// input.
const LOCK_FD: RawFd = 3;

impl Postgres {
    /// Makes the cluster and its database if there is none yet. Makes nothing when `stop` comes first.
    ///
    /// # Errors
    /// When a program of Postgres fails, or the disk is full.
    pub async fn initialise(&self, stop: &CancellationToken) -> Result<()> {
        if self.cluster().join("PG_VERSION").exists() {
            return Ok(());
        }
        let outcome = stop.run_until_cancelled(self.make_cluster()).await.unwrap_or(Ok(()));
        outcome.map_err(|error| match disk::shortage_after(&format!("{error:#}"), &self.folder.path) {
            Some(shortage) => error.context(shortage),
            None => error,
        })
    }

    async fn make_cluster(&self) -> Result<()> {
        let lock = stopping::stop_left_over(self).await?;
        self.remove_incomplete_clusters()?;
        let new = self.folder.path.join(format!("{POSTGRES_CLUSTER}.new-{}", std::process::id()));
        let mut initdb = self.folder.user.command(&self.bin.join("initdb"), &self.folder.path);
        initdb.arg("--no-sync").arg("-D").arg(&new);
        initdb.args(["--username", POSTGRES_USER, "--encoding=UTF8", "--locale=C.UTF-8"]);
        // Sorts like C.UTF-8, but a new version of libc cannot change the order.
        initdb.arg("--lc-collate=C");
        // Safe: the socket is in a folder with mode 0700, and the server does not listen on TCP.
        initdb.arg("--auth=trust");
        let (status, stderr) = run(initdb, &lock, b"").await?;
        if !status.success() {
            bail!("initdb failed ({status}): {stderr}");
        }
        self.create_database(&new, &lock).await?;
        sync_filesystem(&new).await?;
        fs::rename(&new, self.cluster()).context("cannot rename the new cluster")?;
        File::open(&self.folder.path)
            .and_then(|folder| folder.sync_all())
            .context("cannot sync the new cluster")
    }

    async fn create_database(&self, cluster: &Path, lock: &File) -> Result<()> {
        let mut postgres = self.folder.user.command(&self.bin.join("postgres"), &self.folder.path);
        postgres.arg("--single").arg("-F").arg("-D").arg(cluster);
        postgres.args(["-c", "log_checkpoints=off", "postgres"]);
        let statement = format!("create database {POSTGRES_DATABASE};\n");
        let (status, stderr) = run(postgres, lock, statement.as_bytes()).await?;
        // A single-user server continues after an error and exits with success.
        if !status.success() || stderr.contains("ERROR") || stderr.contains("FATAL") {
            bail!("postgres could not create the database ({status}): {stderr}");
        }
        Ok(())
    }

    fn remove_incomplete_clusters(&self) -> Result<()> {
        let prefix = format!("{POSTGRES_CLUSTER}.new-");
        let entries = fs::read_dir(&self.folder.path).context("cannot read the folder of Postgres")?;
        for entry in entries.flatten() {
            if entry.file_name().as_bytes().starts_with(prefix.as_bytes()) {
                fs::remove_dir_all(entry.path())
                    .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }
}

/// Runs the program; returns its exit status and its stderr. Each of its processes holds the lock.
async fn run(mut command: Command, lock: &File, input: &[u8]) -> Result<(ExitStatus, String)> {
    let program = command.as_std().get_program().display().to_string();
    let lock = lock.try_clone().context("cannot share the lock")?;
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command.fd_mappings(vec![FdMapping { parent_fd: lock.into(), child_fd: LOCK_FD }])?;
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    // Drops the copy of the lock that this process has.
    drop(command);
    let mut stdin = child.stdin.take().with_context(|| format!("{program} has no stdin"))?;
    let written = stdin.write_all(input).await;
    drop(stdin);
    let output = child.wait_with_output().await.with_context(|| format!("cannot wait for {program}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        written.with_context(|| format!("{program} did not read its commands"))?;
    }
    Ok((output.status, stderr))
}

/// Flushes the file system once, instead of the thousand separate flushes of `initdb`.
async fn sync_filesystem(path: &Path) -> Result<()> {
    let directory = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    tokio::task::spawn_blocking(move || syncfs(directory))
        .await
        .context("the thread that syncs the new cluster failed")?
        .context("cannot sync the new cluster")
}
