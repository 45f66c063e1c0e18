//! The tree of groups: finding it, making one, listing them.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, getxattr, setxattr};

use super::limits::{self, Devices, Limits, Setting};
use super::mounts::{Controller, Layout, Mounts};
use super::{CgroupError, Result, cores, is_gone};

/// On a parent that a daemon made: who makes it is asked when the last one ends, and may have died long before.
const MADE: &str = "trusted.moat.made";

/// Another daemon that ends may take the parent away while a group is made below it.
const TRIES: u32 = 3;

/// The control groups of this host, and our place in them.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    mounts: Mounts,
    parent: String,
    /// CPUs for groups that ask for some of their own; empty if none are set aside.
    pub(super) exclusive: BTreeSet<u32>,
}

/// A group in one hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

impl Hierarchy {
    /// Looks at what is mounted. Groups will be made below `parent`, one path component. Changes nothing.
    pub fn detect(parent: &str) -> Result<Self> {
        let file = "/proc/self/mountinfo";
        let text = fs::read_to_string(file).map_err(CgroupError::io("reading", file))?;
        Self::from_mountinfo(&text, parent)
    }

    pub(super) fn from_mountinfo(text: &str, parent: &str) -> Result<Self> {
        check_name(parent)?;
        Ok(Self { mounts: Mounts::parse(text)?, parent: parent.to_owned(), exclusive: BTreeSet::new() })
    }

    /// Which kind of host this is.
    pub fn layout(&self) -> Layout {
        self.mounts.layout()
    }

    /// Where a controller is mounted, if it is.
    pub fn controller(&self, controller: Controller) -> Option<&Path> {
        self.home(controller).map(|(_, mount)| mount)
    }

    /// Says which limit this host cannot apply. Changes nothing.
    pub fn check(&self, limits: &Limits) -> Result<()> {
        limits.check()?;
        self.check_cores(limits)?;
        let needs = [
            ("resources.memory_bytes", limits.memory_bytes.is_some(), Controller::Memory),
            ("resources.memory_reserve_bytes", limits.memory_reserve_bytes.is_some(), Controller::Memory),
            ("resources.cpu_weight", limits.cpu_weight.is_some(), Controller::Cpu),
            ("resources.cpu_quota_millis", limits.cpu_quota_millis.is_some(), Controller::Cpu),
            ("resources.cpuset", limits.cpuset.is_some(), Controller::Cpuset),
            ("resources.pids_max", limits.pids_max.is_some(), Controller::Pids),
        ];
        for (field, asked, controller) in needs {
            if asked && self.home(controller).is_none() {
                let why = format!("this host has no {} controller: enable it in the kernel", controller.as_str());
                return Err(CgroupError::Unsupported { field, why });
            }
        }
        limits.cpuset.as_deref().map_or(Ok(()), |list| self.check_cpuset(list))
    }

    fn check_cpuset(&self, list: &str) -> Result<()> {
        let field = "resources.cpuset";
        let asked = limits::parse_cpu_list(list).ok_or_else(|| CgroupError::Invalid {
            field,
            why: format!("{list:?} is not a list of CPUs such as 0-1,4"),
        })?;
        let Some(present) = self.cpus()? else { return Ok(()) };
        match asked.difference(&present).next() {
            None => Ok(()),
            Some(cpu) => Err(CgroupError::Invalid { field, why: format!("CPU {cpu} does not exist on this host") }),
        }
    }

    /// CPUs there are, where they can be given out.
    pub(super) fn cpus(&self) -> Result<Option<BTreeSet<u32>>> {
        let Some((version, mount)) = self.home(Controller::Cpuset) else { return Ok(None) };
        let file = mount.join(if version == Version::Two { "cpuset.cpus.effective" } else { "cpuset.cpus" });
        Ok(Some(limits::parse_cpu_list(&read(&file)?).unwrap_or_default()))
    }

    /// Makes the group and applies its limits. Making one that exists applies the limits again. A failure may leave parts
    /// of it behind: [`Hierarchy::remove`] takes them away.
    pub fn create(&self, name: &str, limits: &Limits) -> Result<()> {
        check_name(name)?;
        self.check(limits)?;
        if self.exclusive.is_empty() {
            return self.make(name, limits);
        }
        let mut given = limits.clone();
        // Held until the group says which it has: whoever chooses next finds it.
        let _turn = cores::turn();
        given.cpuset = Some(self.cpus_for(name, limits)?);
        self.make(name, &given)?;
        if limits.cores.is_some() { self.mark(name, given.cpuset.as_deref().unwrap_or_default()) } else { Ok(()) }
    }

    fn make(&self, name: &str, limits: &Limits) -> Result<()> {
        for (version, mount) in self.hierarchies(limits) {
            let mut tries = 1..TRIES;
            loop {
                match self.make_in(version, &mount, name) {
                    Err(error) if error.is_gone() && tries.next().is_some() => {}
                    other => break other?,
                }
            }
        }
        self.apply(name, limits)
    }

    fn make_in(&self, version: Version, mount: &Path, name: &str) -> Result<()> {
        let parent = self.parent_dir(version, mount);
        if !parent.join("cgroup.procs").exists() {
            self.make_parent(version, mount, &parent)?;
        }
        let group = parent.join(format!("{name}.scope"));
        make_dir(&group)?;
        if self.is_v1_cpuset(mount) {
            inherit_cpuset(&parent, &group)?;
        }
        Ok(())
    }

    /// Removes the group all others are below, wherever a daemon made it and nothing is in it any more. One that somebody else
    /// made, with limits of theirs perhaps, stays.
    pub fn remove_parent(&self) -> Result<()> {
        for (version, mount) in self.all_hierarchies() {
            let parent = self.parent_dir(version, &mount);
            if getxattr(&parent, MADE, &mut [0_u8; 1][..]).is_err() {
                continue;
            }
            match fs::remove_dir(&parent) {
                Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::ResourceBusy => {}
                other => other.map_err(CgroupError::io("removing", parent))?,
            }
        }
        Ok(())
    }

    /// The files a process must be written into to join the group: one for each hierarchy.
    pub fn procs_files(&self, name: &str) -> Vec<PathBuf> {
        self.existing(name).into_iter().map(|(_, dir)| dir.join("cgroup.procs")).collect()
    }

    /// Names of all our groups, in whichever hierarchy they are left.
    pub fn list(&self) -> Result<Vec<String>> {
        let mut names = BTreeSet::new();
        for (version, mount) in self.all_hierarchies() {
            let dir = self.parent_dir(version, &mount);
            let entries = match fs::read_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(CgroupError::io("listing", &dir))?,
            };
            for entry in entries {
                let entry = entry.map_err(CgroupError::io("listing", &dir))?;
                if let Some(name) = entry.file_name().to_str().and_then(|n| n.strip_suffix(".scope")) {
                    names.insert(name.to_owned());
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Directories of the group, in every hierarchy that has it; version 2 first.
    pub(super) fn existing(&self, name: &str) -> Vec<(Version, PathBuf)> {
        self.all_hierarchies()
            .into_iter()
            .map(|(version, mount)| (version, self.parent_dir(version, &mount).join(format!("{name}.scope"))))
            .filter(|(_, dir)| dir.exists())
            .collect()
    }

    /// The group's directory for a controller, and which version it is.
    pub(super) fn group(&self, controller: Controller, name: &str) -> Option<(Version, PathBuf)> {
        let (version, mount) = self.home(controller)?;
        Some((version, self.parent_dir(version, mount).join(format!("{name}.scope"))))
    }

    /// The group's directory in version 2, whatever controllers are there.
    pub(super) fn unified_group(&self, name: &str) -> Option<PathBuf> {
        let mount = self.mounts.unified.as_deref()?;
        Some(self.parent_dir(Version::Two, mount).join(format!("{name}.scope")))
    }

    fn home(&self, controller: Controller) -> Option<(Version, &Path)> {
        if let Some(mount) = self.mounts.v1.get(&controller) {
            return Some((Version::One, mount));
        }
        let unified = self.mounts.unified.as_deref()?;
        // Counting CPU time and freezing need no controller in version 2.
        let built_in = matches!(controller, Controller::Cpuacct | Controller::Freezer);
        (built_in || self.mounts.unified_controllers.contains(&controller)).then_some((Version::Two, unified))
    }

    /// The hierarchies a group with these limits is made in. Each one costs a migration at the start of every sandbox, so
    /// those that would do nothing are left out.
    fn hierarchies(&self, limits: &Limits) -> Vec<(Version, PathBuf)> {
        let wanted = |controller: Controller| match controller {
            Controller::Cpuset => limits.cpuset.is_some(),
            Controller::Devices => limits.devices != Devices::Any,
            Controller::Freezer => self.mounts.unified.is_none(),
            Controller::Memory | Controller::Cpu | Controller::Cpuacct | Controller::Pids => true,
        };
        self.select(wanted)
    }

    fn all_hierarchies(&self) -> Vec<(Version, PathBuf)> {
        self.select(|_| true)
    }

    fn select(&self, wanted: impl Fn(Controller) -> bool) -> Vec<(Version, PathBuf)> {
        let unified = self.mounts.unified.iter().map(|mount| (Version::Two, mount.clone()));
        let v1: BTreeSet<&PathBuf> =
            self.mounts.v1.iter().filter(|(controller, _)| wanted(**controller)).map(|(_, mount)| mount).collect();
        let named = self.mounts.named.iter().filter(|_| self.mounts.unified.is_none());
        unified.chain(v1.into_iter().chain(named).map(|mount| (Version::One, mount.clone()))).collect()
    }

    fn parent_dir(&self, version: Version, mount: &Path) -> PathBuf {
        match version {
            Version::Two => mount.join(format!("{}.slice", self.parent)),
            Version::One => mount.join(&self.parent),
        }
    }

    fn make_parent(&self, version: Version, mount: &Path, parent: &Path) -> Result<()> {
        if version == Version::Two {
            self.enable_controllers(mount)?;
        }
        if make_dir(parent)?
            && let Err(error) = setxattr(parent, MADE, b"1", XattrFlags::empty())
        {
            tracing::debug!(parent = %parent.display(), %error, "it stays when the daemon ends");
        }
        if version == Version::Two {
            self.enable_controllers(parent)?;
        } else if self.is_v1_cpuset(mount) {
            inherit_cpuset(mount, parent)?;
        }
        Ok(())
    }

    fn is_v1_cpuset(&self, mount: &Path) -> bool {
        self.mounts.v1.get(&Controller::Cpuset).is_some_and(|m| m == mount)
    }

    fn enable_controllers(&self, dir: &Path) -> Result<()> {
        let file = dir.join("cgroup.subtree_control");
        let enabled = read(&file)?;
        let missing: Vec<String> = self
            .mounts
            .unified_controllers
            .iter()
            .map(|c| c.as_str())
            .filter(|name| !enabled.split_whitespace().any(|e| e == *name))
            .map(|name| format!("+{name}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        write(&file, &missing.join(" ")).map_err(CgroupError::io("enabling controllers in", file))
    }

    fn apply(&self, name: &str, limits: &Limits) -> Result<()> {
        for controller in [Controller::Memory, Controller::Cpu, Controller::Pids, Controller::Devices] {
            let Some((version, dir)) = self.group(controller, name) else { continue };
            for setting in settings(controller, version, limits) {
                apply_one(&dir, &setting)?;
            }
        }
        let Some((list, (_, dir))) = limits.cpuset.as_ref().zip(self.group(Controller::Cpuset, name)) else {
            return Ok(());
        };
        let path = dir.join("cpuset.cpus");
        write(&path, list).map_err(|source| CgroupError::Refused {
            field: "resources.cpuset",
            value: list.clone(),
            path,
            source,
        })
    }
}

fn settings(controller: Controller, version: Version, limits: &Limits) -> Vec<Setting> {
    let v2 = version == Version::Two;
    match controller {
        Controller::Memory => limits::memory(limits, v2, host_swaps()),
        Controller::Cpu => limits::cpu(limits, v2),
        Controller::Pids => limits::pids(limits),
        Controller::Devices => limits::devices(limits),
        Controller::Cpuacct | Controller::Cpuset | Controller::Freezer => Vec::new(),
    }
}

pub(super) fn apply_one(dir: &Path, setting: &Setting) -> Result<()> {
    let path = dir.join(setting.file);
    match write(&path, &setting.value) {
        Err(error) if setting.if_present && error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| CgroupError::Refused {
            field: setting.field,
            value: setting.value.clone(),
            path,
            source,
        }),
    }
}

/// An empty version 1 cpuset takes no process: it begins as a copy of what is above it.
fn inherit_cpuset(from: &Path, to: &Path) -> Result<()> {
    inherit(from, to, "cpuset.mems")?;
    inherit(from, to, "cpuset.cpus")
}

/// Copies a setting downwards unless the child has a value already.
fn inherit(from: &Path, to: &Path, file: &str) -> Result<()> {
    let target = to.join(file);
    if !read(&target)?.trim().is_empty() {
        return Ok(());
    }
    let value = read(&from.join(file))?;
    write(&target, value.trim()).map_err(CgroupError::io("writing", target))
}

/// Whether this host has any swap that a limit would have to keep a sandbox out of.
pub(super) fn host_swaps() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

pub(super) fn check_name(name: &str) -> Result<()> {
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    // 255 is the longest file name; our suffix is part of it.
    if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.bytes().all(safe) {
        return Err(CgroupError::Name(name.to_owned()));
    }
    Ok(())
}

/// Whether it was not there before.
fn make_dir(dir: &Path) -> Result<bool> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true).map_err(CgroupError::io("making", dir)),
    }
}

pub(super) fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).map_err(CgroupError::io("reading", file))
}

/// Writes in one call, as control files want it, and never makes the file: a missing one is a missing feature.
pub(super) fn write(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).truncate(true).open(file)?.write_all(value.as_bytes())
}
