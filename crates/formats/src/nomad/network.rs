//! `network { … }` of a group.

use std::collections::BTreeMap;

use moat_model::job::group::GroupNetworkMode;
use moat_model::job::{GroupNetwork, PortSpec};

use crate::fields::{Absent, Fields};

const ABSENT: Absent = &[
    ("dns", "the node answers names, from the servers its operator set"),
    ("mbits", "bandwidth is limited by the node"),
    ("cni", "no CNI plugins are run"),
    ("device", "the link is called eth0"),
];

const PORT_ABSENT: Absent = &[
    ("host_network", "ports are published at the address the node's operator set"),
    ("ignore_collision", "a port of the node belongs to one task"),
];

pub(super) fn network(fields: &Fields<'_>) -> Option<GroupNetwork> {
    let part = fields.block("network")?;
    let inner = Fields::of(&part, fields, "network", "network".to_owned());
    let mode = match inner.word("mode") {
        Some(cni) if cni.starts_with("cni/") => {
            inner.refuse("mode", "no CNI plugins are run", "the modes are bridge, none, and host for raw_exec");
            None
        }
        _ => {
            let modes = [
                ("bridge", GroupNetworkMode::Bridge),
                ("host", GroupNetworkMode::Host),
                ("none", GroupNetworkMode::None),
            ];
            inner.choice("mode", &modes)
        }
    };
    let network = GroupNetwork {
        mode: mode.unwrap_or(GroupNetworkMode::Bridge),
        ports: ports(&inner),
        hostname: inner.text("hostname"),
    };
    inner.finish(ABSENT);
    Some(network)
}

fn ports(fields: &Fields<'_>) -> BTreeMap<String, PortSpec> {
    let mut ports = BTreeMap::new();
    for part in fields.blocks("port", 1) {
        let inner = Fields::of(&part, fields, "port", format!("port {:?}", part.label()));
        let to: Option<i64> = inner.whole("to", -1, 65_535);
        let port = PortSpec {
            fixed: inner.whole("static", 1, 65_535),
            // Nomad's words for "the same as outside".
            to: to.and_then(|to| u16::try_from(to).ok()).filter(|to| *to > 0),
        };
        inner.finish(PORT_ABSENT);
        if ports.insert(part.label().to_owned(), port).is_some() {
            fields.refuse("port", format!("the port {:?} is given twice", part.label()), "");
        }
    }
    ports
}
