//! What a number was measured on.

use std::fs;

use serde::{Deserialize, Serialize};

/// A machine, as far as it explains a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor model.
    pub cpu: String,
    /// How many.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// How control groups are mounted.
    pub cgroups: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
            line.split(':').nth(1).unwrap_or_default().trim().to_owned()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let mounts = read("/proc/mounts");
        let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
        let cgroups = match (has("cgroup"), has("cgroup2")) {
            (true, true) => "v1 and v2",
            (true, false) => "v1",
            (false, true) => "v2",
            (false, false) => "none",
        };
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_mib: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cgroups: cgroups.to_owned(),
        }
    }

    /// Short name for file names: equal machines have equal ones, and it tells nobody where they stand.
    pub fn fingerprint(&self) -> String {
        let word: String = self.cpu.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        let word = if word.is_empty() { "cpu".to_owned() } else { word.to_lowercase() };
        format!("{word}-{}c-{}g", self.cores, self.memory_mib.div_ceil(1024))
    }
}
