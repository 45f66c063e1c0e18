//! The drivers a configuration names, as far as this host can have them.

use std::collections::BTreeSet;
use std::sync::Arc;

use moat_drivers::container::ContainerDriver;
use moat_drivers::linux::agent_binary::AgentBinary;
use moat_drivers::linux::cgroup::Hierarchy;
use moat_drivers::process::ProcessDriver;
use moat_engine::driver::{Driver, Need, Requirement};
use moat_engine::{Absent, Registry};
use moat_model::{ErrorKind, Isolation};

use crate::config::{MACHINE_DRIVERS, NodeConfig};
use crate::error::{Error, Result};

use super::machines;

/// A driver the configuration names.
#[derive(Debug)]
pub enum Candidate {
    /// It was built; what it needs, it says itself.
    Driver(Arc<dyn Driver>),
    /// One of microVMs that could not even be built here.
    Missing(Absent),
}

/// Builds every driver the configuration names, whether it can work here or not.
pub fn named(config: &NodeConfig) -> Result<Vec<Candidate>> {
    let binary = AgentBinary::embedded()
        .map_err(|e| Error::caused_by(ErrorKind::Unavailable, "put the agent into a memfd", e))?;
    let mut candidates = Vec::new();
    for name in &config.drivers {
        candidates.push(match build(config, name, &binary) {
            Ok(driver) => Candidate::Driver(driver),
            // A node without microVMs is a node; one that is told nonsense is none.
            Err(error) if MACHINE_DRIVERS.contains(&name.as_str()) && error.kind != ErrorKind::InvalidSpec => {
                let why = error.chain();
                Candidate::Missing(Absent { driver: name.clone(), isolation: Isolation::Microvm, why })
            }
            Err(error) => return Err(error),
        });
    }
    Ok(candidates)
}

fn build(config: &NodeConfig, name: &str, binary: &AgentBinary) -> Result<Arc<dyn Driver>> {
    match name {
        "container" => {
            let mut container = config.container.clone();
            container.private_dirs = vec![config.run_dir.clone(), config.data_dir.clone()];
            container.roots_dir = config.run_dir.join("roots");
            container.private_dirs.extend(config.oci.cache_dir.clone());
            container.private_dirs.extend(config.machines.guest.machines_dir.clone());
            container.allow_host_pid = config.jobs.host_pid;
            container.allow_host_ipc = config.jobs.host_ipc;
            container.exclusive_cpus.clone_from(&config.jobs.capacity.cores);
            Ok(Arc::new(ContainerDriver::new(container, binary.clone())?))
        }
        "process" => {
            let mut process = config.process.clone();
            process.enabled = true;
            process.exclusive_cpus.clone_from(&config.jobs.capacity.cores);
            Ok(Arc::new(ProcessDriver::new(process, binary.clone())?))
        }
        "qemu" => machines::qemu(config, binary),
        "firecracker" => machines::firecracker(config, binary),
        other => Err(Error::new(ErrorKind::InvalidSpec, format!("drivers: {other:?} is not a driver"))),
    }
}

/// The groups all sandboxes were below go with the daemon that made them, unless one of those lives on.
pub(super) fn leave_groups(config: &NodeConfig) {
    for parent in BTreeSet::from([&config.container.cgroup_parent, &config.process.cgroup_parent]) {
        if let Err(error) = Hierarchy::detect(parent).and_then(|tree| tree.remove_parent()) {
            tracing::debug!(%parent, %error, "the group stays");
        }
    }
}

/// The drivers that are offered: those whose every hard requirement is met. Without one that gives the node's default
/// isolation the node does not start: it would refuse everything.
pub fn drivers(config: &NodeConfig) -> Result<Registry> {
    let mut offered: Vec<Arc<dyn Driver>> = Vec::new();
    let mut absent = Vec::new();
    for candidate in named(config)? {
        match candidate {
            Candidate::Missing(missing) => {
                tracing::info!(driver = missing.driver, why = missing.why, "not offered");
                absent.push(missing);
            }
            Candidate::Driver(driver) => match missing(driver.as_ref()) {
                None => offered.push(driver),
                Some(missing) => absent.push(missing),
            },
        }
    }
    let gives_default = |d: &Arc<dyn Driver>| match config.isolation {
        Isolation::Process => d.describe().isolation == Isolation::Process,
        asked => d.describe().isolation.satisfies(asked),
    };
    if !offered.iter().any(gives_default) {
        let facts: Vec<String> = absent.iter().map(|a: &Absent| format!("{} ({})", a.driver, a.why)).collect();
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "isolation {}: no driver on this host gives it; not offered: {}; `moat node preflight` says what to do",
                config.isolation,
                facts.join(", ")
            ),
        ));
    }
    Ok(Registry::new(offered).with_absent(absent))
}

/// Why a driver cannot be offered here, said in the log as well.
fn missing(driver: &dyn Driver) -> Option<Absent> {
    let description = driver.describe();
    let unmet: Vec<Requirement> = driver.probe().into_iter().filter(|r| !r.met).collect();
    let required: Vec<&Requirement> = unmet.iter().filter(|r| r.need == Need::Required).collect();
    // Most hosts have no monitor of microVMs, and nobody said that this one should.
    if MACHINE_DRIVERS.contains(&description.name) && !required.is_empty() {
        let facts: Vec<String> = required.iter().map(|r| format!("{}: {}", r.name, r.fact)).collect();
        let why = facts.join("; ");
        tracing::info!(driver = description.name, why, "not offered; `moat node preflight` says what it needs");
        return Some(Absent { driver: description.name.to_owned(), isolation: description.isolation, why });
    }
    for requirement in &unmet {
        let fix = requirement.fix.as_deref().unwrap_or("none known");
        tracing::warn!(driver = description.name, requirement = %requirement.name, fact = %requirement.fact, fix, "not met");
    }
    if required.is_empty() {
        return None;
    }
    let facts: Vec<String> = unmet.iter().map(|r| format!("{}: {}", r.name, r.fact)).collect();
    Some(Absent { driver: description.name.to_owned(), isolation: description.isolation, why: facts.join("; ") })
}

/// Gives workloads that name no isolation a microVM, if that is what the operator's file means by a sandbox and hardware
/// runs them here.
pub(super) fn prefer_machines(config: &mut NodeConfig, registry: &Registry) {
    if !config.machines.preferred || config.isolation != Isolation::Container {
        return;
    }
    match registry.offer(Isolation::Microvm) {
        Ok(offer) if offer.accelerator != Some("tcg") => config.isolation = Isolation::Microvm,
        found => {
            let why = match found {
                Ok(offer) => format!("{} is too slow to be the rule", offer.shown()),
                Err(error) => error.to_string(),
            };
            tracing::warn!(why, "workloads that name no isolation run in containers, not in microVMs");
        }
    }
}
