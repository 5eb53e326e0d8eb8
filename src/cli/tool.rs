//! What `redis-cli` and `psql` have in common: their arguments, the addresses of the stores in use,
//! and the step into the real program, which takes this process's place.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::anyhow;
use clap::Args;

use crate::config::{StoreAddresses, StoreSettings};
use crate::data_dir::DataDir;
use crate::embedded::Embedded;

#[derive(Args)]
pub struct ToolArgs {
    #[command(flatten)]
    pub stores: StoreSettings,

    /// Handed on as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

/// External addresses as they are set, else those of the embedded stores that are running.
pub async fn addresses(stores: &StoreSettings) -> anyhow::Result<StoreAddresses> {
    match stores.external_addresses()? {
        Some(addresses) => Ok(addresses),
        None => Embedded::join(&DataDir::locate(stores.data_dir.as_deref())).await,
    }
}

/// The same without waiting until embedded ones answer.
pub fn addresses_unasked(stores: &StoreSettings) -> anyhow::Result<StoreAddresses> {
    match stores.external_addresses()? {
        Some(addresses) => Ok(addresses),
        None => Embedded::locate(&DataDir::locate(stores.data_dir.as_deref())),
    }
}

/// Returns only when the program could not be started.
pub fn exec(mut command: Command, debian_package: &str) -> anyhow::Error {
    let error = command.exec();
    let program = command.get_program().display();
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "{program} is not installed: it comes with the Debian package {debian_package} (apt-get install {debian_package})"
        ),
        _ => anyhow!("cannot run {program}: {error}"),
    }
}
