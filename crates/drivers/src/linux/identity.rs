//! Which process: a pid alone names whoever has the number now.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// A process of this machine since its last boot, for ever distinct from any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessIdentity {
    /// Process id, as the daemon sees it.
    pub pid: u32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub start_time: u64,
    /// Which boot that was.
    pub boot_id: String,
}

impl ProcessIdentity {
    /// Of a process that runs now. The caller holds a pidfd of it, or it is a child not yet collected: the number is its.
    pub fn of(pid: u32) -> io::Result<Self> {
        let Some(stat) = Stat::read(pid)? else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has ended")));
        };
        Ok(Self { pid, start_time: stat.start_time, boot_id: boot_id()? })
    }

    /// Opens the process, or `None` if it has ended.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        if self.boot_id != boot_id()? {
            return Ok(None);
        }
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Looked at after it was opened: if the number had been given to another process before that, it shows here.
        let stat = Stat::read(self.pid)?;
        Ok(stat.filter(|stat| stat.start_time == self.start_time && stat.alive).map(|_| pidfd))
    }
}

/// What is needed of `/proc/<pid>/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    start_time: u64,
    alive: bool,
}

impl Stat {
    fn read(pid: u32) -> io::Result<Option<Self>> {
        let path = Path::new("/proc").join(pid.to_string()).join("stat");
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map(Some).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: unknown format", path.display()))
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The second field is a name in parentheses that may hold anything, so counting starts after the last `)`.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let start_time = fields.nth(18)?.parse().ok()?;
        Some(Self { start_time, alive: !matches!(state, "Z" | "X") })
    }
}

fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_process_is_found_and_another_with_its_number_is_not() {
        let me = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(me.open().unwrap().is_some());
        assert!(ProcessIdentity { start_time: me.start_time + 1, ..me.clone() }.open().unwrap().is_none());
        assert!(ProcessIdentity { boot_id: "another".to_owned(), ..me }.open().unwrap().is_none());
    }

    #[test]
    fn a_process_that_ended_is_not_found_even_before_it_is_collected() {
        let mut child = std::process::Command::new("/proc/self/exe")
            .arg("--list")
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        rustix::process::waitid(
            rustix::process::WaitId::Pid(Pid::from_child(&child)),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        )
        .unwrap();
        assert!(identity.open().unwrap().is_none());
        child.wait().unwrap();
        assert!(identity.open().unwrap().is_none());
    }

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1000 10 18446744073709551615";
        assert_eq!(Stat::parse(text), Some(Stat { start_time: 4711, alive: true }));
        assert_eq!(Stat::parse("7 (a) Z 1"), None);
    }
}
