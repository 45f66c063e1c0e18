//! Where each controller is: reading the mount table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::{CgroupError, Result};

/// A controller this driver layer uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory limits, use and out-of-memory counts.
    Memory,
    /// CPU weight and quota.
    Cpu,
    /// CPU time used (version 1 only; version 2 always counts).
    Cpuacct,
    /// CPUs it may run on.
    Cpuset,
    /// Number of processes.
    Pids,
    /// Freezing (version 1 only; version 2 always can).
    Freezer,
    /// Device access (version 1 only).
    Devices,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Memory, Self::Cpu, Self::Cpuacct, Self::Cpuset, Self::Pids, Self::Freezer, Self::Devices];

    /// The kernel's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
            Self::Freezer => "freezer",
            Self::Devices => "devices",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == name)
    }
}

/// Which kind of host this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Version 2 alone.
    V2,
    /// Version 1 alone.
    V1,
    /// Controllers in version 1, a version 2 hierarchy beside them.
    Hybrid,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
        })
    }
}

/// The mounted hierarchies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Mounts {
    /// Where version 2 is mounted.
    pub unified: Option<PathBuf>,
    /// What version 2 has of ours.
    pub unified_controllers: BTreeSet<Controller>,
    /// Where the version 1 controllers are; co-mounted ones share a path.
    pub v1: BTreeMap<Controller, PathBuf>,
    /// The hierarchy a service manager without version 2 tracks processes by: a sandbox that stayed in the daemon's own
    /// group there would be killed with the daemon.
    pub named: Option<PathBuf>,
}

impl Mounts {
    /// Reads the text of `/proc/self/mountinfo`. The first mount of a hierarchy wins.
    pub fn parse(mountinfo: &str) -> Result<Self> {
        let mut mounts = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
            let point = PathBuf::from(unescape(point));
            match kind {
                "cgroup2" => {
                    mounts.unified.get_or_insert(point);
                }
                "cgroup" => mounts.add_v1(&point, options),
                _ => {}
            }
        }
        if mounts.v1.is_empty() && mounts.unified.is_none() {
            return Err(CgroupError::NoHierarchy);
        }
        if let Some(unified) = &mounts.unified {
            mounts.unified_controllers = unified_controllers(unified)?;
        }
        Ok(mounts)
    }

    fn add_v1(&mut self, point: &Path, options: &str) {
        for option in options.split(',') {
            if option == "name=systemd" {
                self.named.get_or_insert_with(|| point.to_owned());
            } else if let Some(controller) = Controller::parse(option) {
                self.v1.entry(controller).or_insert_with(|| point.to_owned());
            }
        }
    }

    pub fn layout(&self) -> Layout {
        match (&self.unified, self.v1.is_empty()) {
            (None, _) => Layout::V1,
            (Some(_), true) => Layout::V2,
            (Some(_), false) => Layout::Hybrid,
        }
    }
}

fn unified_controllers(root: &Path) -> Result<BTreeSet<Controller>> {
    let file = root.join("cgroup.controllers");
    let text = fs::read_to_string(&file).map_err(CgroupError::io("reading", file))?;
    Ok(text.split_whitespace().filter_map(Controller::parse).collect())
}

/// Undoes the octal escapes of the mount table (blank, tab, newline, backslash).
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}
