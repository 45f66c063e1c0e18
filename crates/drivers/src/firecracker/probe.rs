//! What this host must have, looked up without changing anything.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use moat_engine::driver::{Need, Requirement};
use rustix::fs::{StatVfsMountFlags, statvfs};

use super::config::{FirecrackerConfig, HugePages};
use super::version::Program;
use crate::linux::cgroup::{Controller, Hierarchy};
use crate::qemu::accelerator::{KvmKind, kvm_kind};
use crate::vm::disk;

/// Every requirement, met or not, with the fact that decided it.
pub(super) fn requirements(
    config: &FirecrackerConfig,
    hierarchy: &Hierarchy,
    firecracker: &Program,
    jailer: &Program,
) -> Vec<Requirement> {
    let mut found = vec![
        root(),
        program(firecracker),
        same_release(firecracker, jailer),
        tells_by_acpi(config, firecracker),
        kvm(),
        stock_guests(),
        boots(config),
        disk::requirement(),
        device_nodes(&config.cache_dir),
        links(config),
    ];
    found.extend(
        [Controller::Memory, Controller::Cpu, Controller::Pids].map(|controller| cgroup(hierarchy, controller)),
    );
    if config.huge_pages == HugePages::TwoMib {
        found.push(huge_pages());
    }
    found
}

fn requirement(name: &str, need: Need, met: bool, fact: String, fix: &str) -> Requirement {
    Requirement { name: name.to_owned(), need, met, fact, fix: (!met).then(|| fix.to_owned()) }
}

fn root() -> Requirement {
    let uid = rustix::process::geteuid().as_raw();
    requirement("root", Need::Required, uid == 0, format!("effective uid {uid}"), "run the daemon as root")
}

fn program(firecracker: &Program) -> Requirement {
    let name_fits = firecracker.file_name().contains("firecracker");
    let (met, fact) = match firecracker.supported() {
        Ok(_) if !name_fits => {
            (false, format!("{}: its name must contain \"firecracker\"", firecracker.path.display()))
        }
        Ok(version) => (true, format!("{} is version {version}", firecracker.path.display())),
        Err(why) => (false, why),
    };
    let fix =
        "install firecracker and jailer of a supported release, and set firecracker.binary and firecracker.jailer";
    requirement("firecracker", Need::Required, met, fact, fix)
}

fn same_release(firecracker: &Program, jailer: &Program) -> Requirement {
    let (met, fact) = match (firecracker.version(), jailer.version()) {
        (Ok(one), Ok(other)) => (one == other, format!("firecracker is version {one}, its jailer {other}")),
        (_, Err(why)) | (Err(why), _) => (false, why),
    };
    requirement("jailer", Need::Required, met, fact, "install the jailer of the same release as firecracker")
}

/// Older versions announce disks on the kernel's command line only.
fn tells_by_acpi(config: &FirecrackerConfig, firecracker: &Program) -> Requirement {
    let own = config.kernel.is_some();
    let (met, fact) = match firecracker.version() {
        Ok(version) if version.has_acpi() => (true, format!("version {version} tells guests of devices by ACPI")),
        Ok(version) if own => (true, format!("version {version} does not, and firecracker.kernel is set")),
        Ok(version) => (false, format!("version {version} tells guests of devices on the kernel's command line")),
        Err(why) => (false, why),
    };
    let fix =
        "install firecracker 1.8 or later, or set firecracker.kernel to one built with VIRTIO_MMIO_CMDLINE_DEVICES";
    requirement("distribution kernels", Need::Required, met, fact, fix)
}

fn kvm() -> Requirement {
    let opened = fs::File::options().read(true).write(true).open("/dev/kvm");
    let fact = match &opened {
        Ok(_) => "/dev/kvm can be opened".to_owned(),
        Err(e) => format!("/dev/kvm: {e}"),
    };
    let fix = "modprobe kvm_intel or kvm_amd, with virtualisation on in the firmware";
    requirement("kvm", Need::Required, opened.is_ok(), fact, fix)
}

/// On a paravirtual KVM the interface answers, and a guest that was not made for it does not get anywhere.
fn stock_guests() -> Requirement {
    let (kind, fact) = kvm_kind();
    let met = matches!(kind, KvmKind::Hardware(_));
    let fix = "use a host with virtualisation in hardware, or nested virtualisation switched on; here, use driver qemu";
    requirement("stock guests", Need::Required, met, fact, fix)
}

fn boots(config: &FirecrackerConfig) -> Requirement {
    let (met, fact) = match &config.kernel {
        Some(kernel) => (kernel.is_file(), format!("firecracker.kernel is {}", kernel.display())),
        None => match moat_guest::Guest::open(&config.guest_dir) {
            Ok(guest) => (true, format!("{} holds Linux {}", guest.dir.display(), guest.image.kernel_version)),
            Err(error) => (false, error.to_string()),
        },
    };
    requirement("guest", Need::Required, met, fact, "moat guest build")
}

/// Jails lie beside the cache: the jailer makes device nodes in them, and what it starts is executed from there.
fn device_nodes(cache: &Path) -> Requirement {
    let at = existing(cache);
    let refused = StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC;
    let (met, fact) = match statvfs(at) {
        Ok(found) if found.f_flag.intersects(refused) => {
            (false, format!("{} is mounted nodev or noexec", at.display()))
        }
        Ok(_) => (true, format!("{} allows devices and programs", at.display())),
        Err(e) => (false, format!("{}: {e}", at.display())),
    };
    let fix = "mount -o remount,dev,exec the file system of the data directory, or put data_dir on another";
    requirement("device nodes", Need::Required, met, fact, fix)
}

/// Files are linked into jails where they can be; a kernel that has to be copied for each machine costs time and room.
fn links(config: &FirecrackerConfig) -> Requirement {
    let device = |path: &Path| fs::metadata(existing(path)).map(|found| found.dev()).ok();
    let source = config.kernel.clone().unwrap_or_else(|| config.guest_dir.clone());
    let met = device(&source) == device(&config.cache_dir);
    let relation = if met { "are on one file system" } else { "are on different file systems" };
    let fact = format!("{} and {} {relation}", source.display(), config.cache_dir.display());
    requirement("links into jails", Need::Optional, met, fact, "put the guest on the file system of data_dir")
}

/// The part of a path that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

fn cgroup(hierarchy: &Hierarchy, controller: Controller) -> Requirement {
    let (name, at) = (controller.as_str(), hierarchy.controller(controller));
    let fact = at.map_or_else(|| format!("no hierarchy has {name}"), |path| format!("{name} is at {}", path.display()));
    let fix = format!("enable the controller: echo +{name} > /sys/fs/cgroup/cgroup.subtree_control");
    requirement(&format!("cgroup {name}"), Need::Required, at.is_some(), fact, &fix)
}

fn huge_pages() -> Requirement {
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let free: u64 = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let fix = "sysctl -w vm.nr_hugepages=1024";
    requirement("huge pages", Need::Required, free > 0, format!("{free} pages of 2 MiB are free"), fix)
}
