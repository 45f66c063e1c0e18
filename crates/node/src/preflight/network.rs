//! What networks need of the host. Unless the operator asked for them, a node without them starts all the same.

use moat_engine::driver::{Need, Requirement};

use super::requirement;
use crate::config::NodeConfig;
use crate::networks::{place, terms};

pub(super) fn requirements(config: &NodeConfig) -> Vec<Requirement> {
    let wanted = &config.network.wanted;
    let free = place::free(&config.run_dir, wanted);
    let fix = "give network.name, network.subnet and network.gateway of this node values nobody else on this host has";
    let (met, fact, at) = match free {
        Ok(place) => (true, format!("{} with {} is free", place.name, place.subnet), place),
        Err(why) => (false, why, place::Place::candidate(&config.run_dir, wanted, 0)),
    };
    let mut all = vec![requirement("place of the network", Need::Required, met, fact, fix)];
    all.extend(moat_net::requirements(&terms(config, &at).net));
    if config.network.enabled.is_none() {
        // A node that cannot have them gives `isolated` alone, and says so.
        for one in &mut all {
            one.need = Need::Optional;
        }
    }
    all
}
