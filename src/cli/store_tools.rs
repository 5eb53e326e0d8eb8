//! Shared by the commands that use the stores directly: their arguments, the addresses of the stores in use, and the
//! replacement of this process by redis-cli or psql.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::anyhow;
use clap::Args;
use percent_encoding::percent_decode_str;

use crate::config::{StoreAddresses, StoreSettings};
use crate::data_dir::DataDir;
use crate::embedded::Embedded;

#[derive(Args)]
pub struct ToolArgs {
    #[command(flatten)]
    pub stores: StoreSettings,

    /// Arguments for the program, passed on unchanged
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

/// The external addresses from the settings. With embedded stores, waits until they answer and returns their addresses.
///
/// # Errors
/// When no embedded stores run, or they do not answer.
pub async fn answering_addresses(stores: &StoreSettings) -> anyhow::Result<StoreAddresses> {
    match stores.external_addresses()? {
        Some(addresses) => Ok(addresses),
        None => Embedded::join(&DataDir::locate(stores.data_dir.as_deref())).await,
    }
}

/// Like `answering_addresses`, but does not wait until embedded stores answer.
///
/// # Errors
/// When no embedded stores run.
pub fn addresses(stores: &StoreSettings) -> anyhow::Result<StoreAddresses> {
    match stores.external_addresses()? {
        Some(addresses) => Ok(addresses),
        None => Embedded::locate(&DataDir::locate(stores.data_dir.as_deref())),
    }
}

/// Replaces this process by the command. Returns only if the program cannot be started.
pub fn exec(mut command: Command, debian_package: &str) -> anyhow::Error {
    let error = command.exec();
    let program = command.get_program().display();
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "{program} is not installed: install the Debian package {debian_package} (apt-get install {debian_package})"
        ),
        _ => anyhow!("cannot run {program}: {error}"),
    }
}

/// Part of a URL without its percent-encoding; the bytes need not be UTF-8.
pub fn percent_decoded(text: &str) -> OsString {
    OsString::from_vec(percent_decode_str(text).collect())
}
