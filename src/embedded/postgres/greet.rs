//! Just enough of Postgres's protocol to see whether a server takes connections to our database.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{DATABASE, SOCKET, USER};

/// Whether a Postgres there lets us into the database.
pub(in crate::embedded) async fn is_ready(socket_dir: &Path) -> Result<bool> {
    let socket = socket_dir.join(SOCKET);
    match greet(&socket).await {
        Ok(Greeting::Welcome) => Ok(true),
        Ok(Greeting::Refused(reason)) => bail!("Postgres refuses a connection: {reason}"),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(e).with_context(|| {
            format!("cannot use {}: run this as the user that runs the server", socket.display())
        }),
        Ok(Greeting::Starting) | Err(_) => Ok(false),
    }
}

enum Greeting {
    Welcome,
    Starting,
    Refused(String),
}

/// The start of the protocol's version 3, up to the server's first readiness.
async fn greet(socket: &Path) -> std::io::Result<Greeting> {
    let mut stream = UnixStream::connect(socket).await?;
    let parameters = format!("user\0{USER}\0database\0{DATABASE}\0\0");
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
                // Terminate: else the server notes a lost connection in its log.
                stream.write_all(&[b'X', 0, 0, 0, 4]).await?;
                return Ok(Greeting::Welcome);
            }
            b'E' => return Ok(read_refusal(&body)),
            _ => {}
        }
    }
}

fn read_refusal(body: &[u8]) -> Greeting {
    let fields: Vec<String> =
        body.split(|byte| *byte == 0).map(|field| String::from_utf8_lossy(field).into_owned()).collect();
    let field = |key: char| fields.iter().find_map(|field| field.strip_prefix(key)).unwrap_or_default();
    // cannot_connect_now and too_many_connections pass by themselves.
    if matches!(field('C'), "57P03" | "53300") {
        return Greeting::Starting;
    }
    Greeting::Refused(field('M').to_owned())
}
