//! Which process the monitor of a machine is.
//!
//! A record is written once, but a machine that lay on disk has another monitor afterwards. So a record names a file, and
//! the file says which process it is.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::linux::identity::ProcessIdentity;
use crate::linux::readiness;

/// Its name in a machine's run directory.
const FILE: &str = "vmm.json";
/// How long a monitor may take to go after SIGKILL: its memory has to be given back.
const END_WAIT: Duration = Duration::from_secs(10);
/// Most of a log that is looked at for its last line.
const LOG_TAIL: u64 = 4096;
/// Longest line of it that is told.
const LINE_LEN_MAX: usize = 300;

/// A monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vmm {
    /// Which process.
    pub process: ProcessIdentity,
    /// It was started to go on with a machine that lay on disk, when the machine's disk had this stamp. As long as the disk
    /// has it still, the machine lies there as it did.
    pub unstowing: Option<DiskStamp>,
}

/// When a disk was last written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskStamp {
    seconds: i64,
    nanoseconds: i64,
}

impl DiskStamp {
    /// Of a file.
    pub fn of(disk: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let found = fs::metadata(disk)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("look at {}", disk.display()), e))?;
        Ok(Self { seconds: found.mtime(), nanoseconds: found.mtime_nsec() })
    }
}

impl Vmm {
    /// Whether it goes on with a machine that lay on disk and has written to the machine's disk since: then only in here is the
    /// machine whole.
    pub fn has_gone_on(&self, disk: &Path) -> Result<bool> {
        self.unstowing.map_or(Ok(false), |stamp| Ok(DiskStamp::of(disk)? != stamp))
    }

    /// Where it is written down.
    pub fn file(run_dir: &Path) -> PathBuf {
        run_dir.join(FILE)
    }

    /// Writes down which process it is, in place of an earlier one.
    pub fn write(&self, run_dir: &Path) -> Result<()> {
        let text = serde_json::to_vec(self)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "write down the machine's monitor", e))?;
        replace_file(&Self::file(run_dir), &text)
    }

    /// The one written down; none if there is none.
    pub fn read(run_dir: &Path) -> Result<Option<Self>> {
        let path = Self::file(run_dir);
        let failed = |e: io::Error| Error::caused_by(ErrorKind::Internal, format!("read {}", path.display()), e);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| failed(e.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// The monitor that runs, and a descriptor of it; none if it has ended or there never was one.
    pub fn open(run_dir: &Path) -> Result<Option<(Self, OwnedFd)>> {
        let Some(vmm) = Self::read(run_dir)? else { return Ok(None) };
        let opened = vmm.process.open();
        let pidfd = opened.map_err(|e| Error::caused_by(ErrorKind::Internal, "find the machine's monitor", e))?;
        Ok(pidfd.map(|pidfd| (vmm, pidfd)))
    }

    /// Ends it and waits until it has. Succeeds if there is none.
    pub async fn end(run_dir: &Path) -> Result<()> {
        let Some((vmm, pidfd)) = Self::open(run_dir)? else { return Ok(()) };
        let pid = vmm.process.pid;
        let failed = |e: io::Error| Error::caused_by(ErrorKind::Internal, format!("end process {pid}"), e);
        match pidfd_send_signal(&pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(e) => return Err(failed(e.into())),
        }
        let ended = readiness::register(pidfd).map_err(failed)?;
        match tokio::time::timeout(END_WAIT, ended.readable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(failed(e)),
            Err(_) => {
                let why = format!("process {pid} does not end: not gone {} s after SIGKILL", END_WAIT.as_secs());
                Err(Error::new(ErrorKind::Deadline, why))
            }
        }
    }
}

/// Writes a file under a temporary name, syncs it and puts it in place: whoever reads sees all of it or what was before.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    write().map_err(|e: io::Error| Error::caused_by(ErrorKind::Internal, format!("write {}", path.display()), e))
}

/// Makes a change of names in the directory of `path` last.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
}

/// The last line of a log, made harmless; none if there is none.
pub fn last_line(log: &Path) -> Option<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().map(|c| if c.is_control() { '?' } else { c }).take(LINE_LEN_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_written_down_is_found_and_who_is_not_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Vmm::open(dir.path()).unwrap().is_none());
        Vmm::end(dir.path()).await.unwrap();
        let mut child = std::process::Command::new("/bin/cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let vmm = Vmm { process: ProcessIdentity::of(child.id()).unwrap(), unstowing: None };
        vmm.write(dir.path()).unwrap();
        assert_eq!(Vmm::open(dir.path()).unwrap().unwrap().0, vmm);
        Vmm::end(dir.path()).await.unwrap();
        assert!(Vmm::open(dir.path()).unwrap().is_none());
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn the_last_line_of_a_log_is_short_and_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(last_line(&log), None);
        fs::write(&log, format!("first\n{}\x1b[2Jlast \n\n", "x".repeat(10_000))).unwrap();
        let line = last_line(&log).unwrap();
        assert_eq!(line.len(), LINE_LEN_MAX);
        fs::write(&log, "first\nlast\x1b\n\n").unwrap();
        assert_eq!(last_line(&log).unwrap(), "last?");
    }
}
