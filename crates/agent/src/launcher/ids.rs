//! Which ids of one side are which of the other: of a sandbox and its host, of a disk and a sandbox.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use rustix::process::Pid;

use super::clone::{Side, clone3};
use super::{ID_COUNT, LaunchError, at};

/// Ids from `from` on are those from `to` on, for users and groups alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    from: u32,
    to: u32,
    count: u32,
}

impl IdMap {
    /// All ids inside, on the host.
    pub fn of_sandbox(base: u32) -> Self {
        Self { from: 0, to: base, count: ID_COUNT }
    }

    /// A block of ids of a disk, as all those of a sandbox.
    pub fn of_block(first: u32, base: u32) -> Self {
        Self { from: first, to: base, count: ID_COUNT }
    }

    /// Ids of a disk as the same of a sandbox, without root.
    pub fn of_users(base: u32) -> Self {
        Self { from: 1, to: base + 1, count: ID_COUNT - 1 }
    }

    /// Gives it to a new user namespace.
    pub fn give(self, pid: Pid) -> Result<(), LaunchError> {
        let Self { from, to, count } = self;
        for kind in ["uid_map", "gid_map"] {
            let path = Path::new("/proc").join(pid.as_raw_pid().to_string()).join(kind);
            std::fs::write(&path, format!("{from} {to} {count}\n")).map_err(at("map ids", &path))?;
        }
        Ok(())
    }

    /// A user namespace that has it, of a process that lives just long enough to have one.
    pub fn namespace(self) -> Result<OwnedFd, LaunchError> {
        let failed = |e: io::Error| LaunchError::new("namespace of the mapping", e);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| failed(e.into()))?;
        match clone3(libc::CLONE_NEWUSER, None).map_err(failed)? {
            Side::Child => {
                drop(ours);
                // End of file, when the parent has what it wanted or has died.
                let _ = recv(&theirs, &mut [0_u8; 1][..], RecvFlags::empty());
                crate::sys::exit_now(0)
            }
            Side::Parent { pid, pidfd } => {
                drop(theirs);
                let namespace = Path::new("/proc").join(pid.as_raw_pid().to_string()).join("ns/user");
                let opened = self.give(pid).and_then(|()| {
                    openat(CWD, &namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                        .map_err(at("namespace of the mapping", &namespace))
                });
                drop(ours);
                super::end(&pidfd);
                opened
            }
        }
    }
}
