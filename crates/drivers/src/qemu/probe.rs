//! What this host must have, looked up without changing anything.

use moat_engine::driver::{Need, Requirement};
use moat_model::ErrorKind;

use super::accelerator::kvm_kind;
use super::config::QemuConfig;
use super::host::{self, Found};
use super::served::FileServer;
use crate::container::probe as container;
use crate::linux::cgroup::Hierarchy;
use crate::vm::disk;

/// What the jail of a monitor needs of what a container does.
const OF_JAILS: [&str; 15] = [
    "root",
    "kernel",
    "user namespaces",
    "seccomp filters",
    "executable memfd",
    "mount namespaces",
    "pid namespaces",
    "network namespaces",
    "ipc namespaces",
    "host name namespaces",
    "cgroup namespaces",
    "tmpfs file system",
    "cgroup memory",
    "cgroup pids",
    "cgroup cpu",
];

/// Every requirement, met or not, with the fact that decided it.
pub(super) fn requirements(
    config: &QemuConfig,
    hierarchy: &Hierarchy,
    found: std::result::Result<&Found, &(ErrorKind, String)>,
    served: std::result::Result<&FileServer, &(ErrorKind, String)>,
) -> Vec<Requirement> {
    let mut all: Vec<Requirement> =
        container::requirements(hierarchy).into_iter().filter(|r| OF_JAILS.contains(&&*r.name)).collect();
    all.push(program(config));
    all.push(guest(config));
    all.push(disk::requirement());
    all.push(files(served));
    let (_, fact) = kvm_kind();
    match found {
        Ok(found) => {
            all.extend(found.trial.as_ref().map(super::accelerator::Trial::requirement));
            let fact = match &found.trial {
                Some(trial) => format!("{} ({})", found.accelerator.as_str(), trial.fact),
                None => format!("{}, as qemu.accelerator says ({fact})", found.accelerator.as_str()),
            };
            all.push(requirement("accelerator", true, fact, ""));
        }
        Err((_, why)) => {
            all.push(requirement("machines", false, why.clone(), "see the other requirements of this driver"))
        }
    }
    all
}

fn requirement(name: &str, met: bool, fact: String, fix: &str) -> Requirement {
    Requirement { name: name.to_owned(), need: Need::Required, met, fact, fix: (!met).then(|| fix.to_owned()) }
}

fn program(config: &QemuConfig) -> Requirement {
    let version = host::program(config).and_then(|path| Ok((host::version_of(&path)?, path)));
    let fact = version
        .as_ref()
        .map_or_else(moat_engine::Error::chain, |(version, path)| format!("QEMU {version} at {}", path.display()));
    requirement("qemu 7.2 or later", version.is_ok(), fact, "apt-get install qemu-system-x86")
}

fn files(served: std::result::Result<&FileServer, &(ErrorKind, String)>) -> Requirement {
    Requirement {
        name: "virtiofsd".to_owned(),
        need: Need::Optional,
        met: served.is_ok(),
        fact: served.map_or_else(|(_, why)| why.clone(), |server| server.program.display().to_string()),
        fix: served.is_err().then(|| {
            "only for jails in machines: apt-get install qemu-system-common (Debian 12) or virtiofsd (later)".to_owned()
        }),
    }
}

fn guest(config: &QemuConfig) -> Requirement {
    let guest = moat_guest::Guest::open(&config.guest_dir);
    let fact = guest.as_ref().map_or_else(ToString::to_string, moat_guest::Guest::describe);
    requirement("guest", guest.is_ok(), fact, &moat_guest::fix())
}
