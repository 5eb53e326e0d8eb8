//! Hands a running server over to a new process (`serve --replace`): the listening socket, and the data directory with
//! its stores. The two processes talk over a Unix socket that has the name of the listening address, one JSON object for
//! each line. The old process serves until the new one is ready; if the new one fails before that, nothing has changed.
//! Each side notices the end of the other at any point.
//!
//! ```text
//! new                                         old
//!   {"replace":1} ─────────────────────────▶
//!                 ◀─────────────────────────  its data directory; with it the socket and the lock, as descriptors
//!   serves no request yet, joins the stores
//!   {"ready":true} ────────────────────────▶
//!   accepts connections                       ends its connections and workers, leaves the stores running
//!                 ◀─────────────────────────  the processes of the stores; then it exits
//!   supervises the stores
//! ```

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr as UnixAddress;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Uid;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, timeout_at};

use crate::config;
use crate::embedded::LeftRunning;
use crate::other_process::OtherProcess;

/// The version of the conversation.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Request {
    replace: u32,
}

#[derive(Serialize, Deserialize)]
struct Ready {
    ready: bool,
}

/// What the old process says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct About {
    pub version: String,
    pub pid: u32,
    /// The data directory with the stores; `None` with external stores.
    pub data_dir: Option<PathBuf>,
}

/// Where a running server waits for its successor.
pub struct Control {
    listener: UnixListener,
}

/// A new process that is ready.
pub struct Successor {
    stream: BufReader<UnixStream>,
    pub pid: Option<i32>,
}

/// A running server that a new process takes over.
pub struct Predecessor {
    stream: BufReader<UnixStream>,
    pub about: About,
    pub listener: OwnedFd,
    /// The lock of its data directory.
    pub lock: Option<OwnedFd>,
    process: OtherProcess,
}

impl Control {
    /// # Errors
    /// When another process has this name.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::bind_addr(&name_of(address)?)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)? })
    }

    /// Waits until a new process has got these descriptors and is ready. Safe to drop: the new process then gives up.
    pub async fn successor(&self, about: &About, descriptors: &[BorrowedFd<'_>]) -> Successor {
        loop {
            match self.next(about, descriptors).await {
                Ok(Some(successor)) => return successor,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!("a new process did not take over, this one continues: {error:#}");
                    tokio::time::sleep(config::HTTP_ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn next(&self, about: &About, descriptors: &[BorrowedFd<'_>]) -> Result<Option<Successor>> {
        let (stream, _) = self.listener.accept().await.context("cannot accept")?;
        if !is_of_this_user(&stream)? {
            return Ok(None);
        }
        let pid = stream.peer_cred()?.pid();
        let mut stream = BufReader::new(stream);
        let Request { replace } = receive(&mut stream).await?.context("it asked nothing")?;
        ensure!(replace == VERSION, "it speaks version {replace} of the conversation, this one {VERSION}");
        send_with(stream.get_ref(), about, descriptors).await?;
        tracing::info!("process {} prepares to take over", pid.unwrap_or_default());
        let Ready { ready } = receive(&mut stream).await?.context("it ended before it was ready")?;
        ensure!(ready, "it says that it is not ready");
        Ok(Some(Successor { stream, pid }))
    }
}

impl Successor {
    /// Tells it that the stores are its own from now on.
    ///
    /// # Errors
    /// When it has gone.
    pub async fn leave(mut self, stores: LeftRunning) -> Result<()> {
        send(self.stream.get_mut(), &stores).await
    }
}

impl Predecessor {
    /// The server that listens on this address; `None` if there is none.
    ///
    /// # Errors
    /// When it belongs to another user, or does not answer as expected.
    pub async fn find(address: SocketAddr) -> Result<Option<Self>> {
        let stream = match std::os::unix::net::UnixStream::connect_addr(&name_of(address)?) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
            Err(error) => return Err(error).context("cannot reach the running server"),
        };
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        ensure!(
            is_of_this_user(&stream)?,
            "the server on {address} belongs to another user: run this as that user"
        );
        let pid = stream.peer_cred()?.pid().context("the running server has no process id")?;
        let process = OtherProcess::open(pid).context("the running server has ended")?;
        let asked = async {
            let mut stream = BufReader::new(stream);
            send(stream.get_mut(), &Request { replace: VERSION }).await?;
            let (about, mut descriptors) = receive_with(stream.get_ref()).await?;
            ensure!(!descriptors.is_empty(), "the running server did not pass its socket on");
            let listener = descriptors.remove(0);
            Ok(Self { stream, about, listener, lock: descriptors.pop(), process })
        };
        let found = tokio::time::timeout(config::HANDOVER_ANSWER_TIMEOUT, asked).await;
        found.context("the running server does not answer")?.map(Some)
    }

    /// Tells it to end: this process accepts connections from now on.
    ///
    /// # Errors
    /// When it has gone.
    pub async fn tell_ready(&mut self) -> Result<()> {
        send(self.stream.get_mut(), &Ready { ready: true }).await
    }

    /// Returns once its process has ended.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub async fn ended(&self) -> io::Result<()> {
        self.process.ended().await
    }

    /// Waits until it has left the stores. `None` if it ended without a word; it is killed if it does not end: two
    /// programs must never supervise the same stores.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn left(mut self) -> Result<Option<LeftRunning>> {
        let deadline = Instant::now() + config::HANDOVER_END_TIMEOUT;
        match timeout_at(deadline, receive(&mut self.stream)).await {
            Ok(Ok(Some(left))) => return Ok(Some(left)),
            Ok(Err(error)) => tracing::warn!("the old process: {error:#}"),
            Ok(Ok(None)) | Err(_) => {}
        }
        if timeout_at(deadline, self.ended()).await.is_err() {
            tracing::warn!("process {} does not end: it is killed", self.about.pid);
            self.process.kill().context("cannot kill the old process")?;
            self.ended().await?;
        }
        Ok(None)
    }
}

/// The abstract name that belongs to a listening address (`unix(7)`).
fn name_of(address: SocketAddr) -> io::Result<UnixAddress> {
    UnixAddress::from_abstract_name(format!("seckill/{address}"))
}

fn is_of_this_user(stream: &UnixStream) -> io::Result<bool> {
    Ok(stream.peer_cred()?.uid() == Uid::effective().as_raw())
}

async fn send(stream: &mut UnixStream, message: &impl Serialize) -> Result<()> {
    Ok(stream.write_all(line(message)?.as_bytes()).await?)
}

fn line(message: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(message)? + "\n")
}

/// The next message; `None` at the end of the conversation.
async fn receive<T: DeserializeOwned>(stream: &mut BufReader<UnixStream>) -> Result<Option<T>> {
    let mut text = String::new();
    if stream.read_line(&mut text).await? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&text).with_context(|| format!("cannot read {text:?}"))?))
}

/// Sends a message with descriptors. It is short enough for one packet.
async fn send_with(
    stream: &UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> Result<()> {
    let text = line(message)?;
    let attempt = || {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(config::HANDOVER_MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        let bytes = [IoSlice::new(text.as_bytes())];
        Ok(sendmsg(stream.as_fd(), &bytes, &mut ancillary, SendFlags::NOSIGNAL)?)
    };
    let length = stream.async_io(Interest::WRITABLE, attempt).await?;
    ensure!(length == text.len(), "the message was cut");
    Ok(())
}

async fn receive_with<T: DeserializeOwned>(stream: &UnixStream) -> Result<(T, Vec<OwnedFd>)> {
    let mut bytes = vec![0; config::HANDOVER_MESSAGE_MAX_BYTES];
    let receive = || {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(config::HANDOVER_MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(stream.as_fd(), &mut buffers, &mut ancillary, flags)?;
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        Ok((received.bytes, descriptors))
    };
    let (length, descriptors) = stream.async_io(Interest::READABLE, receive).await?;
    if length == 0 {
        bail!("the running server has ended");
    }
    Ok((
        serde_json::from_slice(&bytes[..length]).context("cannot read the running server's answer")?,
        descriptors,
    ))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn about() -> About {
        About { version: "1".into(), pid: std::process::id(), data_dir: Some("/data".into()) }
    }

    #[tokio::test]
    async fn a_socket_is_handed_over_and_its_connections_reach_the_new_owner() {
        let old = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = old.local_addr().unwrap();
        assert!(Predecessor::find(address).await.unwrap().is_none());
        let control = Control::bind(address).unwrap();
        let offered = async {
            let successor = control.successor(&about(), &[old.as_fd()]).await;
            successor.leave(LeftRunning { redis: Some(7), postgres: None }).await.unwrap();
        };
        let taken = async {
            let mut predecessor = Predecessor::find(address).await.unwrap().unwrap();
            assert_eq!(predecessor.about.data_dir.as_deref(), Some("/data".as_ref()));
            assert!(predecessor.lock.is_none());
            let new = TcpListener::from(predecessor.listener.try_clone().unwrap());
            predecessor.tell_ready().await.unwrap();
            assert_eq!(
                predecessor.left().await.unwrap(),
                Some(LeftRunning { redis: Some(7), postgres: None })
            );
            new
        };
        let ((), new) = tokio::join!(offered, taken);
        drop(old);
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"x").unwrap();
        let mut byte = [0];
        new.accept().unwrap().0.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[tokio::test]
    async fn a_new_process_that_ends_before_it_is_ready_changes_nothing() {
        let old = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = old.local_addr().unwrap();
        let control = Control::bind(address).unwrap();
        let about = about();
        let descriptors = [old.as_fd()];
        let mut waiting = std::pin::pin!(control.successor(&about, &descriptors));
        let mut second = tokio::select! {
            _ = &mut waiting => panic!("no process is ready"),
            found = async {
                drop(Predecessor::find(address).await.unwrap());
                Predecessor::find(address).await
            } => found.unwrap().unwrap(),
        };
        second.tell_ready().await.unwrap();
        waiting.await;
    }
}
