//! Whether a packet may go where it wants, and by which rule: what the kernel's rules are built from and tested against,
//! and what a dry run answers.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::destination::{Destination, Domain, Group, group_of, is_forbidden};
use super::policy::{Action, EgressRule, Protocol};
use super::{NetworkMode, NetworkSpec};

/// What the operator decides for every sandbox of the node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceiling {
    /// Ranges that are not the internet's and may be reached all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Ipv4Net>,
    /// Ranges nobody reaches, whatever else is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Ipv4Net>,
}

impl Ceiling {
    /// Whether it lets anybody send to this address, which is nobody's in this node's network.
    pub fn allows(&self, address: Ipv4Addr) -> bool {
        let within = |ranges: &[Ipv4Net]| ranges.iter().any(|range| range.contains(&address));
        !within(&self.deny) && (!is_forbidden(address) || within(&self.allow))
    }
}

/// A packet that wants to leave a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow<'a> {
    /// Where to.
    pub address: Ipv4Addr,
    /// Over what.
    pub protocol: Protocol,
    /// To which port; none for a protocol without.
    pub port: Option<u16>,
    /// Whose address that is, in this node's network.
    pub peer: Peer,
    /// Names the resolver gave this sandbox that address for, and which are remembered still.
    pub names: &'a [Domain],
}

/// Whose an address is, in the network of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Nobody's here.
    None,
    /// A sandbox of the sender's namespace.
    SameNamespace,
    /// A sandbox of another.
    OtherNamespace,
    /// The node's resolver, at its own port.
    Resolver,
    /// The node itself.
    Host,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether it goes.
    pub action: Action,
    /// Why.
    pub reason: Reason,
}

/// Which rule decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Reason {
    /// The mode: `isolated` and `host` have no rules at all, `internal` has no way out.
    Mode,
    /// It is for the node's resolver, which is always reachable from a network.
    Resolver,
    /// The node itself is not reachable.
    Host,
    /// It is a sandbox of another namespace.
    Namespace,
    /// The operator, or the ranges that are refused unless the operator allows them.
    Ceiling,
    /// A rule of the sandbox's own, counted from 0.
    Rule {
        /// Its place.
        index: usize,
    },
    /// No rule fits: the policy's default.
    Default,
}

/// Decides. The order is that of the kernel's rules: what nobody may change first, then the sandbox's own rules.
pub fn decide(spec: &NetworkSpec, ceiling: &Ceiling, flow: &Flow<'_>) -> Decision {
    let deny = |reason| Decision { action: Action::Deny, reason };
    match (spec.mode, flow.peer) {
        (NetworkMode::Isolated, _) => return deny(Reason::Mode),
        (NetworkMode::Host, _) => return Decision { action: Action::Allow, reason: Reason::Mode },
        (_, Peer::Resolver) => return Decision { action: Action::Allow, reason: Reason::Resolver },
        (_, Peer::Host) => return deny(Reason::Host),
        (_, Peer::OtherNamespace) => return deny(Reason::Namespace),
        (NetworkMode::Internal, Peer::None) => return deny(Reason::Mode),
        (NetworkMode::Internet, Peer::None) if !ceiling.allows(flow.address) => return deny(Reason::Ceiling),
        (NetworkMode::Internal | NetworkMode::Internet, Peer::SameNamespace) | (NetworkMode::Internet, Peer::None) => {}
    }
    let fits = |rule: &EgressRule| goes_to(&rule.to, flow) && rule.fits_port(flow.protocol, flow.port);
    match spec.egress.rules.iter().enumerate().find(|(_, rule)| fits(rule)) {
        Some((index, rule)) => Decision { action: rule.action, reason: Reason::Rule { index } },
        None => Decision { action: spec.egress.default, reason: Reason::Default },
    }
}

fn goes_to(to: &Destination, flow: &Flow<'_>) -> bool {
    match to {
        Destination::Any => true,
        Destination::Cidr(range) => range.contains(&flow.address),
        Destination::Domain(domain) => flow.names.contains(domain),
        Destination::DomainSuffix(domain) => flow.names.iter().any(|name| domain.is_above(name)),
        Destination::Group(Group::Namespace) => flow.peer == Peer::SameNamespace,
        // A peer's address is nobody else's, whatever range it was chosen from.
        Destination::Group(group) => flow.peer == Peer::None && group_of(flow.address) == *group,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{EgressPolicy, PortRange};

    fn spec(mode: NetworkMode, default: Action, rules: Vec<EgressRule>) -> NetworkSpec {
        NetworkSpec { egress: EgressPolicy { default, rules }, ..NetworkSpec::new(mode) }
    }

    fn to(address: &str, port: u16) -> Flow<'static> {
        let address = address.parse().unwrap();
        Flow { address, protocol: Protocol::Tcp, port: Some(port), peer: Peer::None, names: &[] }
    }

    fn rule(action: Action, to: Destination) -> EgressRule {
        EgressRule { action, to, ports: Vec::new(), protocol: None }
    }

    #[test]
    fn modes_decide_before_rules() {
        let allow_all = vec![rule(Action::Allow, Destination::Any)];
        let none = Ceiling::default();
        let decided = |mode, flow: &Flow<'_>| decide(&spec(mode, Action::Allow, allow_all.clone()), &none, flow);
        let public = to("8.8.8.8", 53);
        assert_eq!(decided(NetworkMode::Isolated, &public).reason, Reason::Mode);
        assert_eq!(decided(NetworkMode::Internal, &public).reason, Reason::Mode);
        assert_eq!(decided(NetworkMode::Internet, &public).reason, Reason::Rule { index: 0 });
        for private in ["10.0.0.1", "169.254.169.254", "127.0.0.1", "0.0.0.0", "224.0.0.1", "100.64.1.1"] {
            let flow = to(private, 80);
            assert_eq!(decided(NetworkMode::Internet, &flow).reason, Reason::Ceiling, "{private}");
        }
        let stranger = Flow { peer: Peer::OtherNamespace, ..to("10.100.0.9", 80) };
        assert_eq!(decided(NetworkMode::Internet, &stranger).reason, Reason::Namespace);
        let friend = Flow { peer: Peer::SameNamespace, ..to("10.100.0.9", 80) };
        assert_eq!(decided(NetworkMode::Internal, &friend).action, Action::Allow);
    }

    #[test]
    fn the_operator_opens_and_closes() {
        let open = spec(NetworkMode::Internet, Action::Allow, vec![]);
        let ceiling = Ceiling { allow: vec!["10.1.0.0/16".parse().unwrap()], deny: vec!["8.0.0.0/8".parse().unwrap()] };
        assert_eq!(decide(&open, &ceiling, &to("10.1.2.3", 80)).action, Action::Allow);
        assert_eq!(decide(&open, &ceiling, &to("10.2.2.3", 80)).action, Action::Deny);
        assert_eq!(decide(&open, &ceiling, &to("8.8.8.8", 80)).reason, Reason::Ceiling);
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let https = EgressRule {
            ports: vec![PortRange::new(443, 443).unwrap()],
            ..rule(Action::Allow, Destination::Domain(Domain::parse("pypi.org").unwrap()))
        };
        let policy = spec(NetworkMode::Internet, Action::Deny, vec![https]);
        let names = [Domain::parse("pypi.org").unwrap()];
        let flow = Flow { names: &names, ..to("151.101.0.223", 443) };
        let none = Ceiling::default();
        assert_eq!(decide(&policy, &none, &flow).reason, Reason::Rule { index: 0 });
        assert_eq!(decide(&policy, &none, &Flow { port: Some(80), ..flow.clone() }).reason, Reason::Default);
        assert_eq!(decide(&policy, &none, &Flow { names: &[], ..flow }).action, Action::Deny);
    }
}
