//! Changing the limits of a group that lives.

use std::io;
use std::path::Path;

use super::limits::{self, Limits, Setting};
use super::mounts::Controller;
use super::tree::{Hierarchy, Version, apply_one, check_name, host_swaps, read};
use super::{CgroupError, Result};

const MEMORY: &str = "resources.memory_bytes";

impl Hierarchy {
    /// Sets every limit that is present; what is absent stays. A memory limit below what is in use, and cannot be given back,
    /// fails and kills nothing.
    pub fn tune(&self, name: &str, limits: &Limits) -> Result<()> {
        check_name(name)?;
        self.check(limits)?;
        if limits.cores.is_some() {
            let why = "CPUs of its own are given to a sandbox when it is made: make a new one".to_owned();
            return Err(CgroupError::Unsupported { field: "resources.cores", why });
        }
        // What may fail goes first.
        if let Some((version, dir)) = self.group(Controller::Memory, name) {
            memory(version, &dir, limits)?;
        }
        if let Some((list, (_, dir))) = limits.cpuset.as_ref().zip(self.group(Controller::Cpuset, name)) {
            if !dir.exists() {
                let why =
                    "this sandbox was made without one, and version 1 groups are joined at the start: make a new one";
                return Err(CgroupError::Unsupported { field: "resources.cpuset", why: why.to_owned() });
            }
            apply_one(&dir, &Setting::new("resources.cpuset", "cpuset.cpus", list))?;
        }
        for controller in [Controller::Cpu, Controller::Pids] {
            let Some((version, dir)) = self.group(controller, name) else { continue };
            let settings = match controller {
                Controller::Pids => limits::pids(limits),
                _ => limits::cpu(limits, version == Version::Two),
            };
            for setting in settings {
                apply_one(&dir, &setting)?;
            }
        }
        Ok(())
    }
}

fn memory(version: Version, dir: &Path, limits: &Limits) -> Result<()> {
    let mut settings = limits::memory(limits, version == Version::Two, host_swaps());
    if let Some(bytes) = limits.memory_bytes {
        match version {
            Version::One => {
                // The limit with swap is never below the one without, also not in between.
                if bytes > number(dir, "memory.limit_in_bytes")? {
                    settings.sort_by_key(|setting| setting.file != "memory.memsw.limit_in_bytes");
                }
            }
            // Writing less than what is in use would kill until it fits.
            Version::Two => give_back(dir, bytes)?,
        }
    }
    let applied = settings.iter().try_for_each(|setting| apply_one(dir, setting));
    let restored = match (version, limits.memory_bytes) {
        (Version::Two, Some(_)) => apply_one(dir, &high("max")),
        _ => Ok(()),
    };
    applied.and(restored).map_err(|error| match error {
        // Version 1 refuses by itself what does not fit.
        CgroupError::Refused { source, value, .. } if source.kind() == io::ErrorKind::ResourceBusy => in_use(&value),
        error => error,
    })
}

/// Has the kernel take back what it can, and whoever runs in the group wait, until it fits.
fn give_back(dir: &Path, bytes: u64) -> Result<()> {
    apply_one(dir, &high(bytes))?;
    let now = number(dir, "memory.current")?;
    if now <= bytes {
        return Ok(());
    }
    apply_one(dir, &high("max"))?;
    Err(in_use(&bytes.to_string()))
}

fn high(value: impl ToString) -> Setting {
    Setting::new(MEMORY, "memory.high", value)
}

fn in_use(asked: &str) -> CgroupError {
    CgroupError::InUse { field: MEMORY, why: format!("more than {asked} bytes are in use, and cannot be given back") }
}

fn number(dir: &Path, file: &str) -> Result<u64> {
    let text = read(&dir.join(file))?;
    // What has no limit says so.
    Ok(text.trim().parse().unwrap_or(u64::MAX))
}
