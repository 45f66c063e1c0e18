//! The drivers a configuration names, as far as this host can have them.

use std::sync::Arc;

use moat_drivers::container::ContainerDriver;
use moat_drivers::linux::agent_binary::AgentBinary;
use moat_drivers::process::ProcessDriver;
use moat_engine::Registry;
use moat_engine::driver::{Driver, Need, Requirement};
use moat_model::{ErrorKind, Isolation};

use crate::config::NodeConfig;
use crate::error::{Error, Result};

/// Builds every driver the configuration names, whether it can work here or not.
pub fn named(config: &NodeConfig) -> Result<Vec<Arc<dyn Driver>>> {
    let binary = AgentBinary::embedded()
        .map_err(|e| Error::caused_by(ErrorKind::Unavailable, "put the agent into a memfd", e))?;
    let mut drivers: Vec<Arc<dyn Driver>> = Vec::new();
    for name in &config.drivers {
        match name.as_str() {
            "container" => {
                let mut container = config.container.clone();
                container.private_dirs = vec![config.run_dir.clone(), config.data_dir.clone()];
                container.roots_dir = config.run_dir.join("roots");
                container.private_dirs.extend(config.oci.cache_dir.clone());
                drivers.push(Arc::new(ContainerDriver::new(container, binary.clone())?));
            }
            "process" => {
                let mut process = config.process.clone();
                process.enabled = true;
                drivers.push(Arc::new(ProcessDriver::new(process, binary.clone())?));
            }
            other => return Err(Error::new(ErrorKind::InvalidSpec, format!("drivers: {other:?} is not a driver"))),
        }
    }
    Ok(drivers)
}

/// The drivers that are offered: those whose every hard requirement is met. Without one that gives the node's default
/// isolation the node does not start: it would refuse everything.
pub fn drivers(config: &NodeConfig) -> Result<Registry> {
    let mut offered: Vec<Arc<dyn Driver>> = Vec::new();
    let mut missing = Vec::new();
    for driver in named(config)? {
        let name = driver.describe().name;
        let unmet: Vec<Requirement> = driver.probe().into_iter().filter(|r| !r.met).collect();
        for requirement in &unmet {
            let fix = requirement.fix.as_deref().unwrap_or("none known");
            tracing::warn!(driver = name, requirement = %requirement.name, fact = %requirement.fact, fix, "not met");
        }
        if unmet.iter().any(|r| r.need == Need::Required) {
            let facts: Vec<String> = unmet.iter().map(|r| format!("{}: {}", r.name, r.fact)).collect();
            missing.push(format!("{name} ({})", facts.join("; ")));
        } else {
            offered.push(driver);
        }
    }
    let gives_default = |d: &Arc<dyn Driver>| match config.isolation {
        Isolation::Process => d.describe().isolation == Isolation::Process,
        asked => d.describe().isolation.satisfies(asked),
    };
    if !offered.iter().any(gives_default) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "isolation {}: no driver on this host gives it; not offered: {}; `moat node preflight` says what to do",
                config.isolation,
                missing.join(", ")
            ),
        ));
    }
    Ok(Registry::new(offered))
}
