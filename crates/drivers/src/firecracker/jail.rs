//! The root of a jail: what is put into it, and opening what a monitor may have made there ([`foreign`]). The directory belongs
//! to the monitor once the jailer ran.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use moat_engine::driver::VMM_UID;
use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, linkat, mknodat, unlinkat};
use tokio::net::UnixStream;

use crate::linux::directory::{make_private_dir, remove_dir};
use crate::vm::endpoint::AgentChannel;
use crate::vm::machine::Machine;
use crate::vm::{disk, foreign};

/// Names in the root, for the monitor and for us.
pub const API_SOCKET: &str = "api.sock";
pub const VSOCK_SOCKET: &str = "v.sock";
pub const LOG: &str = "log";
pub const METRICS: &str = "metrics";
pub const KERNEL: &str = "kernel";
pub const INITRAMFS: &str = "initramfs";
pub const DISK: &str = "disk";
pub const STATE: &str = "state";
pub const MEMORY: &str = "memory";
/// What a monitor writes when it keeps its machine. Other names than those it goes on from, which it has mapped.
pub const STATE_OUT: &str = "state.out";
pub const MEMORY_OUT: &str = "memory.out";

/// Whose file it is that a monitor is given to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// This daemon's. Its directory is closed to everybody, so the file may be open to everybody.
    Ours,
    /// The operator's: its mode stays as it is.
    Operators,
}

/// The root of one machine's jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jail {
    root: PathBuf,
    uid: u32,
}

/// Where the jailer makes jails of a machine; all of it is the machine's.
pub fn base(machine: &Machine) -> PathBuf {
    machine.data_dir.join("jail")
}

/// A name as the monitor sees it.
pub fn inside(name: &str) -> String {
    format!("/{name}")
}

/// A layer's name.
pub fn layer(index: usize) -> String {
    format!("layer{index}")
}

impl Jail {
    /// An empty one, where the jailer will look for it. What an earlier monitor left in its own is removed: the files that
    /// matter have other names as well.
    pub fn make(machine: &Machine, program: &str) -> Result<Self> {
        let base = base(machine);
        remove_dir(&base)?;
        let root = base.join(program).join(machine.id.as_str()).join("root");
        make_private_dir(&root)?;
        let jail = Self { root, uid: machine.uid_base + VMM_UID };
        for name in [LOG, METRICS] {
            jail.make_fifo(name).map_err(|e| jail.failed("make", name, e))?;
        }
        Ok(jail)
    }

    /// The one there is; none if there is none. The directory between is named after the program that ran, which may be
    /// another now.
    pub fn find(machine: &Machine) -> Option<Self> {
        let programs = fs::read_dir(base(machine)).ok()?;
        let roots =
            programs.filter_map(io::Result::ok).map(|entry| entry.path().join(machine.id.as_str()).join("root"));
        let uid = machine.uid_base + VMM_UID;
        roots.into_iter().find(|root| root.is_dir()).map(|root| Self { root, uid })
    }

    /// The one there must be.
    pub fn of(machine: &Machine) -> Result<Self> {
        Self::find(machine)
            .ok_or_else(|| Error::new(ErrorKind::Guest, "the machine has no jail: its monitor never ran"))
    }

    /// User and group the monitor runs as.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Puts a file there that the monitor only reads: the file itself where that can be, a copy where it cannot.
    pub async fn give(&self, source: &Path, name: &str, whose: Whose) -> Result<()> {
        let failed = |doing: &str, e: io::Error| {
            let kind = if e.kind() == io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Internal };
            Error::caused_by(kind, format!("{doing} {}", source.display()), e)
        };
        let source = source.canonicalize().map_err(|e| failed("find", e))?;
        let found = fs::metadata(&source).map_err(|e| failed("look at", e))?;
        // What others can write to stays theirs: a link would let them change it under the machine.
        let fixed = found.is_file() && found.uid() == 0 && found.mode() & 0o022 == 0;
        let readable = found.mode() & 0o004 != 0;
        let target = self.root.join(name);
        if fixed && (readable || whose == Whose::Ours) {
            if !readable {
                fs::set_permissions(&source, fs::Permissions::from_mode(0o444)).map_err(|e| failed("open up", e))?;
            }
            match linkat(CWD, &source, CWD, &target, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                // Another file system, one without links, or too many links.
                Err(rustix::io::Errno::XDEV | rustix::io::Errno::PERM | rustix::io::Errno::MLINK) => {}
                Err(e) => return Err(failed("link", e.into())),
            }
        }
        disk::copy(&source, &target).await?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o444)).map_err(|e| failed("copy", e))
    }

    /// Puts the file there that the machine writes to. It keeps its other name.
    pub fn lend(&self, source: &Path, name: &str) -> Result<()> {
        let lend = || {
            chown(source, Some(self.uid), Some(self.uid))?;
            Ok(linkat(CWD, source, CWD, self.root.join(name), AtFlags::empty())?)
        };
        lend().map_err(|e: io::Error| self.failed("link", name, e))
    }

    /// Connects to a socket of the monitor.
    pub async fn connect(&self, name: &str) -> io::Result<UnixStream> {
        foreign::connect(&self.root, name).await
    }

    /// Opens the reading end of a pipe so that it stays open, and never waits.
    pub fn open_pipe(&self, name: &str) -> io::Result<OwnedFd> {
        self.open(name, OFlags::RDWR | OFlags::NONBLOCK, FileType::Fifo)
    }

    /// Opens a file the monitor wrote.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        // Not waiting: it may be a pipe.
        self.open(name, OFlags::RDONLY | OFlags::NONBLOCK, FileType::RegularFile).map(File::from)
    }

    /// How the agent in the machine is reached.
    pub fn channel(&self) -> AgentChannel {
        AgentChannel::Vsock { dir: self.root.clone(), name: VSOCK_SOCKET }
    }

    /// Removes a name, if it is there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let removed = foreign::dir(&self.root).and_then(|dir| match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        });
        removed.map_err(|e| self.failed("remove", name, e))
    }

    fn make_fifo(&self, name: &str) -> io::Result<()> {
        let path = self.root.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        chown(&path, Some(self.uid), Some(self.uid))
    }

    fn open(&self, name: &str, flags: OFlags, kind: FileType) -> io::Result<OwnedFd> {
        foreign::open(&self.root, name, flags, kind)
    }

    fn failed(&self, doing: &str, name: &str, error: io::Error) -> Error {
        let kind = if error.kind() == io::ErrorKind::StorageFull { ErrorKind::Exhausted } else { ErrorKind::Internal };
        Error::caused_by(kind, format!("{doing} {}", self.root.join(name).display()), error)
    }
}

#[cfg(test)]
pub mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A jail in a directory, as a monitor would find it.
    pub fn jail(dir: &Path) -> Jail {
        let root = dir.join("root");
        fs::create_dir_all(&root).unwrap();
        Jail { root, uid: rustix::process::geteuid().as_raw() }
    }

    #[tokio::test]
    async fn links_of_a_monitor_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let jail = jail(dir.path());
        let outside = dir.path().join("outside.sock");
        let _listener = tokio::net::UnixListener::bind(&outside).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        symlink(&outside, jail.root.join(API_SOCKET)).unwrap();
        symlink(dir.path().join("secret"), jail.root.join(STATE_OUT)).unwrap();
        symlink("../secret", jail.root.join(MEMORY_OUT)).unwrap();
        let refused = jail.connect(API_SOCKET).await.unwrap_err();
        assert_eq!(refused.to_string(), "api.sock in the jail is a Symlink, not a Socket");
        assert_eq!(jail.open_file(STATE_OUT).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(jail.open_file(MEMORY_OUT).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(jail.open_file("../secret").unwrap_err().raw_os_error(), Some(libc::EXDEV));
    }

    #[tokio::test]
    async fn what_is_there_instead_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let jail = jail(dir.path());
        mknodat(CWD, jail.root.join(STATE_OUT), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let refused = jail.open_file(STATE_OUT).unwrap_err();
        assert_eq!(refused.to_string(), "state.out in the jail is a Fifo, not a RegularFile");
        fs::write(jail.root.join(API_SOCKET), "").unwrap();
        let refused = jail.connect(API_SOCKET).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_socket_is_reached_however_long_the_way_to_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut jail = jail(dir.path());
        jail.root = dir.path().join("x".repeat(200)).join("root");
        fs::create_dir_all(&jail.root).unwrap();
        // Bound where the address is short, then moved to where it is not.
        let short = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&short).unwrap();
        fs::rename(&short, jail.root.join(VSOCK_SOCKET)).unwrap();
        let (connected, accepted) = tokio::join!(jail.connect(VSOCK_SOCKET), listener.accept());
        connected.unwrap();
        accepted.unwrap();
    }

    #[tokio::test]
    async fn files_are_linked_where_they_can_be_and_what_others_can_change_is_copied() {
        if !moat_testkit::is_root() {
            return moat_testkit::not_run_here("needs root");
        }
        let dir = tempfile::tempdir().unwrap();
        let jail = jail(dir.path());
        let (closed, shared) = (dir.path().join("closed"), dir.path().join("shared"));
        fs::write(&closed, "layer").unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&shared, "kernel").unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o664)).unwrap();
        jail.give(&closed, "a", Whose::Ours).await.unwrap();
        jail.give(&shared, "b", Whose::Ours).await.unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&closed), inode(&jail.root.join("a")));
        assert_ne!(inode(&shared), inode(&jail.root.join("b")));
        for name in ["a", "b"] {
            assert_eq!(fs::metadata(jail.root.join(name)).unwrap().mode() & 0o777, 0o444);
        }
        assert_eq!(fs::metadata(&shared).unwrap().mode() & 0o777, 0o664);
        let missing = jail.give(&dir.path().join("none"), "c", Whose::Ours).await.unwrap_err();
        assert_eq!(missing.kind, ErrorKind::NotFound);
    }
}
