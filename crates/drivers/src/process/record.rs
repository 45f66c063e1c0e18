//! What is needed to find a workload of this driver again.

use std::path::PathBuf;

use moat_engine::driver::Record;
use moat_engine::{Error, Result};
use moat_model::ErrorKind;
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::linux::identity::ProcessIdentity;

/// Version of [`ProcessRecord`].
pub(super) const VERSION: u32 = 1;

/// The driver's own part of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProcessRecord {
    /// Its group.
    pub cgroup: String,
    /// Where its agent listens.
    pub socket: PathBuf,
    /// Its agent.
    pub process: ProcessIdentity,
}

impl ProcessRecord {
    pub fn write(&self) -> Result<Record> {
        let data = serde_json::to_value(self)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "write the driver's record", e))?;
        Ok(Record { driver: NAME.to_owned(), version: VERSION, data })
    }

    pub fn read(record: &Record) -> Result<Self> {
        if record.driver != NAME || record.version != VERSION {
            let what = format!("record of driver {} version {}, not {NAME} {VERSION}", record.driver, record.version);
            return Err(Error::new(ErrorKind::Internal, what));
        }
        serde_json::from_value(record.data.clone())
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "read the driver's record", e))
    }
}
