//! The agent's program file, embedded and kept in a sealed memfd.
//!
//! A memfd because nothing in a sandbox, and no package upgrade, can reach or replace it: it has no name in any file
//! system, and its seals refuse every change, also to us.

use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

/// The program, as `build.rs` left it.
static EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/moat-agent"));

/// The agent's program file. Cheap to clone; the file goes with the last clone.
#[derive(Debug, Clone)]
pub struct AgentBinary {
    file: Arc<OwnedFd>,
}

impl AgentBinary {
    /// Puts the embedded program into a sealed memfd. Once per daemon.
    pub fn embedded() -> io::Result<Self> {
        let mut file = std::fs::File::from(executable_memfd()?);
        file.write_all(EMBEDDED)?;
        let file = OwnedFd::from(file);
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self { file: Arc::new(file) })
    }

    /// A path that executes it, for as long as this value or a clone of it lives. It means the same in a child before its
    /// exec, because descriptors keep their numbers.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Size of the program.
    pub fn size_bytes(&self) -> usize {
        EMBEDDED.len()
    }
}

/// Kernels from 6.3 on want to be told that a memfd will be executed; older ones refuse the flag.
fn executable_memfd() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("moat-agent", flags | MemfdFlags::EXEC) {
        Ok(file) => Ok(file),
        Err(Errno::INVAL) => Ok(memfd_create("moat-agent", flags)?),
        Err(Errno::ACCESS) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "executable memfds are forbidden on this host: sysctl vm.memfd_noexec must be below 2",
        )),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_elf_and_cannot_be_changed() {
        let binary = AgentBinary::embedded().unwrap();
        let bytes = std::fs::read(binary.path()).unwrap();
        assert_eq!(bytes.len(), binary.size_bytes());
        assert!(bytes.starts_with(b"\x7fELF"));
        let error = std::fs::OpenOptions::new().write(true).open(binary.path()).unwrap().write_all(b"x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert_eq!(
            std::fs::OpenOptions::new().write(true).open(binary.path()).unwrap().set_len(1).unwrap_err().raw_os_error(),
            Some(libc::EPERM)
        );
    }
}
