//! The one place that writes to stdout and stderr. Nothing here panics, and nothing that belongs to the sale waits
//! for the reader of the log: its lines go through the queue in `stderr`. What is said belongs to the callers.

pub mod stderr;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What a command answers was not written to stdout.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// As in `… | head`: a message would have no reader either.
    #[error("the reader of stdout has gone")]
    ReaderGone,
    #[error("stdout cannot be written: {0}")]
    Failed(io::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::ReaderGone } else { Self::Failed(error) }
    }
}

/// Writes text to stdout as it is, and waits for its reader as any command does.
pub fn to_stdout(text: &str) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    write_whole(&mut stdout, text.as_bytes()).map_err(|(_, error)| error)?;
    patiently(&mut stdout, Write::flush)?;
    Ok(())
}

/// Whether text for stdout may hold colours (<https://no-color.org>).
#[must_use]
pub fn stdout_takes_colours() -> bool {
    io::stdout().is_terminal() && !are_colours_unwanted()
}

fn are_colours_unwanted() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Writes all of it, or tells how much of it was written before the error.
fn write_whole(out: &mut (impl Write + AsFd), bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match patiently(out, |out| out.write(&bytes[written..])) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

/// Does it again while a descriptor that never blocks (another process may have made it so) has no room.
fn patiently<W: Write + AsFd, T>(
    out: &mut W,
    mut attempt: impl FnMut(&mut W) -> io::Result<T>,
) -> io::Result<T> {
    loop {
        match attempt(out) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut descriptors = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut descriptors, PollTimeout::NONE) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
