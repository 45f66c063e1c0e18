//! What microVMs want of the host beside what their drivers need. Nothing here keeps a node from starting.

use std::path::Path;

use moat_drivers::qemu::accelerator::{KvmKind, kvm_kind};
use moat_engine::driver::{Need, Requirement};
use rustix::fs::{Access, access};

use super::requirement;

pub(super) fn requirements() -> Vec<Requirement> {
    let root = Path::new("/");
    let mut all = vec![kvm(kvm_kind(), Path::new("/dev/kvm"))];
    all.extend(of(root));
    all
}

/// What can be read below a root, which a test brings.
fn of(root: &Path) -> Vec<Requirement> {
    vec![vsock(root), huge_pages(root), merging(root), threads(root)]
}

fn optional(name: &str, met: bool, fact: impl Into<String>, fix: &str) -> Requirement {
    requirement(name, Need::Optional, met, fact, fix)
}

/// What stands behind `/dev/kvm`, and whether it may be opened. Whether a guest really runs, the driver tries.
fn kvm((kind, fact): (KvmKind, String), device: &Path) -> Requirement {
    let word = match kind {
        KvmKind::None => "none",
        KvmKind::Hardware(whose) => whose,
        KvmKind::Paravirtual => "paravirtual",
    };
    let fact = format!("{word}: {fact}");
    match kind {
        KvmKind::None => {
            let fix = "switch virtualisation on in the firmware, or nested virtualisation in the hypervisor above; then \
                       modprobe kvm_intel or kvm_amd";
            optional("KVM", false, fact, fix)
        }
        KvmKind::Paravirtual => {
            let fix = "use a host with hardware virtualisation, or an instance with nested virtualisation: kernels of \
                       distributions do not run on this one; QEMU translates meanwhile";
            optional("KVM", false, fact, fix)
        }
        KvmKind::Hardware(_) => match access(device, Access::READ_OK | Access::WRITE_OK) {
            Ok(()) => optional("KVM", true, fact, ""),
            Err(errno) => {
                let fix = "run the node as root, or let its user read and write the device: chgrp kvm /dev/kvm; chmod 0660 /dev/kvm";
                optional("KVM", false, format!("{fact}, but {}: {errno}", device.display()), fix)
            }
        },
    }
}

/// Neither driver needs it: QEMU is spoken to over a serial port, Firecracker over a socket of its own.
fn vsock(root: &Path) -> Requirement {
    let there = root.join("dev/vhost-vsock").exists();
    let fact = if there {
        "/dev/vhost-vsock exists"
    } else {
        "/dev/vhost-vsock does not exist; agents are reached without it, somewhat slower"
    };
    optional("vhost-vsock", there, fact, "modprobe vhost_vsock")
}

fn read(root: &Path, path: &str) -> Option<String> {
    std::fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned())
}

/// Memory of guests in large pages: fewer misses, on both levels of tables.
fn huge_pages(root: &Path) -> Requirement {
    let transparent = read(root, "sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let chosen = transparent.split(['[', ']']).nth(1).unwrap_or("not in this kernel").to_owned();
    let reserved = read(root, "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages").unwrap_or_default();
    let reserved: u64 = reserved.parse().unwrap_or(0);
    let met = reserved > 0 || ["always", "madvise"].contains(&chosen.as_str());
    let fact = format!("transparent ones: {chosen}; {reserved} of 2 MiB reserved");
    optional("huge pages", met, fact, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
}

/// Merging equal pages tells one tenant by its timing what another has in memory.
fn merging(root: &Path) -> Requirement {
    let run = read(root, "sys/kernel/mm/ksm/run");
    let off = run.as_deref().is_none_or(|run| run != "1");
    let fact = match &run {
        None => "this kernel has no KSM".to_owned(),
        Some(run) => format!("/sys/kernel/mm/ksm/run is {run}"),
    };
    optional("KSM off", off, fact, "echo 2 > /sys/kernel/mm/ksm/run")
}

/// Two threads of a core share what leaks between them.
fn threads(root: &Path) -> Requirement {
    let active = read(root, "sys/devices/system/cpu/smt/active");
    let off = active.as_deref().is_none_or(|active| active != "1");
    let fact = match active.as_deref() {
        None => "the kernel does not say; a guest sees what its host shows it",
        Some("1") => "two threads of a core may belong to two tenants, who can spy on each other",
        Some(_) => "no core runs two threads",
    };
    optional("SMT off", off, fact, "echo off > /sys/devices/system/cpu/smt/control, or start the kernel with nosmt")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn kvm_is_told_apart_with_a_fix_for_each() {
        let dir = tree(&[("kvm", "")]);
        let device = dir.path().join("kvm");
        let fact = || "as seen".to_owned();
        let hardware = kvm((KvmKind::Hardware("intel"), fact()), &device);
        assert!(hardware.met && hardware.fact.starts_with("intel: "), "{hardware:?}");
        for (kind, word) in [(KvmKind::None, "none: "), (KvmKind::Paravirtual, "paravirtual: ")] {
            let found = kvm((kind, fact()), &device);
            assert!(!found.met && found.fact.starts_with(word) && found.fix.is_some(), "{found:?}");
        }
        assert!(!kvm((KvmKind::Hardware("amd"), fact()), &dir.path().join("none")).met);
    }

    #[test]
    fn what_a_host_has_is_told_with_a_fix_for_what_it_has_not() {
        let good = tree(&[
            ("dev/vhost-vsock", ""),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("sys/kernel/mm/ksm/run", "0\n"),
            ("sys/devices/system/cpu/smt/active", "0\n"),
        ]);
        assert!(of(good.path()).iter().all(|r| r.met && r.fix.is_none()));
        let bad = tree(&[
            ("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n"),
            ("sys/kernel/mm/ksm/run", "1\n"),
            ("sys/devices/system/cpu/smt/active", "1\n"),
        ]);
        for found in of(bad.path()) {
            assert!(!found.met && found.fix.is_some() && found.need == Need::Optional, "{found:?}");
        }
        let reserved = tree(&[("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "512\n")]);
        assert!(huge_pages(reserved.path()).met);
    }
}
