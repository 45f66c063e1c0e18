//! What network a sandbox is asked to have, and what that lets it reach.
//!
//! Everything here is IPv4: a sandbox has no IPv6 at all, so there is no second set of rules that could differ.

mod decide;
mod destination;
mod policy;

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

pub use decide::{Ceiling, Decision, Flow, Peer, Reason, decide};
pub use destination::{Destination, Domain, DomainError, Group, is_forbidden, ranges_of};
pub use policy::{Action, EgressPolicy, EgressRule, PortRange, Protocol, RULES_MAX};

/// Most published ports of a sandbox, those of ranges counted one by one: each is an element of a kernel map.
pub const PUBLISHED_MAX: usize = 256;

/// The network a sandbox gets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// What it can reach at all.
    #[serde(default)]
    pub mode: NetworkMode,
    /// An address of the caller's choosing; absent: one from the node's subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// The name other sandboxes of its namespace find it by: one DNS label, unique there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<HostLabel>,
    /// What of the reachable it may talk to.
    #[serde(default)]
    pub egress: EgressPolicy,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PublishSpec>,
    /// Bandwidth, packets, connections.
    #[serde(default)]
    pub limits: NetworkLimits,
}

impl NetworkSpec {
    /// This mode, everything else at its default.
    pub fn new(mode: NetworkMode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// Whether the node makes a network for it, which is a lease.
    pub fn is_wired(&self) -> bool {
        matches!(self.mode, NetworkMode::Internal | NetworkMode::Internet)
    }
}

/// What a sandbox can reach at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Its own loopback, and nothing else.
    #[default]
    Isolated,
    /// Sandboxes of its namespace, and the node's resolver.
    Internal,
    /// The same, and public addresses through the node.
    Internet,
    /// The host's own network: only the `process` driver can give it.
    Host,
}

impl NetworkMode {
    /// Its name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::Internal => "internal",
            Self::Internet => "internet",
            Self::Host => "host",
        }
    }
}

impl std::fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One label of a host name: 1 to 63 lower-case letters, digits and hyphens, no hyphen at either end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostLabel(String);

/// Why a text is no host label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host name: 1 to 63 of a-z, 0-9 and -, no - at either end")]
pub struct HostLabelError(String);

impl HostLabel {
    /// Reads one; upper case is made lower.
    pub fn parse(text: &str) -> Result<Self, HostLabelError> {
        let lower = text.to_ascii_lowercase();
        let fits = matches!(lower.len(), 1..=63)
            && lower.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !lower.starts_with('-')
            && !lower.ends_with('-');
        if fits { Ok(Self(lower)) } else { Err(HostLabelError(text.chars().take(80).collect())) }
    }

    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HostLabel {
    type Error = HostLabelError;

    fn try_from(text: String) -> Result<Self, HostLabelError> {
        Self::parse(&text)
    }
}

impl From<HostLabel> for String {
    fn from(label: HostLabel) -> Self {
        label.0
    }
}

impl std::fmt::Display for HostLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A port of the host, or a range of them, that leads to the same number of ports of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishSpec {
    /// Address of the host it is published at; `0.0.0.0` is all of them.
    pub host_address: Ipv4Addr,
    /// First port of the host. Set by the node if the caller left it open, never 0 here.
    pub host_port: u16,
    /// First port of the sandbox.
    pub port: u16,
    /// How many, at least 1; neither range passes 65535.
    pub count: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// Bounds on the traffic of a sandbox. Up is from it, down is to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkLimits {
    /// Bits per second it may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_bits_per_sec: Option<u64>,
    /// Bits per second it may receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_bits_per_sec: Option<u64>,
    /// Packets per second it may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_packets_per_sec: Option<u32>,
    /// Packets per second it may receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_packets_per_sec: Option<u32>,
    /// Connections it may have open to others at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u32>,
}

/// The place of a sandbox in the node's network: which of its prepared namespaces, under which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkLease {
    /// Number of the slot: names of links and namespaces are made of it. Never 0.
    pub slot: u32,
    /// Its address.
    pub address: Ipv4Addr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_dns() {
        for good in ["a", "web-1", "0", &"x".repeat(63)] {
            assert_eq!(HostLabel::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(HostLabel::parse("Web").unwrap().as_str(), "web");
        for bad in ["", "-a", "a-", "a.b", "ä", "a_b", &"x".repeat(64)] {
            assert!(HostLabel::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_spec_survives_and_says_only_what_was_said() {
        let spec = NetworkSpec::new(NetworkMode::Internet);
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<NetworkSpec>(&text).unwrap(), spec);
        assert!(serde_json::from_str::<NetworkSpec>(r#"{"mode":"internet","allow":[]}"#).is_err());
        assert!(serde_json::from_str::<NetworkSpec>(r#"{"name":"no.dots"}"#).is_err());
    }
}
