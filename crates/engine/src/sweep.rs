//! Removes what sandboxes without a readable record left behind. Only names of our own kind are touched.

use std::collections::BTreeSet;
use std::path::Path;

use moat_model::spec::RootSpec;
use moat_model::{Namespace, Resource, SandboxId, SandboxSpec};

use crate::driver::{Driver, Place};
use crate::registry::Registry;

/// Sandboxes that have a directory in one of `dirs` but are not `known`.
pub fn orphans(dirs: &[&Path], known: &BTreeSet<SandboxId>) -> BTreeSet<SandboxId> {
    let mut found = BTreeSet::new();
    for dir in dirs {
        // A directory that is not there has no orphans.
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if let (true, Ok(id)) = (is_dir, SandboxId::parse(&entry.file_name().to_string_lossy()))
                && !known.contains(&id)
            {
                found.insert(id);
            }
        }
    }
    found
}

/// Releases everything that any driver would have made for the sandbox at `place`. Releasing a control group ends what
/// runs in it, and releasing what is not there succeeds.
pub async fn sweep(place: &Place, drivers: &Registry) {
    for driver in drivers.iter() {
        for resource in driver.plan(place, &anything(driver.as_ref())).into_iter().rev() {
            // Neither is a driver's. The network was put in order when the engine was opened.
            if matches!(resource, Resource::UidRange { .. } | Resource::Network(_)) {
                continue;
            }
            match driver.release(&resource).await {
                Ok(()) => tracing::warn!(sandbox = %place.id, ?resource, "released what no record names"),
                Err(error) => {
                    tracing::error!(sandbox = %place.id, ?resource, error = error.chain(), "cannot release an orphan");
                }
            }
        }
    }
}

/// A spec that asks for as little as can be: what is planned for it exists for every sandbox of the driver.
fn anything(driver: &dyn Driver) -> SandboxSpec {
    SandboxSpec { ..SandboxSpec::new(Namespace::default_namespace(), driver.describe().isolation, RootSpec::Scratch) }
}
