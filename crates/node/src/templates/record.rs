//! What is kept of a template: one file each. Written before a warm-up begins and when it has ended, so that whatever line
//! the daemon is killed at, the next one knows what is ready and what was under way.

use std::path::{Path, PathBuf};

use moat_api::rest::template::Warmup;
use moat_image::Digest;
use moat_model::{ErrorKind, Timestamp};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::{Error, Result};
use crate::guard::make_private;

use super::names;

/// Version of the format. A record of another version is left alone and reported.
const FORMAT: u32 = 1;

/// One state of an image, with what was said when it became a template. Never changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Version {
    /// From 1.
    pub number: u64,
    /// Manifest.
    pub digest: Digest,
    /// Where it came from, and what goes over the image's own defaults.
    pub request: Warmup,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What became of the last warm-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", deny_unknown_fields)]
pub(super) enum Task {
    /// It is under way; a daemon that finds this starts it again.
    Warming {
        /// Since.
        since: Timestamp,
    },
    /// It went well.
    Ready,
    /// It did not.
    Failed {
        /// When.
        at: Timestamp,
        /// How.
        kind: ErrorKind,
        /// Why.
        message: String,
    },
    /// Somebody gave it up.
    Cancelled {
        /// When.
        at: Timestamp,
    },
}

/// Everything that is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TemplateRecord {
    format: u32,
    pub name: String,
    /// The last warm-up.
    pub request: Warmup,
    pub task: Task,
    /// The last is in use; older ones stay as long as something lives from them.
    pub versions: Vec<Version>,
    /// Number of the next version: none is ever given twice.
    pub next: u64,
}

impl TemplateRecord {
    pub(super) fn new(request: Warmup, next: u64, now: Timestamp) -> Self {
        Self {
            format: FORMAT,
            name: request.name.clone(),
            request,
            task: Task::Warming { since: now },
            versions: Vec::new(),
            next,
        }
    }

    pub(super) fn current(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// The image is here: a new version, unless nothing changed.
    pub(super) fn arrived(&mut self, digest: Digest, request: &Warmup, now: Timestamp) {
        self.task = Task::Ready;
        let same = |v: &Version| v.digest == digest && says_the_same(&v.request, request);
        if self.current().is_some_and(same) {
            return;
        }
        self.versions.push(Version { number: self.next, digest, request: request.clone(), created_at: now });
        self.next = self.next.saturating_add(1);
    }
}

/// Two warm-ups of one digest that sandboxes could not tell apart.
fn says_the_same(a: &Warmup, b: &Warmup) -> bool {
    (&a.resources, &a.env, &a.user, &a.workdir) == (&b.resources, &b.env, &b.user, &b.workdir)
}

/// The records of a node.
#[derive(Debug)]
pub(super) struct RecordStore {
    dir: PathBuf,
}

impl RecordStore {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        make_private(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }

    /// All that can be read.
    pub(super) fn read_all(&self) -> Result<Vec<TemplateRecord>> {
        let files = durable::list(&self.dir).map_err(|e| failed("read", &self.dir, e))?;
        let mut records = Vec::new();
        for (name, path) in files {
            match read(&path) {
                Ok(record) if record.format == FORMAT && record.name == name && names::check(&name).is_ok() => {
                    records.push(record);
                }
                Ok(_) => tracing::warn!(path = %path.display(), "not a template of this version, left alone"),
                Err(error) => tracing::warn!(error = %error.chain(), "template record left alone"),
            }
        }
        Ok(records)
    }

    pub(super) fn write(&self, record: &TemplateRecord) -> Result<()> {
        let path = self.path(&record.name);
        let body = serde_json::to_vec_pretty(record)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("write template {}", record.name), e))?;
        durable::replace(&path, &body).map_err(|e| failed("write", &path, e))
    }

    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        durable::remove(&path).map_err(|e| failed("remove", &path, e))
    }
}

fn read(path: &Path) -> Result<TemplateRecord> {
    let body = std::fs::read(path).map_err(|e| failed("read", path, e))?;
    serde_json::from_slice(&body)
        .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("read {}", path.display()), e))
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    let kind = if error.kind() == std::io::ErrorKind::StorageFull { ErrorKind::Exhausted } else { ErrorKind::Internal };
    Error::caused_by(kind, format!("{what} {}", path.display()), error)
}
