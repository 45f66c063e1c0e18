//! What an operator sets for the qemu driver.

use std::path::PathBuf;

use moat_engine::error::Result;
use serde::{Deserialize, Serialize};

use crate::vm::config::MachineDefaults;

/// Settings of the qemu driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QemuConfig {
    /// The program; absent: `qemu-system-<this architecture>` in the usual directories.
    pub program: Option<PathBuf>,
    /// What serves roots that last; absent: `virtiofsd` where distributions put it.
    pub virtiofsd: Option<PathBuf>,
    /// What gives machines their processors.
    pub accelerator: AcceleratorChoice,
    /// Limits of machines that name none.
    pub machine: MachineDefaults,
    /// Host directories QEMU is shown, read-only: its program, libraries, firmware. Missing ones are skipped.
    pub host_paths: Vec<PathBuf>,
    /// Cgroup all machines are below.
    pub cgroup_parent: String,
    /// First of the ids files that nodes keep for sandboxes have on disk. Set by the node, not by this section.
    #[serde(skip)]
    pub disk_ids: u32,
    /// Directory of the guest machines boot. Set by the node, not by this section.
    #[serde(skip)]
    pub guest_dir: PathBuf,
    /// Directory on a tmpfs for what was found out about this host. Set by the node, not by its file.
    #[serde(skip)]
    pub run_dir: PathBuf,
    /// Directory on disk for what all machines share: the initramfs, blank disks. Set by the node, not by its file.
    #[serde(skip)]
    pub data_dir: PathBuf,
}

/// What gives machines their processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorChoice {
    /// KVM if a stock guest was seen to run with it here, else emulation.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Emulation.
    Tcg,
}

impl Default for QemuConfig {
    fn default() -> Self {
        Self {
            program: None,
            virtiofsd: None,
            accelerator: AcceleratorChoice::Auto,
            machine: MachineDefaults::default(),
            host_paths: ["/usr", "/lib", "/lib64"].map(PathBuf::from).to_vec(),
            cgroup_parent: "moat".to_owned(),
            disk_ids: crate::container::ContainerConfig::default().disk_ids,
            guest_dir: PathBuf::from("/var/lib/moat/guest"),
            run_dir: PathBuf::from("/run/moat/qemu"),
            data_dir: PathBuf::from("/var/lib/moat/qemu"),
        }
    }
}

impl QemuConfig {
    /// Says which setting cannot work.
    pub(super) fn check(&self) -> Result<()> {
        self.machine.check("qemu.machine")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_text_is_the_default_and_unknown_members_are_refused() {
        assert_eq!(serde_json::from_str::<QemuConfig>("{}").unwrap(), QemuConfig::default());
        let parsed: QemuConfig = serde_json::from_str(r#"{"accelerator": "tcg", "machine": {"vcpus": 2}}"#).unwrap();
        assert_eq!((parsed.accelerator, parsed.machine.vcpus), (AcceleratorChoice::Tcg, 2));
        for bad in [r#"{"guest_dir": "/x"}"#, r#"{"accelerator": "hvf"}"#] {
            serde_json::from_str::<QemuConfig>(bad).unwrap_err();
        }
        QemuConfig::default().check().unwrap();
    }
}
