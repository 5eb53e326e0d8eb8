//! The only module that writes to stdout and stderr. It never panics, and log lines never block their callers: they go
//! through the queue in `stderr`.

pub mod stderr;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A command's output could not be written to stdout.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// As with `… | head`. Not an error for the user: no message is printed.
    #[error("stdout is closed")]
    ReaderGone,
    #[error("stdout cannot be written: {0}")]
    Failed(io::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::ReaderGone } else { Self::Failed(error) }
    }
}

/// Writes text to stdout unchanged, and blocks while the reader is slow.
///
/// # Errors
/// When stdout is closed or cannot be written.
pub fn to_stdout(text: &str) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    write_whole(&mut stdout, text.as_bytes()).map_err(|(_, error)| error)?;
    retry(&mut stdout, Write::flush)?;
    Ok(())
}

/// Whether text for stdout may have colours: on a terminal without `NO_COLOR` (<https://no-color.org>).
#[must_use]
pub fn stdout_takes_colours() -> bool {
    io::stdout().is_terminal() && !are_colours_unwanted()
}

/// The width of the terminal that shows stdout, in columns; `None` if stdout is no terminal.
#[must_use]
pub fn stdout_width_columns() -> Option<u16> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0)
}

fn are_colours_unwanted() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Writes all bytes. An error comes with the number of bytes that were written before it.
fn write_whole(out: &mut (impl Write + AsFd), bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match retry(out, |out| out.write(&bytes[written..])) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

/// Repeats an attempt that a signal interrupted, or that would block: another process may have set `O_NONBLOCK` on the
/// shared descriptor.
fn retry<W: Write + AsFd, T>(out: &mut W, mut attempt: impl FnMut(&mut W) -> io::Result<T>) -> io::Result<T> {
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
