//! Output of tasks of allocations: which sandbox writes into which files. Blocking.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use moat_agent::protocol::StreamName;
use moat_model::{ErrorKind, SandboxId};
use serde::{Deserialize, Serialize};

use crate::logfile::{self, Rotation, TaskLog};

/// Wait after a refused write; a full disk is the usual reason.
const RETRY: Duration = Duration::from_secs(1);

/// Where a task's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskOutput {
    /// Directory of the files.
    pub dir: PathBuf,
    /// What their names begin with.
    pub task: String,
    /// How many of them, how large.
    pub rotation: Rotation,
}

/// Bindings, and the logs that are open.
#[derive(Debug)]
pub(super) struct Tasks {
    dir: PathBuf,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    bindings: HashMap<SandboxId, TaskOutput>,
    /// One writer for each task, whatever sandbox it writes for.
    open: HashMap<(PathBuf, String), Weak<TaskLog>>,
    /// Keeps those open that are bound.
    held: HashMap<SandboxId, Arc<TaskLog>>,
}

impl Tasks {
    /// Finds the bindings again before the engine recovers its sandboxes.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        super::state::make_private(dir)?;
        let mut bindings = HashMap::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let stem = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json"));
            let Some(sandbox) = stem.and_then(|name| SandboxId::parse(name).ok()) else { continue };
            match serde_json::from_slice(&std::fs::read(&path)?) {
                Ok(output) => drop(bindings.insert(sandbox, output)),
                Err(error) => tracing::warn!(path = %path.display(), %error, "not a binding, left alone"),
            }
        }
        Ok(Self { dir: dir.to_owned(), tables: Mutex::new(Tables { bindings, ..Tables::default() }) })
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bind(&self, sandbox: SandboxId, output: TaskOutput) -> io::Result<()> {
        let log = self.log(&output)?;
        logfile::replace_file(&self.path(&sandbox), &serde_json::to_vec(&output)?, 0o600)?;
        let mut tables = self.lock();
        tables.held.insert(sandbox.clone(), log);
        tables.bindings.insert(sandbox, output);
        Ok(())
    }

    pub(super) fn unbind(&self, sandbox: &SandboxId) -> io::Result<()> {
        super::state::remove_if_there(&self.path(sandbox))?;
        let mut tables = self.lock();
        tables.bindings.remove(sandbox);
        tables.held.remove(sandbox);
        tables.open.retain(|_, log| log.strong_count() > 0);
        Ok(())
    }

    pub(super) fn output_of(&self, sandbox: &SandboxId) -> Option<TaskOutput> {
        self.lock().bindings.get(sandbox).cloned()
    }

    pub(super) fn sandboxes(&self) -> Vec<SandboxId> {
        self.lock().bindings.keys().cloned().collect()
    }

    /// The log, opened once however many ask.
    pub(super) fn log(&self, output: &TaskOutput) -> io::Result<Arc<TaskLog>> {
        let key = (output.dir.clone(), output.task.clone());
        let mut tables = self.lock();
        if let Some(log) = tables.open.get(&key).and_then(Weak::upgrade) {
            return Ok(log);
        }
        let log = TaskLog::open(&output.dir, &output.task, output.rotation)?;
        tables.open.insert(key, Arc::downgrade(&log));
        // One that was found bound stays open like one that was bound by us.
        let bound: Vec<SandboxId> =
            tables.bindings.iter().filter(|(_, other)| *other == output).map(|(sandbox, _)| sandbox.clone()).collect();
        for sandbox in bound {
            tables.held.insert(sandbox, Arc::clone(&log));
        }
        Ok(log)
    }

    fn path(&self, sandbox: &SandboxId) -> PathBuf {
        self.dir.join(format!("{sandbox}.json"))
    }
}

/// Appends, again and again while the disk refuses: the program waits for it, and nothing is lost.
pub(super) async fn append(
    log: Arc<TaskLog>,
    sandbox: SandboxId,
    stream: StreamName,
    offset: u64,
    bytes: Bytes,
) -> moat_engine::Result<()> {
    loop {
        let (log, id, bytes) = (Arc::clone(&log), sandbox.clone(), bytes.clone());
        let work = move || log.append(&id, stream, offset, &bytes);
        match tokio::task::spawn_blocking(work).await.map_err(io::Error::other).and_then(|done| done) {
            Ok(()) => return Ok(()),
            // Not to be mended by waiting: the directory was removed, or the offset is wrong.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
                let what = format!("append output of {sandbox}");
                return Err(moat_engine::Error::caused_by(ErrorKind::Conflict, what, error));
            }
            Err(error) => {
                tracing::warn!(%sandbox, %error, "output of a task cannot be written");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
