//! Machines that are kept whole: where each lies, and what is made of it.
//!
//! A machine is a directory that a driver wrote, below one directory of the node. A snapshot's goes with its record, a
//! fork's when its children are there, a pool's when its template has moved on. What a dead daemon left half made, and what
//! nothing names any more, goes at the next start.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use moat_api::rest::sandbox::{CreateSandbox, ResourceLimits};
use moat_model::network::NetworkSpec;
use moat_model::spec::{MachineSnapshot, Resources, RootSpec, Security};
use moat_model::{ErrorKind, Isolation, ProcessSpec, SandboxSpec};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::guard::make_private;

use super::limits;

/// Beginnings of names in the directory of machines: of snapshots, of forks, and of pools.
pub(super) const OF_SNAPSHOTS: &str = "sn-";
const OF_FORKS: &str = "fork-";
pub(super) const OF_POOLS: &str = "pool-";

/// A machine on disk. Whoever makes sandboxes of it holds it meanwhile.
#[derive(Debug)]
pub(super) struct Machine {
    dir: PathBuf,
    driver: String,
    /// It stays when nobody holds it any more.
    kept: AtomicBool,
}

impl Machine {
    /// One that goes when nobody holds it any more.
    pub(super) fn passing(dir: PathBuf, driver: String) -> Self {
        Self { dir, driver, kept: AtomicBool::new(false) }
    }

    /// One that stays.
    pub(super) fn kept(dir: PathBuf, driver: String) -> Self {
        Self { dir, driver, kept: AtomicBool::new(true) }
    }

    /// It is on record now.
    pub(super) fn keep(&self) {
        self.kept.store(true, Ordering::Release);
    }

    /// It goes when nobody holds it any more.
    pub(super) fn let_go(&self) {
        self.kept.store(false, Ordering::Release);
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What a sandbox is made of it with.
    pub(super) fn restore(&self) -> MachineSnapshot {
        MachineSnapshot { dir: self.dir.clone(), driver: self.driver.clone() }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.kept.load(Ordering::Acquire) {
            return;
        }
        let dir = std::mem::take(&mut self.dir);
        // Gigabytes, perhaps: not on a thread that others wait for.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(&dir))),
            Err(_) => remove(&dir),
        }
    }
}

/// Removes what a driver wrote, and what it had begun to write beside it. Blocking. What cannot be removed goes at the next start.
pub(super) fn remove(dir: &Path) {
    let Some((parent, name)) = dir.parent().zip(dir.file_name().and_then(|n| n.to_str())) else { return };
    if let Err(error) = sweep(parent, |found| !found.starts_with(name)) {
        tracing::warn!(dir = %dir.display(), error = %error.chain(), "a machine is left over until the next start");
    }
}

/// Removes every machine that `keeps` does not know, whole or half made. Blocking.
pub(super) fn sweep(dir: &Path, keeps: impl Fn(&str) -> bool) -> Result<()> {
    let failed =
        |doing: &str, path: &Path, e| Error::caused_by(ErrorKind::Internal, format!("{doing} {}", path.display()), e);
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", dir, error)),
    };
    for entry in entries {
        let path = entry.map_err(|e| failed("read", dir, e))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        // The directory may be one the operator chose, with other things in it.
        let ours = [OF_SNAPSHOTS, OF_FORKS, OF_POOLS].iter().any(|of| name.trim_start_matches('.').starts_with(of));
        if !ours || keeps(name.trim_start_matches('.')) {
            continue;
        }
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("remove", &path, error)),
            _ => tracing::debug!(path = %path.display(), "a machine nobody needs is removed"),
        }
    }
    Ok(())
}

/// A place for a machine that is about to be written. It goes if that comes to nothing.
pub(super) fn place(dir: &Path, name: &str, driver: &str) -> Result<Arc<Machine>> {
    make_private(dir)?;
    Ok(Arc::new(Machine::passing(dir.join(name), driver.to_owned())))
}

/// A name for the machine of a fork.
pub(super) fn fork_name(parent: &str) -> String {
    format!("{OF_FORKS}{parent}-{:016x}", rand::random::<u64>())
}

/// What is recorded of a machine: what a sandbox made of it has, and cannot change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MachineRecord {
    /// Driver that wrote it.
    pub driver: String,
    /// What its root was made of.
    pub root: RootSpec,
    /// Its main process, which goes on.
    pub main: Option<ProcessSpec>,
    /// Its limits.
    pub resources: Resources,
    /// What its processes may.
    pub security: Security,
    /// Its network, without what there can be only one of.
    pub network: NetworkSpec,
}

impl MachineRecord {
    pub(super) fn of(driver: &str, spec: &SandboxSpec) -> Self {
        Self {
            driver: driver.to_owned(),
            root: spec.root.clone(),
            main: spec.main.clone(),
            resources: spec.resources.clone(),
            security: spec.security.clone(),
            network: shared_network(&spec.network),
        }
    }
}

/// A network without what there can be only one of.
pub(super) fn shared_network(network: &NetworkSpec) -> NetworkSpec {
    NetworkSpec { address: None, name: None, publish: Vec::new(), ..network.clone() }
}

/// Refuses, by name, what a request wants otherwise than the machine is.
pub(super) fn fits(request: &CreateSandbox, isolation: Isolation, machine: &MachineRecord) -> Result<()> {
    if isolation == Isolation::Process {
        let why = "a snapshot with memory is a machine of its own, which process is not; leave it out";
        return Err(Error::invalid("isolation", why));
    }
    for (field, asked) in [("command", request.command.is_some()), ("run_entrypoint", request.run_entrypoint)] {
        if asked {
            let why = "what ran when the snapshot was taken goes on in what is made of it; leave it out";
            return Err(Error::invalid(field, why));
        }
    }
    limits_fit(&request.resources, &machine.resources)
}

fn limits_fit(asked: &ResourceLimits, kept: &Resources) -> Result<()> {
    let kept = limits::shown(kept);
    let number = |n: u64| n.to_string();
    let same = [
        ("vcpu", asked.vcpu.map(|n| n.to_string()), kept.vcpu.map(|n| n.to_string())),
        ("memory_mb", asked.memory_mb.map(number), kept.memory_mb.map(number)),
        ("cpu_weight", asked.cpu_weight.map(|n| n.to_string()), kept.cpu_weight.map(|n| n.to_string())),
        ("pids", asked.pids.map(|n| n.to_string()), kept.pids.map(|n| n.to_string())),
        ("disk_mb", asked.disk_mb.map(number), kept.disk_mb.map(number)),
    ];
    for (field, asked, kept) in same {
        if let Some(asked) = asked
            && kept.as_ref() != Some(&asked)
        {
            let kept = kept.unwrap_or_else(|| "none".to_owned());
            let why = format!("{asked}: the snapshot is a machine with {kept}, and keeps that; leave it out");
            return Err(Error::invalid(&format!("resources.{field}"), why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_machines_nobody_needs_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["sn-a", "sn-b", "sn-b.new", ".fork-x", "pool-app-1", "others"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        sweep(dir.path(), |name| ["sn-a", "pool-app-1"].contains(&name)).unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["others", "pool-app-1", "sn-a"]);
        sweep(&dir.path().join("none"), |_| false).unwrap();
    }

    #[test]
    fn a_passing_machine_goes_with_its_last_holder() {
        let dir = tempfile::tempdir().unwrap();
        let machine = place(&dir.path().join("machines"), "fork-a", "fake").unwrap();
        std::fs::create_dir_all(machine.dir().join("deep")).unwrap();
        std::fs::create_dir(machine.dir().with_extension("new")).unwrap();
        let (path, other) = (machine.dir().to_owned(), Arc::clone(&machine));
        drop(machine);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists() && !path.with_extension("new").exists());
        let kept = Machine::kept(path.clone(), "fake".to_owned());
        std::fs::create_dir(&path).unwrap();
        drop(kept);
        assert!(path.exists());
    }

    #[test]
    fn limits_are_those_that_were_kept() {
        let kept = Resources { memory_bytes: Some(128 << 20), cpu_quota_millis: Some(500), ..Resources::default() };
        limits_fit(&ResourceLimits::default(), &kept).unwrap();
        limits_fit(&limits::shown(&kept), &kept).unwrap();
        for (asked, field) in [
            (ResourceLimits { memory_mb: Some(129), ..ResourceLimits::default() }, "memory_mb"),
            (ResourceLimits { vcpu: Some(1.0), ..ResourceLimits::default() }, "vcpu"),
            (ResourceLimits { pids: Some(7), ..ResourceLimits::default() }, "pids"),
        ] {
            let refusal = limits_fit(&asked, &kept).unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("resources.{field}: ")), "{refusal}");
        }
    }
}
