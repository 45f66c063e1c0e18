//! What is remembered of sandboxes that ended: one file each, bounded in number and age, so that `explain` works after
//! DELETE and after a restart. What can be listed is kept in memory too; the steps are on disk alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moat_api::rest::sandbox::{ExplainedStep, Explanation, Sandbox};
use moat_model::{ErrorKind, Namespace, SandboxId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::{Error, Result};
use crate::guard::make_private;

/// Version of the format. A file of another version is left alone and reported.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    ended_at: Timestamp,
    sandbox: Sandbox,
    steps: Vec<ExplainedStep>,
}

#[derive(Debug, Clone)]
struct Ended {
    at: Timestamp,
    sandbox: Sandbox,
}

/// The ended sandboxes of a node.
#[derive(Debug)]
pub(super) struct History {
    dir: PathBuf,
    keep: Duration,
    keep_max: usize,
    ended: Mutex<BTreeMap<SandboxId, Ended>>,
}

impl History {
    /// Reads what earlier daemons kept. Blocking.
    pub(super) fn open(dir: &Path, keep: Duration, keep_max: usize) -> Result<Self> {
        make_private(dir)?;
        let files = durable::list(dir)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("read {}", dir.display()), e))?;
        let mut ended = BTreeMap::new();
        for (stem, path) in files {
            let Ok(id) = SandboxId::parse(&stem) else { continue };
            match read(&path) {
                Ok(document) => {
                    ended.insert(id, Ended { at: document.ended_at, sandbox: document.sandbox });
                }
                Err(error) => tracing::warn!(error = %error.chain(), "history of a sandbox left alone"),
            }
        }
        Ok(Self { dir: dir.to_owned(), keep, keep_max, ended: Mutex::new(ended) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Ended>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: &SandboxId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Remembers one. Blocking. It can be listed even if the disk does not take it.
    pub(super) fn keep(&self, id: &SandboxId, at: Timestamp, sandbox: Sandbox, steps: Vec<ExplainedStep>) {
        if self.keep_max == 0 || self.keep.is_zero() {
            return;
        }
        let document = Document { format: FORMAT, ended_at: at, sandbox, steps };
        let write = || -> Result<()> {
            let body = serde_json::to_vec(&document)
                .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("write the history of {id}"), e))?;
            // Not synced: losing it to a power failure loses an explanation, and a disk would be waited for at every end.
            crate::logfile::replace_file(&self.path(id), &body, 0o600)
                .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("write {}", self.path(id).display()), e))
        };
        if let Err(error) = write() {
            tracing::warn!(sandbox = %id, error = %error.chain(), "its history is not kept");
        }
        self.lock().insert(id.clone(), Ended { at, sandbox: document.sandbox });
    }

    /// One that ended, in this namespace.
    pub(super) fn get(&self, namespace: &Namespace, id: &SandboxId) -> Option<Sandbox> {
        let ended = self.lock();
        ended.get(id).filter(|e| e.sandbox.namespace == namespace.as_str()).map(|e| e.sandbox.clone())
    }

    /// All of a namespace.
    pub(super) fn of(&self, namespace: &Namespace) -> Vec<(SandboxId, Sandbox)> {
        let ended = self.lock();
        let own = ended.iter().filter(|(_, e)| e.sandbox.namespace == namespace.as_str());
        own.map(|(id, e)| (id.clone(), e.sandbox.clone())).collect()
    }

    /// What happened to it. Blocking.
    pub(super) fn explain(&self, namespace: &Namespace, id: &SandboxId) -> Result<Explanation> {
        let sandbox = self.get(namespace, id).ok_or_else(|| super::no_such(id))?;
        let steps = read(&self.path(id))?.steps;
        Ok(Explanation { id: id.to_string(), sandbox, steps })
    }

    /// Forgets those that ended too long ago, and the oldest of those that are too many. Blocking.
    pub(super) fn sweep(&self, now: Timestamp) {
        let doomed: Vec<SandboxId> = {
            let ended = self.lock();
            let mut by_end: Vec<(Timestamp, &SandboxId)> = ended.iter().map(|(id, e)| (e.at, id)).collect();
            by_end.sort();
            let surplus = by_end.len().saturating_sub(self.keep_max);
            let old = |at: Timestamp| now.since(at) > self.keep;
            let stale = by_end.into_iter().enumerate().filter(|(index, (at, _))| *index < surplus || old(*at));
            stale.map(|(_, (_, id))| id.clone()).collect()
        };
        for id in doomed {
            match std::fs::remove_file(self.path(&id)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(sandbox = %id, %error, "its history is not removed; trying again later");
                }
                _ => drop(self.lock().remove(&id)),
            }
        }
    }
}

fn read(path: &Path) -> Result<Document> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::caused_by(ErrorKind::Internal, format!("read {}", path.display()), e)
    };
    let body = std::fs::read(path).map_err(|e| failed(e.into()))?;
    let document: Document = serde_json::from_slice(&body).map_err(|e| failed(e.into()))?;
    if document.format != FORMAT {
        return Err(failed(format!("format {}; this version reads {FORMAT}", document.format).into()));
    }
    Ok(document)
}
