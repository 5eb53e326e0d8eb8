//! The files of an append-only file (Redis 7): the manifest, the base and the incremental files. All are opened before
//! they are read: a rewrite may replace them at the same time, and removes files whose content is in the new base.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;

use crate::config;

pub const MANIFEST: &str = "appendonly.aof.manifest";

/// One file with commands.
#[derive(Clone, Debug)]
pub struct LogFile {
    pub name: String,
    /// Whether it has the state at the start of the log, instead of transactions.
    pub is_base: bool,
    /// Whether it is an RDB file, whose commands a Redis server must write.
    pub is_rdb: bool,
    pub bytes: Bytes,
}

/// The files in the order of their commands.
#[derive(Clone, Debug)]
pub struct Log {
    pub files: Vec<LogFile>,
}

impl Log {
    /// Reads the files in the folder of the manifest.
    ///
    /// # Errors
    /// If there is no manifest, it is not readable, or a file is missing.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let read =
            || std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()));
        let mut manifest = read()?;
        for _ in 0..config::AOF_OPEN_TRIES {
            let opened = open_all(folder, &manifest);
            let again = read()?;
            if again == manifest {
                let files = opened?.into_iter().map(OpenFile::read).collect::<Result<_>>()?;
                return Ok(Self { files });
            }
            manifest = again;
        }
        bail!("Redis keeps rewriting the files in {}", folder.display())
    }

    /// The name of a file.
    #[must_use]
    pub fn name(&self, file: usize) -> &str {
        self.files.get(file).map_or("", |file| &file.name)
    }
}

struct OpenFile {
    name: String,
    is_base: bool,
    file: File,
}

impl OpenFile {
    /// Reads up to the present end: a running Redis appends more.
    fn read(mut self) -> Result<LogFile> {
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).with_context(|| format!("cannot read {}", self.name))?;
        let is_rdb = bytes.starts_with(b"REDIS");
        ensure!(self.is_base || !is_rdb, "{} is not a log of commands", self.name);
        Ok(LogFile { name: self.name, is_base: self.is_base, is_rdb, bytes: bytes.into() })
    }
}

fn open_all(folder: &Path, manifest: &str) -> Result<Vec<OpenFile>> {
    let mut files = Vec::new();
    for line in manifest.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["file", name, "seq", number, "type", kind] = words[..] else {
            bail!("{MANIFEST} has a line that cannot be read: {line:?}");
        };
        ensure!(number.parse::<u64>().is_ok() && !name.contains('/'), "{MANIFEST}: {line:?}");
        // History files are in the base already.
        if kind == "h" {
            continue;
        }
        ensure!(matches!(kind, "b" | "i"), "{MANIFEST}: {line:?}");
        let path = folder.join(name);
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        files.push(OpenFile { name: name.to_owned(), is_base: kind == "b", file });
    }
    ensure!(!files.is_empty(), "{MANIFEST} names no file");
    Ok(files)
}
