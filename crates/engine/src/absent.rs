//! Stands in for a driver that a record names and this node does not have: every call fails with what to do about it, so
//! the sandbox is kept, with everything it holds, until the driver is there again.

use std::sync::Arc;

use async_trait::async_trait;
use moat_model::{ErrorKind, Isolation, Resource, SandboxSpec};

use crate::driver::{Description, Driver, Place, Record, Recovered, Requirement, Usage};
use crate::error::{Error, Result};
use crate::guest::Guest;

/// A driver by name only.
#[derive(Debug)]
pub struct AbsentDriver {
    name: String,
    isolation: Isolation,
}

impl AbsentDriver {
    /// A stand-in for the driver `name`.
    pub fn new(name: &str, isolation: Isolation) -> Self {
        Self { name: name.to_owned(), isolation }
    }

    fn refuse<T>(&self) -> Result<T> {
        let what = format!("driver {}: not offered on this node; enable it and restart the daemon", self.name);
        Err(Error::new(ErrorKind::Unsupported, what))
    }
}

#[async_trait]
impl Driver for AbsentDriver {
    fn describe(&self) -> Description {
        Description {
            name: "absent",
            record_version: 0,
            isolation: self.isolation,
            accelerator: None,
            abilities: Vec::new(),
        }
    }

    fn probe(&self) -> Vec<Requirement> {
        Vec::new()
    }

    fn validate(&self, _spec: &SandboxSpec) -> Result<()> {
        self.refuse()
    }

    fn plan(&self, _place: &Place, _spec: &SandboxSpec) -> Vec<Resource> {
        Vec::new()
    }

    async fn create(&self, _place: &Place, _spec: &SandboxSpec) -> Result<Record> {
        self.refuse()
    }

    async fn start(&self, _record: &Record) -> Result<Arc<dyn Guest>> {
        self.refuse()
    }

    async fn kill(&self, _record: &Record) -> Result<()> {
        self.refuse()
    }

    async fn release(&self, _resource: &Resource) -> Result<()> {
        self.refuse()
    }

    async fn recover(&self, _record: &Record) -> Result<Recovered> {
        self.refuse()
    }

    async fn usage(&self, _record: &Record) -> Result<Usage> {
        self.refuse()
    }
}
