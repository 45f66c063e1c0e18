//! What an operator sets.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use moat_model::network::Ceiling;

/// The network of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// Addresses are leased from it, its first and last left out.
    pub subnet: Ipv4Net,
    /// Next hop and resolver of every sandbox; on the node's own loopback link, the same for all.
    pub gateway: Ipv4Addr,
    /// Link that leads out; absent: whatever the node's routes say.
    pub uplink: Option<String>,
    /// Which addresses may be reached at all.
    pub ceiling: Ceiling,
    /// Where names that are nobody's here are asked for; empty: what the node's /etc/resolv.conf names.
    pub upstreams: Vec<SocketAddr>,
    /// Domain of sandboxes' names.
    pub domain: String,
    /// Address ports are published at if a caller names none.
    pub publish_address: Ipv4Addr,
    /// Ports given to callers who leave the host's port open: first and last.
    pub publish_ports: (u16, u16),
    /// Slots kept ready.
    pub ready: usize,
    /// Most slots, ready ones included. Also bounds the links of the host.
    pub slots_max: u32,
    /// Namespaces are kept as files here: on a tmpfs, for they do not outlive the power.
    pub run_dir: PathBuf,
    /// Short name that everything of this node bears: the table of rules, links. Nodes that share a host differ in it.
    pub name: String,
}

impl NetConfig {
    /// The defaults, below this directory.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 100, 0, 0), 16),
            gateway: Ipv4Addr::new(169, 254, 1, 1),
            uplink: None,
            ceiling: Ceiling::default(),
            upstreams: Vec::new(),
            domain: "moat.internal".to_owned(),
            publish_address: Ipv4Addr::LOCALHOST,
            publish_ports: (20_000, 32_000),
            ready: 8,
            slots_max: 4096,
            run_dir: run_dir.into(),
            name: "moat".to_owned(),
        }
    }

    /// What is wrong with it, by field.
    pub fn check(&self) -> Result<(), String> {
        let short =
            matches!(self.name.len(), 1..=8) && self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !short {
            return Err("network.name: 1 to 8 of a-z and 0-9, for links have names of 15 characters at most".to_owned());
        }
        if self.subnet.prefix_len() > 29 {
            return Err(format!("network.subnet: {} has room for fewer than 6 sandboxes", self.subnet));
        }
        if self.subnet.contains(&self.gateway) {
            return Err(format!(
                "network.gateway: {} lies in the subnet {}; sandboxes get those",
                self.gateway, self.subnet
            ));
        }
        let (first, last) = self.publish_ports;
        if first == 0 || first > last {
            return Err(format!("network.publish_ports: {first} to {last} is no range"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let good = NetConfig::new("/run/moat/net");
        assert_eq!(good.check(), Ok(()));
        let bad = [
            ("network.name", NetConfig { name: "much-too-long".to_owned(), ..good.clone() }),
            ("network.subnet", NetConfig { subnet: "10.0.0.0/30".parse().unwrap(), ..good.clone() }),
            ("network.gateway", NetConfig { gateway: Ipv4Addr::new(10, 100, 0, 1), ..good.clone() }),
            ("network.publish_ports", NetConfig { publish_ports: (9, 8), ..good }),
        ];
        for (field, config) in bad {
            assert!(config.check().unwrap_err().starts_with(field), "{field}");
        }
    }
}
