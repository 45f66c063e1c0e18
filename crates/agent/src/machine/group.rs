//! The control group every process of the user is born into: what is stopped when the machine is to be kept.
//!
//! The hierarchy is mounted where nobody but the agent sees it, so nobody inside lets himself go on or moves elsewhere. The
//! agent and its helpers stay in the root group.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use moat_model::ErrorKind;
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

use crate::agent::Failure;

/// Its name.
const NAME: &str = "user";
/// A process stops when it next returns from the kernel; what hangs there for longer does not stop.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The group.
#[derive(Debug)]
pub struct Group(OwnedFd);

impl Group {
    /// Makes it.
    pub fn make(groups: &OwnedFd, pids_max: Option<u64>) -> Result<Self, Failure> {
        let failed = |doing: &'static str| move |e: io::Error| Failure::internal(doing, &e);
        // To be told of processes that were killed; a kernel without does not tell.
        let _ = write(groups.as_fd(), "cgroup.subtree_control", "+memory");
        if pids_max.is_some() {
            write(groups.as_fd(), "cgroup.subtree_control", "+pids").map_err(|e| {
                let what = format!("pids_max: the machine's kernel has no control group that counts processes: {e}");
                Failure::new(ErrorKind::Unsupported, what)
            })?;
        }
        match mkdirat(groups, NAME, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("make a control group")(errno.into())),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let group = openat(groups, NAME, flags, Mode::empty()).map_err(|e| failed("open a control group")(e.into()))?;
        if let Some(most) = pids_max {
            write(group.as_fd(), "pids.max", &most.to_string()).map_err(failed("pids_max"))?;
        }
        Ok(Self(group))
    }

    /// The directory, for processes to be born into.
    pub fn directory(&self) -> Result<OwnedFd, Failure> {
        self.0.try_clone().map_err(|e| Failure::internal("the control group", &e))
    }

    /// The same group, for whoever waits with it.
    pub fn again(&self) -> Result<Self, Failure> {
        Ok(Self(self.directory()?))
    }

    /// Stops everything in it, and returns when all stands still.
    pub async fn freeze(&self) -> Result<(), Failure> {
        let failed = |e: io::Error| Failure::internal("freeze", &e);
        write(self.0.as_fd(), "cgroup.freeze", "1").map_err(failed)?;
        let begun = Instant::now();
        while !self.stands_still().map_err(failed)? {
            if begun.elapsed() > STOP_WITHIN {
                let _ = self.thaw();
                let what = format!("freeze: something did not stop within {} s", STOP_WITHIN.as_secs());
                return Err(Failure::new(ErrorKind::Deadline, what));
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Lets everything in it go on.
    pub fn thaw(&self) -> Result<(), Failure> {
        write(self.0.as_fd(), "cgroup.freeze", "0").map_err(|e| Failure::internal("thaw", &e))
    }

    fn stands_still(&self) -> io::Result<bool> {
        Ok(number(&read(self.0.as_fd(), "cgroup.events")?, "frozen") == Some(1))
    }

    /// That nothing of the user runs: all in this group stands still, and outside of it there are only the kernel's own threads and
    /// copies of this program.
    pub fn verify_still(&self) -> Result<(), Failure> {
        let failed = |e: io::Error| Failure::internal("look for processes that run", &e);
        if !self.stands_still().map_err(failed)? {
            return Err(Failure::new(ErrorKind::Conflict, "the user's processes do not stand still"));
        }
        let own = std::fs::read_link("/proc/self/exe").map_err(failed)?;
        // With a group somebody made below it this is not all, and the machine is refused.
        let inside = read(self.0.as_fd(), "cgroup.procs").map_err(failed)?;
        let inside: std::collections::BTreeSet<&str> = inside.lines().collect();
        for entry in std::fs::read_dir("/proc").map_err(failed)?.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else { continue };
            if inside.contains(pid) {
                continue;
            }
            match std::fs::read_link(entry.path().join("exe")) {
                // A thread of the kernel has no program, and neither has what has ended.
                Err(_) => {}
                Ok(program) if program == own => {}
                Ok(program) => {
                    let what =
                        format!("process {pid} ({}) runs outside of the user's control group", program.display());
                    return Err(Failure::new(ErrorKind::Conflict, what));
                }
            }
        }
        Ok(())
    }
}

/// Whether the kernel has killed a process of this group because there was no memory left.
pub fn killed_for_memory(group: BorrowedFd<'_>) -> bool {
    read(group, "memory.events").is_ok_and(|text| number(&text, "oom_kill").is_some_and(|kills| kills > 0))
}

fn write(dir: BorrowedFd<'_>, name: &str, text: &str) -> io::Result<()> {
    let file = openat(dir, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    File::from(file).write_all(text.as_bytes())
}

fn read(dir: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    let file = openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(file).read_to_string(&mut text)?;
    Ok(text)
}

/// The number after a word, in lines of both.
fn number(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_found_by_their_words() {
        let text = "populated 1\nfrozen 0\noom 3\noom_kill 2\n";
        assert_eq!(super::number(text, "frozen"), Some(0));
        assert_eq!(super::number(text, "oom_kill"), Some(2));
        assert_eq!(super::number(text, "oom"), Some(3));
        assert_eq!(super::number(text, "none"), None);
    }
}
