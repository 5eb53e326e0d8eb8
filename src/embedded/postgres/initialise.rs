//! The first start: makes the cluster with its database, whole and on disk, or not at all.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use nix::unistd::syncfs;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{CLUSTER, DATABASE, Postgres, USER};
use crate::embedded::takeover;

impl Postgres {
    /// Makes the cluster and its database under another name first: there is a whole one or none.
    pub(in crate::embedded) async fn initialise(&self) -> Result<()> {
        if self.cluster().join("PG_VERSION").exists() {
            return Ok(());
        }
        let alive = takeover::clear(self, None).await?;
        self.remove_half_made()?;
        let new = self.folder.path.join(format!("{CLUSTER}.new-{}", std::process::id()));
        self.run("initdb", &alive, |command| {
            command.arg("--no-sync").arg("-D").arg(&new);
            command.args(["--username", USER, "--encoding=UTF8", "--locale=C.UTF-8"]);
            // The same order as C.UTF-8's, but compared as bytes and never changed by a new libc.
            command.arg("--lc-collate=C");
            // Safe: only the owner of the 0700 folder, and root, can reach the socket; no TCP.
            command.arg("--auth=trust");
        })
        .await?;
        self.create_database(&new).await?;
        sync_filesystem(&new).await?;
        fs::rename(&new, self.cluster()).context("cannot put the new cluster in its place")?;
        File::open(&self.folder.path)
            .and_then(|folder| folder.sync_all())
            .context("cannot sync the new cluster")
    }

    async fn create_database(&self, cluster: &Path) -> Result<()> {
        let mut command = self.folder.account.command(&self.bin.join("postgres"), &self.folder.path);
        command.arg("--single").arg("-F").arg("-D").arg(cluster).args([
            "-c",
            "log_checkpoints=off",
            "postgres",
        ]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot run postgres")?;
        let mut stdin = child.stdin.take().context("postgres has no stdin")?;
        let written = stdin.write_all(format!("create database {DATABASE};\n").as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.context("cannot wait for postgres")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        // A single-user server goes on after an error and ends with success.
        if !output.status.success() || errors.contains("ERROR") || errors.contains("FATAL") {
            bail!("postgres could not create the database ({}): {}", output.status, errors.trim());
        }
        written.context("postgres did not read its commands")
    }

    async fn run(&self, program: &str, alive: &File, arguments: impl FnOnce(&mut Command)) -> Result<()> {
        let mut command = self.folder.account.command(&self.bin.join(program), &self.folder.path);
        arguments(&mut command);
        command.stdin(Stdio::from(alive.try_clone().context("cannot share the lock")?)).kill_on_drop(true);
        let output = command.output().await.with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            bail!("{program} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
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

/// One flush instead of initdb's thousand, each of which waits its turn on a busy disk.
async fn sync_filesystem(path: &Path) -> Result<()> {
    let directory = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    tokio::task::spawn_blocking(move || syncfs(directory))
        .await
        .context("the thread that syncs the new cluster failed")?
        .context("cannot sync the new cluster")
}
