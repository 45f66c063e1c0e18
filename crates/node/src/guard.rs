//! One daemon for each run directory: a lock taken before the first side effect.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use moat_model::ErrorKind;
use rustix::fs::{FlockOperation, flock};

use crate::dirs::{Dirs, fault_of_run};
use crate::error::{Error, Result};

/// Held as long as the daemon runs. The kernel gives it back however the daemon ends.
#[derive(Debug)]
pub struct NodeGuard {
    _file: File,
}

impl NodeGuard {
    /// Takes the lock of a run directory, or says who has it.
    pub fn take(dirs: &Dirs) -> Result<Self> {
        if let Some(why) = fault_of_run(dirs.run()) {
            return Err(Error::invalid("run_dir", why));
        }
        make_private(dirs.run())?;
        let path = dirs.lock_file();
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("open {}", path.display()), e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "run_dir {}: the node with pid {} is running here; stop it, or give this one another run_dir and data_dir",
                        dirs.run().display(),
                        if holder.trim().is_empty() { "(unknown)" } else { holder.trim() },
                    ),
                ));
            }
            Err(e) => return Err(Error::caused_by(ErrorKind::Internal, format!("lock {}", path.display()), e)),
        }
        let mut write_pid = || -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write_pid().map_err(|e| Error::caused_by(ErrorKind::Internal, format!("write {}", path.display()), e))?;
        Ok(Self { _file: file })
    }
}

/// Makes a directory that only the daemon's user may enter.
pub fn make_private(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("create directory {}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_node_is_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(dir.path().join("run"), dir.path().join("data"));
        let first = NodeGuard::take(&dirs).unwrap();
        let refusal = NodeGuard::take(&dirs).unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::Conflict);
        assert!(refusal.to_string().contains(&format!("pid {}", std::process::id())), "{refusal}");
        drop(first);
        NodeGuard::take(&dirs).unwrap();
    }

    #[test]
    fn a_directory_without_room_for_sockets_is_refused_before_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("d".repeat(56));
        let refusal = NodeGuard::take(&Dirs::new(&run, dir.path().join("data"))).unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::InvalidSpec);
        assert!(refusal.to_string().contains("which leave it 56"), "{refusal}");
        assert!(!run.exists());
    }
}
