//! A process that this program did not start, so that no signal tells of its end. Its descriptor (`pidfd_open(2)`) never
//! names another process that later gets the same id.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::sleep;

use crate::config;

#[derive(Debug)]
pub struct OtherProcess {
    descriptor: OwnedFd,
}

impl OtherProcess {
    /// # Errors
    /// When no process has this id.
    pub fn open(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { descriptor: pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// Returns once it has ended.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub async fn ended(&self) -> io::Result<()> {
        while !self.has_ended()? {
            sleep(config::OTHER_PROCESS_POLL).await;
        }
        Ok(())
    }

    fn has_ended(&self) -> io::Result<bool> {
        let mut polled = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut polled, PollTimeout::ZERO)? > 0)
    }

    /// # Errors
    /// When it has ended, or belongs to another user.
    pub fn kill(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.descriptor, Signal::KILL)?)
    }
}
