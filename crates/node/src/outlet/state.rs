//! Bindings and open logs, and what of them is on disk. Blocking.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use moat_model::{SandboxId, Timestamp, WorkloadId};
use serde::{Deserialize, Serialize};

use super::retention::Ended;
use super::{OutletConfig, workload_dir};
use crate::events::Attempt;
use crate::logfile::{self, WorkloadLog, WorkloadRef};

/// Facts about a sandbox that are in the outbox, or were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub deployed: bool,
    pub undeployed: bool,
}

/// A sandbox's place among the workloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Binding {
    pub workload: WorkloadRef,
    #[serde(default)]
    pub attempt: Attempt,
    #[serde(default)]
    pub told: Told,
}

#[derive(Debug)]
pub(super) struct State {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    bindings: HashMap<SandboxId, Binding>,
    /// Bound, or not yet published to the end.
    active: HashMap<WorkloadId, Arc<WorkloadLog>>,
    /// Everything open, also for somebody who only reads.
    open: HashMap<WorkloadId, Weak<WorkloadLog>>,
}

impl State {
    pub(super) fn open(config: &OutletConfig) -> io::Result<Self> {
        make_private(&config.binding_dir)?;
        make_private(&config.log_dir)?;
        let mut tables = Tables { bindings: load_bindings(&config.binding_dir)?, ..Tables::default() };
        for binding in tables.bindings.clone().into_values() {
            tables.activate(config, &binding.workload)?;
        }
        for id in list_logs(&config.log_dir)? {
            if tables.active.contains_key(&id) {
                continue;
            }
            let Some(log) = WorkloadLog::open(&workload_dir(&config.log_dir, &id), config.rotation)? else { continue };
            let (end, published) = (log.end(), log.load_cursor()?);
            log.set_published(published);
            if end != published {
                tables.open.insert(id.clone(), Arc::downgrade(&log));
                tables.active.insert(id, log);
            }
        }
        Ok(Self { tables: Mutex::new(tables) })
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn binding(&self, sandbox: &SandboxId) -> Option<Binding> {
        self.lock().bindings.get(sandbox).cloned()
    }

    pub(super) fn bindings(&self) -> Vec<(SandboxId, WorkloadRef)> {
        self.lock().bindings.iter().map(|(id, binding)| (id.clone(), binding.workload.clone())).collect()
    }

    pub(super) fn bind(
        &self,
        config: &OutletConfig,
        sandbox: SandboxId,
        workload: WorkloadRef,
        attempt: Attempt,
    ) -> io::Result<()> {
        let mut tables = self.lock();
        let told = tables.bindings.get(&sandbox).map(|binding| binding.told).unwrap_or_default();
        let binding = Binding { workload, attempt, told };
        store_binding(&config.binding_dir, &sandbox, &binding)?;
        tables.activate(config, &binding.workload)?;
        tables.bindings.insert(sandbox, binding);
        Ok(())
    }

    pub(super) fn unbind(&self, config: &OutletConfig, sandbox: &SandboxId, now: Timestamp) -> io::Result<()> {
        let mut tables = self.lock();
        let Some(binding) = tables.bindings.get(sandbox).cloned() else { return Ok(()) };
        remove_if_there(&binding_path(&config.binding_dir, sandbox))?;
        tables.bindings.remove(sandbox);
        if !tables.is_bound(&binding.workload.id)
            && let Some(log) = tables.active.get(&binding.workload.id)
        {
            log.seal(Some(now))?;
        }
        Ok(())
    }

    pub(super) fn told(&self, config: &OutletConfig, sandbox: &SandboxId, told: Told) -> io::Result<()> {
        let mut tables = self.lock();
        let Some(binding) = tables.bindings.get_mut(sandbox) else { return Ok(()) };
        binding.told = told;
        store_binding(&config.binding_dir, sandbox, binding)
    }

    pub(super) fn live_log(&self, workload: &WorkloadId) -> Option<Arc<WorkloadLog>> {
        self.lock().active.get(workload).cloned()
    }

    /// The log of a workload that is about to run: made if it is missing.
    pub(super) fn log_of(&self, config: &OutletConfig, workload: &WorkloadRef) -> io::Result<Arc<WorkloadLog>> {
        let mut tables = self.lock();
        if let Some(log) = tables.opened(&workload.id) {
            return Ok(log);
        }
        let log = WorkloadLog::create(&workload_dir(&config.log_dir, &workload.id), workload.clone(), config.rotation)?;
        tables.open.insert(workload.id.clone(), Arc::downgrade(&log));
        Ok(log)
    }

    pub(super) fn find_log(&self, config: &OutletConfig, id: &WorkloadId) -> io::Result<Option<Arc<WorkloadLog>>> {
        let mut tables = self.lock();
        if let Some(log) = tables.opened(id) {
            return Ok(Some(log));
        }
        let found = WorkloadLog::open(&workload_dir(&config.log_dir, id), config.rotation)?;
        if let Some(log) = &found {
            tables.open.insert(id.clone(), Arc::downgrade(log));
        }
        Ok(found)
    }

    pub(super) fn active(&self) -> Vec<Arc<WorkloadLog>> {
        self.lock().active.values().cloned().collect()
    }

    pub(super) fn retire(&self, workload: &WorkloadId) -> bool {
        let mut tables = self.lock();
        let more = tables.active.get(workload).is_some_and(|log| log.published() != log.end());
        if more || tables.is_bound(workload) {
            return false;
        }
        tables.active.remove(workload);
        true
    }

    pub(super) fn sweep(&self, config: &OutletConfig, now: Timestamp) -> io::Result<usize> {
        let mut tables = self.lock();
        tables.open.retain(|_, log| log.strong_count() > 0);
        let mut ended = Vec::new();
        for workload in list_logs(&config.log_dir)? {
            if tables.open.contains_key(&workload) {
                continue;
            }
            let dir = workload_dir(&config.log_dir, &workload);
            let Some((_, at)) = logfile::inspect(&dir)? else { continue };
            // Without an end it was bound when the power failed: its end is not known, only that it is over.
            let at = match at {
                Some(at) => at,
                None => modified(&dir)?,
            };
            ended.push(Ended { workload, at, bytes: dir_bytes(&dir)? });
        }
        let doomed = config.retention.choose(ended, now);
        for workload in &doomed {
            std::fs::remove_dir_all(workload_dir(&config.log_dir, workload))?;
        }
        Ok(doomed.len())
    }
}

impl Tables {
    fn is_bound(&self, workload: &WorkloadId) -> bool {
        self.bindings.values().any(|binding| binding.workload.id == *workload)
    }

    fn opened(&self, workload: &WorkloadId) -> Option<Arc<WorkloadLog>> {
        self.open.get(workload).and_then(Weak::upgrade)
    }

    /// The log of a workload that runs: open, not sealed, and watched by the publisher.
    fn activate(&mut self, config: &OutletConfig, workload: &WorkloadRef) -> io::Result<()> {
        let log = match self.opened(&workload.id) {
            Some(log) => log,
            None => {
                WorkloadLog::create(&workload_dir(&config.log_dir, &workload.id), workload.clone(), config.rotation)?
            }
        };
        log.unseal()?;
        self.open.insert(workload.id.clone(), Arc::downgrade(&log));
        self.active.insert(workload.id.clone(), log);
        Ok(())
    }
}

pub(super) fn make_private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn binding_path(dir: &Path, sandbox: &SandboxId) -> PathBuf {
    dir.join(format!("{sandbox}.json"))
}

fn store_binding(dir: &Path, sandbox: &SandboxId, binding: &Binding) -> io::Result<()> {
    logfile::replace_file(&binding_path(dir, sandbox), &serde_json::to_vec(binding)?, 0o600)
}

fn load_bindings(dir: &Path) -> io::Result<HashMap<SandboxId, Binding>> {
    let mut bindings = HashMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let sandbox = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".json"))
            .and_then(|name| SandboxId::parse(name).ok());
        let Some(sandbox) = sandbox else { continue };
        match serde_json::from_slice(&std::fs::read(&path)?) {
            Ok(binding) => drop(bindings.insert(sandbox, binding)),
            Err(error) => tracing::warn!(path = %path.display(), %error, "not a binding, left alone"),
        }
    }
    Ok(bindings)
}

fn list_logs(dir: &Path) -> io::Result<Vec<WorkloadId>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        found.extend(entry?.file_name().to_str().and_then(|name| WorkloadId::parse(name).ok()));
    }
    Ok(found)
}

fn modified(path: &Path) -> io::Result<Timestamp> {
    let since = std::fs::metadata(path)?.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}

fn dir_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
