//! Whether this machine can be a node: each requirement, met or not, with the fact that decided it and the fix.

mod host;
mod machines;
mod nats;
mod network;

pub use moat_engine::driver::{Need, Requirement};
use moat_model::ErrorKind;
use serde::Serialize;

use crate::config::NodeConfig;
use crate::daemon::{Candidate, named_drivers};
use crate::error::Error;

/// Name of the section about what microVMs want of the host.
const MACHINES: &str = "microvms";

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// In the order in which to read them.
    pub sections: Vec<Section>,
}

/// Requirements of one thing.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// `node`, `nats`, `network`, `microvms`, or a driver's name.
    pub name: String,
    /// What it needs.
    pub requirements: Vec<Requirement>,
}

impl Report {
    /// Whether a node would start here: nothing required of node or NATS is missing, and at least one driver works.
    pub fn ready(&self) -> bool {
        let works = |s: &Section| s.requirements.iter().all(|r| r.met || r.need == Need::Optional);
        let own = |s: &&Section| ["node", "nats", "network", MACHINES].contains(&s.name.as_str());
        let (own, drivers): (Vec<_>, Vec<_>) = self.sections.iter().partition(own);
        own.into_iter().all(works) && drivers.into_iter().any(works)
    }
}

/// Examines the host. Changes nothing, but connects to NATS.
pub async fn report(config: &NodeConfig) -> Report {
    let mut sections = vec![
        Section { name: "node".to_owned(), requirements: host::requirements(config) },
        Section { name: "nats".to_owned(), requirements: nats::requirements(config).await },
    ];
    if config.network.enabled != Some(false) {
        sections.push(Section { name: "network".to_owned(), requirements: network::requirements(config) });
    }
    if config.offers_machines() {
        sections.push(Section { name: MACHINES.to_owned(), requirements: machines::requirements() });
    }
    match named_drivers(config) {
        Ok(candidates) => sections.extend(candidates.into_iter().map(|candidate| match candidate {
            Candidate::Driver(driver) => {
                Section { name: driver.describe().name.to_owned(), requirements: driver.probe() }
            }
            Candidate::Missing(absent) => {
                let fix = format!("leave {} out of drivers, or give it what it needs", absent.driver);
                let what = requirement("driver", Need::Required, false, absent.why, fix);
                Section { name: absent.driver, requirements: vec![what] }
            }
        })),
        Err(error) => sections.push(broken_drivers(&error)),
    }
    Report { sections }
}

fn broken_drivers(error: &Error) -> Section {
    let fix = (error.kind == ErrorKind::InvalidSpec).then(|| "correct the configuration".to_owned());
    let requirement =
        Requirement { name: "drivers".to_owned(), need: Need::Required, met: false, fact: error.chain(), fix };
    Section { name: "drivers".to_owned(), requirements: vec![requirement] }
}

/// A requirement with its fix shown only where it is needed.
fn requirement(name: &str, need: Need, met: bool, fact: impl Into<String>, fix: impl Into<String>) -> Requirement {
    Requirement { name: name.to_owned(), need, met, fact: fact.into(), fix: (!met).then(|| fix.into()) }
}
