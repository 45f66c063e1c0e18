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
    absent: Vec<Absent>,
    fabric: Arc<dyn Fabric>,
}

/// A driver this node could have and has not: for whoever asks for what it would give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// Its name.
    pub driver: String,
    /// What it would give.
    pub isolation: Isolation,
    /// What is missing, as facts.
    pub why: String,
}

/// What a driver gives, as far as those above the engine decide by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub driver: &'static str,
    /// What it gives.
    pub isolation: Isolation,
    /// What gives it, where that makes a difference.
    pub accelerator: Option<&'static str>,
    /// It pauses.
    pub pauses: bool,
    /// A paused sandbox can lie on disk.
    pub stows: bool,
    /// It keeps files.
    pub captures: bool,
    /// It keeps whole machines.
    pub snapshots: bool,
}

impl Offer {
    fn of(driver: &dyn Driver) -> Self {
        let description = driver.describe();
        Self {
            driver: description.name,
            isolation: description.isolation,
            accelerator: description.accelerator,
            pauses: driver.freezer().is_some(),
            stows: driver.stower().is_some(),
            captures: driver.capturer().is_some(),
            snapshots: driver.snapshotter().is_some(),
        }
    }

    /// As replies say it: `container`, `microvm/kvm`.
    pub fn shown(&self) -> String {
        match self.accelerator {
            Some(accelerator) => format!("{}/{accelerator}", self.isolation),
            None => self.isolation.to_string(),
        }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Registry {
    /// A registry of these drivers; among equals the first wins.
    pub fn new(drivers: Vec<Arc<dyn Driver>>) -> Self {
        Self { drivers, absent: Vec::new(), fabric: Arc::new(NoFabric) }
    }

    /// The same, knowing what it does not have, and why.
    #[must_use]
    pub fn with_absent(self, absent: Vec<Absent>) -> Self {
        Self { absent, ..self }
    }

    /// What it does not have, and why.
    pub fn absent(&self) -> &[Absent] {
        &self.absent
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

    /// Chooses the driver of a sandbox: of one made from a machine that was kept, the one that kept it.
    pub fn pick(&self, spec: &SandboxSpec) -> Result<Arc<dyn Driver>> {
        let Some(kept) = &spec.restore else { return self.choose(spec.isolation) };
        let driver = self.named(&kept.driver).filter(|d| d.describe().isolation.satisfies(spec.isolation));
        driver.ok_or_else(|| {
            let what =
                format!("restore: the machine was kept by driver {}, which this node does not offer", kept.driver);
            Error::new(ErrorKind::Unsupported, format!("{what}{}", self.missing(|absent| absent.driver == kept.driver)))
        })
    }

    /// What those would be given who ask for this isolation.
    pub fn offer(&self, asked: Isolation) -> Result<Offer> {
        self.choose(asked).map(|driver| Offer::of(driver.as_ref()))
    }

    /// What the driver of this name gives.
    pub fn offer_of(&self, name: &str) -> Option<Offer> {
        self.named(name).map(|driver| Offer::of(driver.as_ref()))
    }

    /// Chooses the weakest driver that gives at least the isolation asked for; among equals the first.
    ///
    /// `process` is no sandbox, so it serves only those who ask for exactly that; and who asks for exactly that gets
    /// nothing else, because a program that wants the host cannot do with less.
    fn choose(&self, asked: Isolation) -> Result<Arc<dyn Driver>> {
        let serves = |given: Isolation| {
            if given == Isolation::Process || asked == Isolation::Process {
                given == asked
            } else {
                given.satisfies(asked)
            }
        };
        let serving = self.drivers.iter().filter(|driver| serves(driver.describe().isolation));
        serving.min_by_key(|driver| driver.describe().isolation).cloned().ok_or_else(|| {
            let offered: Vec<&str> = self.drivers.iter().map(|d| d.describe().isolation.as_str()).collect();
            let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
            let what = format!("isolation: no driver on this node gives {asked}; offered: {offered}");
            Error::new(ErrorKind::Unsupported, format!("{what}{}", self.missing(|absent| serves(absent.isolation))))
        })
    }

    /// Why those are missing that would have served, to be put behind a refusal.
    fn missing(&self, serves: impl Fn(&Absent) -> bool) -> String {
        let would = self.absent.iter().filter(|absent| serves(absent));
        would.map(|absent| format!("; not {}: {}", absent.driver, absent.why)).collect()
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
