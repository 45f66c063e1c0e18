//! The network of a jail: what is declared as a wish like anybody's, so that the operator's bounds hold for jails too.

use moat_api::rest::network::{NetworkOptions, NetworkWish, Publish};
use moat_model::jail::{JailName, JailSpec};
use moat_model::network::{NetworkMode, NetworkSpec};

use crate::error::{Error, Result};
use crate::networks::Networks;

use super::record::JailRecord;

/// The name other jails find it by: its own, as DNS can have it.
pub(super) fn label(name: &JailName) -> String {
    let label: String = name.as_str().chars().map(|c| if c == '_' { '-' } else { c.to_ascii_lowercase() }).collect();
    label.trim_end_matches('-').to_owned()
}

/// What a jail reaches that says nothing: the most the node gives.
pub(super) fn default_mode(networks: &Networks) -> NetworkMode {
    if networks.wires().is_some() { NetworkMode::Internet } else { NetworkMode::Isolated }
}

/// The network of its next start. Checks all of it.
pub(super) fn plan(networks: &Networks, record: &JailRecord) -> Result<NetworkSpec> {
    let mut plan = networks.plan(Some(&wish(&record.spec)?), record.spec.isolation)?;
    if plan.is_wired() && plan.address.is_none() {
        plan.address = record.given;
    }
    Ok(plan)
}

fn wish(spec: &JailSpec) -> Result<NetworkWish> {
    let network = &spec.network;
    if network.mode == NetworkMode::Host {
        let why = "host is the host's own network, which no jail shares; take internet, internal or isolated";
        return Err(Error::invalid("network", why));
    }
    let wired = matches!(network.mode, NetworkMode::Internal | NetworkMode::Internet);
    if !wired && !spec.redirects.is_empty() {
        let why = "mode isolated has no address that a port of the host could lead to; take internet or internal";
        return Err(Error::invalid("network", why));
    }
    let publish = spec.redirects.iter().map(|redirect| Publish {
        port: redirect.port,
        host_port: Some(redirect.host_port),
        host_address: redirect.host_address,
        protocol: Some(redirect.protocol.as_str().to_owned()),
        count: Some(redirect.count),
    });
    Ok(NetworkWish::Options(Box::new(NetworkOptions {
        mode: Some(network.mode.to_string()),
        address: network.address,
        name: wired.then(|| label(&spec.name)),
        publish: publish.collect(),
        ..NetworkOptions::default()
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_labels() {
        for (name, is) in [("nats-jail", "nats-jail"), ("Pub_Jail", "pub-jail"), ("a_", "a"), ("x--", "x")] {
            assert_eq!(label(&JailName::parse(name).unwrap()), is);
        }
    }
}
