//! What exists on this host because of us, before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;

use crate::wait::wait_until;

/// Names of cgroup directories and executables that are ours begin with this.
const OURS: &str = "moat";

/// Processes, cgroups, mounts, network namespaces and files, as they were.
///
/// Host-wide by default: hold [`crate::exclusive`] meanwhile. With [`LeakAudit::of_cgroup`] only what belongs to one cgroup
/// parent is counted, so tests can run beside each other.
#[derive(Debug)]
pub struct LeakAudit {
    cgroup_parent: Option<String>,
    dirs: Vec<PathBuf>,
    warm: Vec<PathBuf>,
    before: State,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    processes: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    mounts: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl LeakAudit {
    /// Looks at the whole host.
    pub fn before() -> Self {
        Self { cgroup_parent: None, dirs: Vec::new(), warm: Vec::new(), before: State::default() }.look_again()
    }

    /// Looks only at cgroups below `parent` (a name directly below the root of each hierarchy) and at what runs in them.
    pub fn of_cgroup(parent: &str) -> Self {
        Self { cgroup_parent: Some(parent.to_owned()), dirs: Vec::new(), warm: Vec::new(), before: State::default() }
            .look_again()
    }

    /// Counts the files below `dir` too, and mounts below it.
    pub fn and_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dirs.push(dir.into());
        self.look_again()
    }

    /// Leaves out the layers of images that a daemon running in `run_dir` keeps mounted, with what lies in them: they may
    /// stay while it lives. Not for after it was stopped, when none may be left.
    pub fn while_running_in(mut self, run_dir: &Path) -> Self {
        self.warm.push(run_dir.join("roots"));
        self.look_again()
    }

    fn look_again(mut self) -> Self {
        self.before = self.look();
        self
    }

    /// Waits until nothing is left that was not there before; at the deadline, fails with the list of it.
    pub async fn assert_same(&self, deadline: Duration) -> anyhow::Result<()> {
        let waited = wait_until(deadline, "the host is as before", async || self.left_over().is_empty().then_some(()));
        if waited.await.is_err() {
            let left = self.left_over();
            if !left.is_empty() {
                bail!("left over after {deadline:?}:\n  {}", left.join("\n  "));
            }
        }
        Ok(())
    }

    /// What is there now and was not before, one line each.
    pub fn left_over(&self) -> Vec<String> {
        let now = self.look();
        let mut lines = Vec::new();
        let mut add = |what: &str, found: Vec<String>| lines.extend(found.into_iter().map(|f| format!("{what} {f}")));
        add("process", now.processes.difference(&self.before.processes).cloned().collect());
        add("cgroup", paths(now.cgroups.difference(&self.before.cgroups)));
        add("mount", now.mounts.difference(&self.before.mounts).cloned().collect());
        add("network namespace", now.namespaces.difference(&self.before.namespaces).cloned().collect());
        add("file", paths(now.files.difference(&self.before.files)));
        lines
    }

    fn look(&self) -> State {
        let mut state = State::default();
        for pid in pids() {
            let in_scope = is_ours(&pid, self.cgroup_parent.as_deref());
            if in_scope {
                state.processes.insert(describe(&pid));
            }
            if in_scope || self.cgroup_parent.is_none() {
                state.namespaces.extend(fs::read_link(pid.join("ns/net")).ok().map(|n| n.display().to_string()));
            }
        }
        for hierarchy in hierarchies() {
            for entry in fs::read_dir(&hierarchy).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let wanted =
                    self.cgroup_parent.as_ref().map_or(name.starts_with(OURS), |parent| is_parent(parent, &name));
                if wanted && entry.path().is_dir() {
                    walk(&entry.path(), &mut |path, is_dir| {
                        if is_dir {
                            state.cgroups.insert(path.to_path_buf());
                        }
                    });
                }
            }
        }
        for mount in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
            let target = mount.split(' ').nth(4).unwrap_or_default();
            if self.warm.iter().any(|dir| Path::new(target).starts_with(dir)) {
                continue;
            }
            if self.cgroup_parent.is_none() || self.dirs.iter().any(|dir| Path::new(target).starts_with(dir)) {
                state.mounts.insert(target.to_owned());
            }
        }
        for dir in &self.dirs {
            walk(dir, &mut |path, _| {
                if !self.warm.iter().any(|warm| path.starts_with(warm)) {
                    state.files.insert(path.to_path_buf());
                }
            });
        }
        state
    }
}

/// In version 2 the parent has systemd's ending.
fn is_parent(parent: &str, name: &str) -> bool {
    name.strip_suffix(".slice").unwrap_or(name) == parent
}

fn paths<'a>(found: impl Iterator<Item = &'a PathBuf>) -> Vec<String> {
    found.map(|path| path.display().to_string()).collect()
}

/// Directories of all processes below `/proc`.
fn pids() -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit())).map(|e| e.path()).collect()
}

/// Whether a process lives in a cgroup of ours, or is our agent wherever it lives.
fn is_ours(proc: &Path, parent: Option<&str>) -> bool {
    let cgroups = fs::read_to_string(proc.join("cgroup")).unwrap_or_default();
    let in_cgroup = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| {
        let first = path.split('/').find(|part| !part.is_empty()).unwrap_or_default();
        parent.map_or(first.starts_with(OURS), |parent| is_parent(parent, first))
    });
    let is_agent = || fs::read_link(proc.join("exe")).is_ok_and(|exe| exe.to_string_lossy().contains("moat-agent"));
    in_cgroup || parent.is_none() && is_agent()
}

/// Pid, start time and command: a pid used again is another process.
fn describe(proc: &Path) -> String {
    let pid = proc.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let started = after_name.split_whitespace().nth(19).unwrap_or_default();
    let command = fs::read_to_string(proc.join("cmdline")).unwrap_or_default().replace('\0', " ");
    format!("{pid} (started at tick {started}) {}", command.trim())
}

/// Mount points of every cgroup hierarchy.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().filter_map(|line| {
        let mut parts = line.split(' ').skip(1);
        Some((parts.next()?, parts.next()?))
    });
    fields.filter(|(_, kind)| *kind == "cgroup" || *kind == "cgroup2").map(|(at, _)| PathBuf::from(at)).collect()
}

/// Calls `found` for `dir` and everything below it, without following links. Things may vanish meanwhile.
fn walk(dir: &Path, found: &mut impl FnMut(&Path, bool)) {
    if !dir.exists() {
        return;
    }
    found(dir, true);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        } else {
            found(&entry.path(), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_left_behind_is_named_and_its_removal_satisfies() {
        let dir = tempfile::tempdir().unwrap();
        let audit = LeakAudit::of_cgroup("moat-test-nobody").and_dir(dir.path());
        audit.assert_same(Duration::ZERO).await.unwrap();
        let stray = dir.path().join("stray");
        fs::write(&stray, "").unwrap();
        let error = audit.assert_same(Duration::from_millis(20)).await.unwrap_err().to_string();
        assert!(error.contains("stray"), "{error}");
        fs::remove_file(stray).unwrap();
        audit.assert_same(Duration::from_secs(1)).await.unwrap();
        let audit = audit.while_running_in(dir.path());
        fs::create_dir_all(dir.path().join("roots/0123")).unwrap();
        audit.assert_same(Duration::ZERO).await.unwrap();
    }
}
