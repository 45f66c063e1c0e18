//! The drivers of microVMs, from what the operator set.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moat_drivers::firecracker::{
    CpuTemplate, FirecrackerConfig, FirecrackerDriver, RateLimiter, RateLimits, TokenBucket,
};
use moat_drivers::linux::agent_binary::AgentBinary;
use moat_drivers::qemu::config::AcceleratorChoice;
use moat_drivers::qemu::{QemuConfig, QemuDriver};
use moat_drivers::vm::config::MachineDefaults;
use moat_engine::driver::Driver;

use crate::config::NodeConfig;
use crate::config::machines::{self, Accelerator, RateLimiters};
use crate::error::{Error, Result};

/// Limits of machines that name none.
fn defaults(config: &NodeConfig) -> MachineDefaults {
    let guest = &config.machines.guest;
    MachineDefaults {
        memory_bytes: guest.memory_bytes,
        vcpus: guest.vcpus,
        disk_bytes: guest.disk_bytes,
        ..MachineDefaults::default()
    }
}

/// A program by its path, or by its name in these directories and on the path.
fn program(named: &Path, dirs: &[PathBuf]) -> Option<PathBuf> {
    if named.is_absolute() {
        return Some(named.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.iter().chain(&on_path).map(|dir| dir.join(named)).find(|path| path.is_file())
}

/// The QEMU driver.
pub(super) fn qemu(config: &NodeConfig, binary: &AgentBinary) -> Result<Arc<dyn Driver>> {
    let settings = &config.machines.qemu;
    let qemu = QemuConfig {
        program: program(&settings.program, &[]).or_else(|| Some(PathBuf::from("/usr/bin").join(&settings.program))),
        accelerator: match settings.accelerator {
            Accelerator::Auto => AcceleratorChoice::Auto,
            Accelerator::Kvm => AcceleratorChoice::Kvm,
            Accelerator::Tcg => AcceleratorChoice::Tcg,
        },
        virtiofsd: settings.virtiofsd.clone(),
        disk_ids: config.container.disk_ids,
        machine: defaults(config),
        cgroup_parent: config.container.cgroup_parent.clone(),
        guest_dir: config.guest_dir(),
        run_dir: config.run_dir.join("qemu"),
        data_dir: config.data_dir.join("qemu"),
        ..QemuConfig::default()
    };
    Ok(Arc::new(QemuDriver::new(qemu, binary.clone())?))
}

/// The Firecracker driver.
pub(super) fn firecracker(config: &NodeConfig, binary: &AgentBinary) -> Result<Arc<dyn Driver>> {
    let settings = &config.machines.firecracker;
    let found = |named: &Path| {
        program(named, &settings.bin_path).unwrap_or_else(|| PathBuf::from("/usr/local/bin").join(named))
    };
    // Nex names one directory for both, whether they are there yet or not.
    let beside = |given: &Option<PathBuf>, name: &str| {
        let there = || settings.resource_dir.as_ref().map(|dir| dir.join(name)).filter(|path| path.is_file());
        given.clone().or_else(there)
    };
    let limiter = rate_limiter(settings.rate_limiters);
    let firecracker = FirecrackerConfig {
        binary: found(&settings.program),
        jailer: found(&settings.jailer),
        resources: defaults(config),
        kernel: beside(&settings.kernel_filepath, "vmlinux"),
        rootfs: beside(&settings.rootfs_filepath, "rootfs.ext4"),
        rate_limits: RateLimits { disk: limiter, network_rx: limiter, network_tx: limiter },
        cpu_template: settings.cpu_template.clone().map(cpu_template).transpose()?,
        cgroup_parent: config.container.cgroup_parent.clone(),
        cache_dir: config.data_dir.join("firecracker"),
        guest_dir: config.guest_dir(),
        ..FirecrackerConfig::default()
    };
    Ok(Arc::new(FirecrackerDriver::new(firecracker, binary.clone())?))
}

fn rate_limiter(given: RateLimiters) -> Option<RateLimiter> {
    let bucket = |b: machines::TokenBucket| TokenBucket {
        size: b.size,
        one_time_burst: b.one_time_burst,
        refill_time: b.refill_time,
    };
    let limiter = RateLimiter { bandwidth: given.bandwidth.map(bucket), ops: given.iops.map(bucket) };
    (limiter != RateLimiter::default()).then_some(limiter)
}

fn cpu_template(given: machines::CpuTemplate) -> Result<CpuTemplate> {
    match given {
        machines::CpuTemplate::File(path) => Ok(CpuTemplate::Custom(path)),
        machines::CpuTemplate::Named(name) => {
            let known = serde_json::from_value(serde_json::Value::String(name));
            known.map(CpuTemplate::Static).map_err(|e| Error::invalid("firecracker.cpu_template", e))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_path_or_name() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("monitor-of-a-test");
        std::fs::write(&there, "").unwrap();
        let dirs = [dir.path().to_owned()];
        assert_eq!(program(Path::new("monitor-of-a-test"), &dirs), Some(there.clone()));
        assert_eq!(program(Path::new("monitor-of-a-test"), &[]), None);
        assert_eq!(program(Path::new("/not/there"), &[]), Some(PathBuf::from("/not/there")));
    }
}
