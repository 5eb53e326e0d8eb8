//! Checks whether a Postgres accepts connections to this program's database. Speaks the start-up of the protocol
//! without a library, since only `src/postgres` uses sqlx.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::embedded::layout::{POSTGRES_DATABASE, POSTGRES_USER};

/// `false` while the server starts, or if no server listens.
///
/// # Errors
/// When the server refuses the connection for a permanent reason, or this user may not use the socket.
pub async fn is_ready(socket: &Path) -> Result<bool> {
    match connect(socket).await {
        Ok(Answer::Accepted) => Ok(true),
        Ok(Answer::Refused(reason)) => bail!("Postgres refuses a connection: {reason}"),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(e).with_context(|| {
            format!("cannot use {}: run this as the user that runs the server", socket.display())
        }),
        Ok(Answer::NotYet) | Err(_) => Ok(false),
    }
}

enum Answer {
    Accepted,
    NotYet,
    Refused(String),
}

/// Sends a `StartupMessage` of protocol version 3.0 and reads up to the first `ReadyForQuery`
/// (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
async fn connect(socket: &Path) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket).await?;
    let parameters = format!("user\0{POSTGRES_USER}\0database\0{POSTGRES_DATABASE}\0\0");
    let length = u32::try_from(parameters.len() + 8).map_err(std::io::Error::other)?;
    stream.write_u32(length).await?;
    stream.write_u32(0x0003_0000).await?;
    stream.write_all(parameters.as_bytes()).await?;
    loop {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await?.saturating_sub(4);
        let mut body = Vec::new();
        (&mut stream).take(length.into()).read_to_end(&mut body).await?;
        match kind {
            b'Z' => {
                // Terminate: otherwise the server logs a lost connection.
                stream.write_all(&[b'X', 0, 0, 0, 4]).await?;
                return Ok(Answer::Accepted);
            }
            b'E' => return Ok(read_refusal(&body)),
            _ => {}
        }
    }
}

/// The `ErrorResponse` of a server that refuses.
fn read_refusal(body: &[u8]) -> Answer {
    let fields: Vec<String> =
        body.split(|byte| *byte == 0).map(|field| String::from_utf8_lossy(field).into_owned()).collect();
    let field = |key: char| fields.iter().find_map(|field| field.strip_prefix(key)).unwrap_or_default();
    // The codes cannot_connect_now and too_many_connections are temporary.
    if matches!(field('C'), "57P03" | "53300") {
        return Answer::NotYet;
    }
    Answer::Refused(field('M').to_owned())
}
