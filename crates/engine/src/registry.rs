//! What sandboxes of this node are made with: its drivers, the choice among them, and what connects sandboxes.

use std::sync::Arc;

use moat_model::{ErrorKind, Isolation, SandboxSpec};

use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::fabric::{Fabric, NoFabric};

/// The drivers that are offered here, and the fabric.
#[derive(Debug, Clone)]
pub struct Registry {
    drivers: Vec<Arc<dyn Driver>>,
    fabric: Arc<dyn Fabric>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Registry {
    /// A registry of these drivers; among equals the first wins.
    pub fn new(drivers: Vec<Arc<dyn Driver>>) -> Self {
        Self { drivers, fabric: Arc::new(NoFabric) }
    }

    /// The same with something that connects sandboxes; without, they have their loopback only.
    #[must_use]
    pub fn with_fabric(self, fabric: Arc<dyn Fabric>) -> Self {
        Self { fabric, ..self }
    }

    /// What connects sandboxes.
    pub fn fabric(&self) -> &Arc<dyn Fabric> {
        &self.fabric
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
