//! What a group has used.

use std::path::Path;

use moat_engine::driver::Usage;

use super::kill;
use super::mounts::Controller;
use super::tree::{Hierarchy, Version, check_name, read};
use super::{CgroupError, Result};

impl Hierarchy {
    /// Measures the group. Numbers whose controller this host lacks are zero, or absent where they can be.
    pub fn usage(&self, name: &str) -> Result<Usage> {
        check_name(name)?;
        let mut usage = Usage::default();
        if let Some((version, dir)) = self.group(Controller::Memory, name) {
            memory(version, &dir, &mut usage)?;
        }
        if let Some((version, dir)) = self.group(Controller::Cpuacct, name) {
            usage.cpu_usec = match version {
                Version::Two => field(&read(&dir.join("cpu.stat"))?, "usage_usec").unwrap_or(0),
                Version::One => number(&dir, "cpuacct.usage")? / 1000,
            };
        }
        if let Some((_, dir)) = self.group(Controller::Pids, name) {
            // The kernel counts those that ended and were not collected yet; a group of nothing but those is empty.
            let counted = number(&dir, "pids.current")?;
            usage.pids = if kill::processes(&dir)?.is_empty() { 0 } else { counted };
        }
        Ok(usage)
    }
}

fn memory(version: Version, dir: &Path, usage: &mut Usage) -> Result<()> {
    let (now, peak, events) = match version {
        Version::Two => ("memory.current", "memory.peak", "memory.events"),
        Version::One => ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"),
    };
    usage.memory_bytes = number(dir, now)?;
    // memory.peak is younger (5.19) than the rest.
    usage.memory_peak_bytes = number(dir, peak).ok();
    usage.oom_kills = field(&read(&dir.join(events))?, "oom_kill").unwrap_or(0);
    Ok(())
}

fn number(dir: &Path, file: &str) -> Result<u64> {
    let path = dir.join(file);
    let text = read(&path)?;
    text.trim().parse().map_err(|_| CgroupError::Io {
        doing: "reading a number from",
        path,
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, format!("found {:?}", text.trim())),
    })
}

/// The value after a key, in files of `key value` lines.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(k, _)| *k == key)?.1.trim().parse().ok())
}
