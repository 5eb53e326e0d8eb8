//! STAND-IN, to be deleted: `crate::data_dir` and `crate::embedded` with the signatures that the
//! commands use. Nothing here is meant to stay.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::config::StoreAddresses;

pub struct DataDir;

pub struct Embedded;

impl DataDir {
    pub fn locate(explicit: Option<&Path>) -> PathBuf {
        explicit.unwrap_or(Path::new("./data")).to_owned()
    }
}

impl Embedded {
    #[expect(clippy::unused_async, reason = "the real one awaits the stores")]
    pub async fn join(data_dir: &Path) -> anyhow::Result<StoreAddresses> {
        bail!("no stores are running in {}", data_dir.display())
    }
}

pub fn read_secret(data_dir: &Path, name: &str) -> anyhow::Result<String> {
    let path = data_dir.join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}
