//! SIGTERM from the host, and from nobody else.
//!
//! Whoever administers the host ends a sandbox as they end any service. Programs inside must not be able to: as the first
//! process of its namespace the agent would be sent whatever it handles. The kernel says who sent a signal; a sender
//! outside this pid namespace has no id in it.

use std::io;

use tokio::io::Interest;

use super::io::{Port, Read};
use crate::sys::signal_fd;

/// A `signalfd_siginfo` of the kernel.
const INFO_LEN: usize = 128;
const CODE_AT: usize = 8;
const PID_AT: usize = 12;

/// SIGTERM as it arrives.
#[derive(Debug)]
pub struct Termination {
    port: Port,
    /// Only senders outside this pid namespace count.
    foreign_only: bool,
}

impl Termination {
    /// From now on the signal is read, not handled. Children reset their signal mask before they run a program.
    pub fn listen(foreign_only: bool) -> io::Result<Self> {
        Ok(Self { port: Port::new(signal_fd(libc::SIGTERM)?, Interest::READABLE)?, foreign_only })
    }

    /// Returns once somebody who may has sent it.
    pub async fn asked(&self) {
        loop {
            self.port.readable().await;
            let mut info = [0; INFO_LEN];
            if self.port.read(&mut info) == Read::Bytes(INFO_LEN) && self.counts(&info) {
                return;
            }
        }
    }

    /// A program inside can claim to be anybody, but only with a code of its own, below zero.
    fn counts(&self, info: &[u8; INFO_LEN]) -> bool {
        let word = |at: usize| info.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(-1, i32::from_ne_bytes);
        !self.foreign_only || (word(CODE_AT) == libc::SI_USER && word(PID_AT) == 0)
    }
}
