//! Limits of machines that name none.

use moat_engine::error::{Error, Result};
use moat_model::spec::Resources;
use serde::{Deserialize, Serialize};

/// Limits of machines that name none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineDefaults {
    /// User of processes that name none.
    pub default_user: String,
    /// Memory of the machine. What its monitor needs comes on top.
    pub memory_bytes: u64,
    /// Processors. With a CPU quota asked for, as many as it fills.
    pub vcpus: u32,
    /// Relative CPU share; 100 is one share.
    pub cpu_weight: u32,
    /// Size of the disk that changes are written to.
    pub disk_bytes: u64,
    /// Size of `/secrets`.
    pub secrets_bytes: u64,
    /// Open files per process.
    pub nofile: u64,
}

impl Default for MachineDefaults {
    fn default() -> Self {
        Self {
            default_user: "nobody".to_owned(),
            memory_bytes: 256 << 20,
            vcpus: 1,
            cpu_weight: 100,
            disk_bytes: 512 << 20,
            secrets_bytes: 1 << 20,
            nofile: 65_536,
        }
    }
}

/// Most processors: more than hosts of sandboxes have, and what both monitors can give.
pub const VCPUS_MAX: u32 = 32;

impl MachineDefaults {
    /// Says which setting cannot work; `section` is where it is set.
    pub fn check(&self, section: &str) -> Result<()> {
        if self.default_user.is_empty() {
            return Err(Error::invalid(&format!("{section}.default_user"), "must be a name, uid or uid:gid"));
        }
        if !(1..=VCPUS_MAX).contains(&self.vcpus) {
            let why = format!("{} is not within 1 to {VCPUS_MAX}", self.vcpus);
            return Err(Error::invalid(&format!("{section}.vcpus"), why));
        }
        super::validate::sizes(&Resources::default(), self).map_err(|e| Error::caused_by(e.kind, section, e))
    }

    /// Memory of a machine that asks for this.
    pub fn memory(&self, asked: &Resources) -> u64 {
        asked.memory_bytes.unwrap_or(self.memory_bytes)
    }

    /// Processors of a machine that asks for this: those a quota fills.
    pub fn vcpus(&self, asked: &Resources) -> u32 {
        asked.cpu_quota_millis.map_or(self.vcpus, |millis| millis.div_ceil(1000).clamp(1, VCPUS_MAX))
    }

    /// Size of the disk of a machine that asks for this, in whole MiB.
    pub fn disk(&self, asked: &Resources) -> u64 {
        asked.disk_bytes.unwrap_or(self.disk_bytes).next_multiple_of(1 << 20)
    }
}
