//! What survives of an allocation: a file each, whole or not there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moat_model::job::allocation::{CheckResult, PortMapping};
use moat_model::job::{Allocation, Job};
use moat_model::{AllocId, ErrorKind, Timestamp};
use serde::{Deserialize, Serialize};

use super::front::Assignment;
use super::health::Health;
use super::life::Life;
use crate::durable;
use crate::error::{Error, Result};

/// One allocation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// What is wanted.
    pub allocation: Allocation,
    /// Of what.
    pub job: Job,
    /// What became of it.
    pub life: Life,
    /// Ports of the node it has, by label.
    #[serde(default)]
    pub ports: BTreeMap<String, PortMapping>,
    /// Artifacts that arrived, `task/fingerprint`.
    #[serde(default)]
    pub fetched: BTreeSet<String>,
    /// Whether it is healthy.
    #[serde(default)]
    pub health: Health,
    /// Its checks as they went last.
    #[serde(default)]
    pub checks: BTreeMap<String, CheckResult>,
    /// When anything of it changed.
    pub modified: Timestamp,
}

impl Record {
    /// Another is placed elsewhere if its node is cut off.
    pub(super) fn may_be_replaced(&self) -> bool {
        self.job.group(&self.allocation.group).is_none_or(|group| group.disconnect.replace)
    }

    pub(super) fn assignment(&self) -> Assignment {
        Assignment { allocation: self.allocation.clone(), job: Arc::new(self.job.clone()) }
    }
}

/// The directory of records.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| Error::caused_by(ErrorKind::Unavailable, format!("make {}", dir.display()), e))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// What can be read; what cannot is left alone and said.
    pub(super) fn read_all(&self) -> Result<Vec<Record>> {
        let files = durable::list(&self.dir)
            .map_err(|e| Error::caused_by(ErrorKind::Unavailable, format!("list {}", self.dir.display()), e))?;
        let mut records = Vec::new();
        for (_, path) in files {
            let read = std::fs::read(&path).map_err(|e| e.to_string());
            match read.and_then(|text| serde_json::from_slice(&text).map_err(|e| e.to_string())) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::error!(path = %path.display(), error, "not a record of an allocation; left alone")
                }
            }
        }
        Ok(records)
    }

    pub(super) fn write(&self, record: &Record) -> Result<()> {
        let doing = || format!("write down allocation {}", record.allocation.id);
        let text = serde_json::to_vec(record).map_err(|e| Error::caused_by(ErrorKind::Internal, doing(), e))?;
        durable::replace(&self.path(&record.allocation.id), &text)
            .map_err(|e| Error::caused_by(ErrorKind::Unavailable, doing(), e))
    }

    pub(super) fn remove(&self, id: &AllocId) -> Result<()> {
        durable::remove(&self.path(id))
            .map_err(|e| Error::caused_by(ErrorKind::Unavailable, format!("forget allocation {id}"), e))
    }

    fn path(&self, id: &AllocId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}
