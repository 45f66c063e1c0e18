//! Ending everything in a group, and the group itself.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

use super::mounts::Controller;
use super::tree::{Hierarchy, Version, check_name, read, write};
use super::{CgroupError, Result, is_gone};

/// How long killed processes may take to go. Normally under a millisecond; a process in an uninterruptible wait (a dead
/// network file system) can take for ever, and the caller must learn that.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How long a group without processes may refuse to go: the kernel lets go of the last one a moment after it ended.
const REMOVE_WAIT: Duration = Duration::from_secs(5);
/// First and longest pause between two looks.
const PAUSE: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(20));

impl Hierarchy {
    /// Kills every process of the group and of groups below it. Returns when none is left; succeeds if there was none.
    pub async fn kill(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let deadline = Instant::now() + KILL_WAIT;
        let mut pause = PAUSE.0;
        loop {
            let left = self.strike(name)?;
            if left == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(CgroupError::Deadline {
                    doing: "killing",
                    name: name.to_owned(),
                    seconds: KILL_WAIT.as_secs(),
                    left: format!("{left} processes do not end"),
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Kills, then removes the group from every hierarchy. Succeeds if it is already gone.
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.kill(name).await?;
        let deadline = Instant::now() + REMOVE_WAIT;
        let mut pause = PAUSE.0;
        loop {
            let groups = self.existing(name);
            let busy = groups.iter().find_map(|(_, dir)| remove_tree(dir).err());
            match busy {
                None => return Ok(()),
                Some(error) if !is_busy(&error) => return Err(error),
                Some(error) if Instant::now() >= deadline => {
                    return Err(CgroupError::Deadline {
                        doing: "removing",
                        name: name.to_owned(),
                        seconds: REMOVE_WAIT.as_secs(),
                        left: error.to_string(),
                    });
                }
                Some(_) => {
                    self.strike(name)?;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// Processes that are in the group now.
    pub fn members(&self, name: &str) -> Result<BTreeSet<u32>> {
        check_name(name)?;
        let mut members = BTreeSet::new();
        for (_, dir) in self.existing(name) {
            members.extend(processes(&dir)?.into_iter().filter_map(|pid| u32::try_from(pid).ok()));
        }
        Ok(members)
    }

    /// Sends SIGKILL to whatever is in the group now; the answer is how many there were. No await in it: a version 1 group
    /// is frozen for the moment between finding its processes and killing them, and must not stay so.
    fn strike(&self, name: &str) -> Result<usize> {
        let groups = self.existing(name);
        let mut all = BTreeSet::new();
        let mut by_kernel = BTreeSet::new();
        for (version, dir) in &groups {
            let pids = processes(dir)?;
            if *version == Version::Two && !pids.is_empty() && kill_by_kernel(dir)? {
                by_kernel.extend(pids.iter().copied());
            }
            all.extend(pids);
        }
        let rest: BTreeSet<i32> = all.difference(&by_kernel).copied().collect();
        let freezer = self.freezer_file(name);
        if !rest.is_empty() {
            // Frozen processes cannot fork out of the list. They may not all have stopped yet: the next round finds the rest.
            if let Some((file, frozen, _)) = &freezer {
                ignore_gone(write(file, frozen)).map_err(CgroupError::io("freezing", file))?;
            }
            signal_members(&rest, &groups);
        }
        // Also when nobody is left: a group that a user paused, and a strike that was cut short, are thawed here.
        if let Some((file, _, thawed)) = &freezer
            && !all.is_empty()
        {
            ignore_gone(write(file, thawed)).map_err(CgroupError::io("thawing", file))?;
        }
        Ok(all.len())
    }

    /// The file that freezes the group, with what is written to freeze and to thaw; none if there is nothing to write to.
    pub(super) fn freezer_file(&self, name: &str) -> Option<(PathBuf, &'static str, &'static str)> {
        let unified = self.unified_group(name).map(|dir| (dir.join("cgroup.freeze"), "1", "0"));
        let v1 = self
            .group(Controller::Freezer, name)
            .filter(|(version, _)| *version == Version::One)
            .map(|(_, dir)| (dir.join("freezer.state"), "FROZEN", "THAWED"));
        unified.into_iter().chain(v1).find(|(file, _, _)| file.exists())
    }
}

/// Uses `cgroup.kill` (Linux 5.14): atomic against forks, and groups below are included.
fn kill_by_kernel(dir: &Path) -> Result<bool> {
    let file = dir.join("cgroup.kill");
    match write(&file, "1") {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(source) => Err(CgroupError::Io { doing: "killing through", path: file, source }),
    }
}

/// Kills those of `pids` that are still members once their identity is pinned by a pidfd: a number that was given to a
/// stranger in between is not hit.
fn signal_members(pids: &BTreeSet<i32>, groups: &[(Version, PathBuf)]) {
    let pinned: Vec<_> = pids
        .iter()
        .filter_map(|pid| Some((*pid, pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok()?)))
        .collect();
    let members: BTreeSet<i32> = groups.iter().filter_map(|(_, dir)| processes(dir).ok()).flatten().collect();
    for (pid, pidfd) in pinned {
        if members.contains(&pid) {
            // It may have ended by itself; whether it is gone is looked at in the next round.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
}

/// Processes of a group and of all groups below it. A group that vanishes meanwhile has none.
pub(super) fn processes(dir: &Path) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for dir in tree(dir)? {
        match read(&dir.join("cgroup.procs")) {
            Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pids)
}

/// The directory and everything below it, children after parents.
fn tree(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        match fs::read_dir(&dir) {
            Ok(entries) => {
                let below = entries.filter_map(io::Result::ok).filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
                open.extend(below.map(|entry| entry.path()));
                found.push(dir);
            }
            Err(error) if is_gone(&error) => {}
            Err(source) => return Err(CgroupError::Io { doing: "listing", path: dir, source }),
        }
    }
    Ok(found)
}

fn remove_tree(root: &Path) -> Result<()> {
    for dir in tree(root)?.into_iter().rev() {
        ignore_gone(fs::remove_dir(&dir)).map_err(CgroupError::io("removing", dir))?;
    }
    Ok(())
}

fn is_busy(error: &CgroupError) -> bool {
    matches!(error, CgroupError::Io { source, .. } if source.kind() == io::ErrorKind::ResourceBusy)
}

fn ignore_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}
