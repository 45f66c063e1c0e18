//! The index of one stream: what the lengths of its files cannot tell.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use moat_model::SandboxId;
use serde::{Deserialize, Serialize};

/// Attempts whose end is remembered. Only the newest can still send something; the rest is for the unexpected.
const WRITERS_MAX: usize = 16;

/// Replaced by write-and-rename before anything it promises happens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    /// Position of the first byte of each file, by file number.
    pub files: BTreeMap<u64, u64>,
    /// Who writes now.
    pub writer: Option<Writer>,
    /// How far earlier writers came, in bytes of their own output.
    pub earlier: BTreeMap<SandboxId, u64>,
}

/// The sandbox whose output is appended now: `position - at + before` bytes of its output are safe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Writer {
    pub sandbox: SandboxId,
    /// Position of the stream when it became the writer.
    pub at: u64,
    /// Bytes of its output that were safe then.
    pub before: u64,
}

impl Writer {
    pub(super) fn written(&self, end: u64) -> u64 {
        end.saturating_sub(self.at).saturating_add(self.before)
    }
}

impl Index {
    pub(super) fn path(dir: &Path, prefix: &str) -> PathBuf {
        dir.join(format!(".{prefix}.index"))
    }

    /// The index, or `None` if there is none or it is not one.
    pub(super) fn load(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn store(&self, path: &Path) -> io::Result<()> {
        super::replace_file(path, &serde_json::to_vec(self)?, 0o600)
    }

    /// Bytes of a sandbox's output that are safe, when the stream ends at `end`.
    pub(super) fn written(&self, sandbox: &SandboxId, end: u64) -> u64 {
        match &self.writer {
            Some(writer) if writer.sandbox == *sandbox => writer.written(end),
            _ => self.earlier.get(sandbox).copied().unwrap_or(0),
        }
    }

    /// The same index with another writer.
    pub(super) fn with_writer(&self, sandbox: &SandboxId, end: u64) -> Self {
        let mut next = self.clone();
        let before = next.earlier.remove(sandbox).unwrap_or(0);
        let new = Writer { sandbox: sandbox.clone(), at: end, before };
        if let Some(old) = next.writer.replace(new) {
            next.earlier.insert(old.sandbox.clone(), old.written(end));
        }
        while next.earlier.len() > WRITERS_MAX {
            next.earlier.pop_first();
        }
        next
    }
}
