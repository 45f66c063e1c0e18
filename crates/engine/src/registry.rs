//! The drivers of this node, and the choice among them.

use std::sync::Arc;

use moat_model::{ErrorKind, Isolation, SandboxSpec};

use crate::driver::Driver;
use crate::error::{Error, Result};

/// The drivers that are offered here.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    drivers: Vec<Arc<dyn Driver>>,
}

impl Registry {
    /// A registry of these drivers; among equals the first wins.
    pub fn new(drivers: Vec<Arc<dyn Driver>>) -> Self {
        Self { drivers }
    }

    /// Chooses the weakest driver that gives at least the isolation asked for.
    ///
    /// `process` is no sandbox, so it serves only those who ask for exactly that; and who asks for exactly that gets
    /// nothing else, because a program that wants the host cannot do with less.
    pub fn pick(&self, spec: &SandboxSpec) -> Result<Arc<dyn Driver>> {
        let asked = spec.isolation;
        self.drivers
            .iter()
            .filter(|driver| {
                let given = driver.describe().isolation;
                if given == Isolation::Process || asked == Isolation::Process {
                    given == asked
                } else {
                    given.satisfies(asked)
                }
            })
            .min_by_key(|driver| driver.describe().isolation)
            .cloned()
            .ok_or_else(|| {
                let offered: Vec<&str> = self.drivers.iter().map(|d| d.describe().isolation.as_str()).collect();
                let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
                Error::new(
                    ErrorKind::Unsupported,
                    format!("isolation: no driver on this node gives {asked:?}; offered: {offered}"),
                )
            })
    }

    /// The driver of this name.
    pub fn named(&self, name: &str) -> Option<Arc<dyn Driver>> {
        self.drivers.iter().find(|driver| driver.describe().name == name).cloned()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Driver>> {
        self.drivers.iter()
    }
}
