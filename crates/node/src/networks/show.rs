//! What the API shows of networks.

use std::net::Ipv4Addr;

use moat_api::rest::network::{
    AttachedSandbox, Egress, NetworkStatus, NodeNetwork, Publish, RefusedRanges, Rule, TrafficLimits,
};
use moat_model::SandboxId;
use moat_model::network::{
    Action, Destination, EgressRule, Group, NetworkLimits, NetworkMode, NetworkSpec, PublishSpec, ranges_of,
};

use super::Networks;

impl Networks {
    /// All that holds for a sandbox.
    pub fn status(&self, id: &SandboxId, spec: &NetworkSpec, address: Option<Ipv4Addr>) -> NetworkStatus {
        let wired = spec.is_wired();
        let domain = &self.terms.net.domain;
        let own = spec.name.as_ref().map(ToString::to_string);
        let in_full = |name: &str| format!("{name}.{domain}");
        let names = own.as_deref().into_iter().chain([id.as_str()]).filter(|_| wired).map(in_full).collect();
        let outside = spec.mode == NetworkMode::Internet;
        NetworkStatus {
            mode: spec.mode.to_string(),
            address: address.filter(|_| wired),
            gateway: wired.then_some(self.terms.net.gateway),
            names,
            name: own,
            egress: Egress {
                default: Some(word(spec.egress.default).to_owned()),
                rules: spec.egress.rules.iter().map(rule).collect(),
            },
            refused: if outside { self.refused() } else { RefusedRanges::default() },
            publish: spec.publish.iter().map(publish).collect(),
            limits: limits(&spec.limits),
        }
    }

    /// The node's own, with the sandboxes the caller may see and the URL of the proxy before their ports.
    pub async fn shown(&self, sandboxes: Vec<AttachedSandbox>, proxy: Option<String>) -> NodeNetwork {
        let (net, on) = (&self.terms.net, self.wires.is_some());
        let now = match &self.wires {
            Some(wires) => Some(wires.status().await),
            None => None,
        };
        NodeNetwork {
            enabled: on,
            problem: self.problem.clone().or_else(|| now.as_ref().and_then(|now| now.problem.clone())),
            subnet: on.then(|| net.subnet.to_string()),
            gateway: on.then_some(net.gateway),
            domain: on.then(|| net.domain.clone()),
            refused: if on { self.refused() } else { RefusedRanges::default() },
            upstreams: net.upstreams.iter().map(ToString::to_string).collect(),
            attached: now.as_ref().map_or(0, |now| now.attached),
            ready: now.as_ref().map_or(0, |now| now.ready),
            proxy,
            sandboxes,
        }
    }

    fn refused(&self) -> RefusedRanges {
        let groups = [Group::Private, Group::LinkLocal, Group::Metadata, Group::Multicast];
        let ranges = groups.into_iter().flat_map(|group| ranges_of(group).iter());
        RefusedRanges {
            refused: ranges.chain(&self.terms.net.ceiling.deny).map(ToString::to_string).collect(),
            allowed: self.terms.net.ceiling.allow.iter().map(ToString::to_string).collect(),
        }
    }
}

/// One that is attached.
pub(crate) fn attached(id: &SandboxId, spec: &NetworkSpec, address: Ipv4Addr) -> AttachedSandbox {
    AttachedSandbox {
        id: id.to_string(),
        address,
        name: spec.name.as_ref().map(ToString::to_string),
        mode: spec.mode.to_string(),
    }
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
    }
}

/// A rule as it was asked for.
pub(super) fn rule(rule: &EgressRule) -> Rule {
    let mut shown = Rule {
        action: word(rule.action).to_owned(),
        ports: rule.ports.iter().map(ToString::to_string).collect(),
        protocol: rule.protocol.map(|p| p.as_str().to_owned()),
        ..Rule::default()
    };
    match &rule.to {
        Destination::Any => {}
        Destination::Cidr(range) => shown.cidr = Some(range.to_string()),
        Destination::Domain(domain) => shown.domain = Some(domain.to_string()),
        Destination::DomainSuffix(domain) => shown.domain_suffix = Some(domain.to_string()),
        Destination::Group(group) => shown.group = Some(group.as_str().to_owned()),
    }
    shown
}

fn publish(spec: &PublishSpec) -> Publish {
    Publish {
        port: spec.port,
        host_port: Some(spec.host_port),
        host_address: Some(spec.host_address),
        protocol: Some(spec.protocol.as_str().to_owned()),
        count: Some(spec.count),
    }
}

fn limits(spec: &NetworkLimits) -> TrafficLimits {
    TrafficLimits {
        up_bits_per_sec: spec.up_bits_per_sec,
        down_bits_per_sec: spec.down_bits_per_sec,
        up_packets_per_sec: spec.up_packets_per_sec,
        down_packets_per_sec: spec.down_packets_per_sec,
        connections: spec.connections_max,
    }
}
