//! Egress rules: the first that fits decides, then the default.

use serde::{Deserialize, Serialize};

use super::destination::Destination;

/// Most rules of a policy: each is one rule of the kernel's.
pub const RULES_MAX: usize = 256;

/// What a sandbox may talk to, of what its mode lets it reach.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressPolicy {
    /// What holds for a destination that no rule fits.
    #[serde(default)]
    pub default: Action,
    /// In order; the first that fits decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<EgressRule>,
}

impl EgressPolicy {
    /// It allows whatever the mode does: no rule of its own is needed.
    pub fn is_open(&self) -> bool {
        self.default == Action::Allow && self.rules.is_empty()
    }
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It goes out.
    #[default]
    Allow,
    /// It is dropped.
    Deny,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressRule {
    /// What it says.
    pub action: Action,
    /// Of which destinations.
    pub to: Destination,
    /// Of which ports; none named: all, and protocols without ports too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// Of which protocol; absent: all, or with ports TCP and UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

impl EgressRule {
    /// Whether a protocol and port are among those it is about.
    pub fn fits_port(&self, protocol: Protocol, port: Option<u16>) -> bool {
        if self.protocol.is_some_and(|p| p != protocol) {
            return false;
        }
        self.ports.is_empty() || port.is_some_and(|port| self.ports.iter().any(|range| range.contains(port)))
    }
}

/// What runs over IP here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP: has no ports.
    Icmp,
}

impl Protocol {
    /// Its name, as in JSON and in nftables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(u16, u16)", into = "(u16, u16)")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// A range; none if it is empty or begins at 0.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// First port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// Last port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether it has this one.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Reads `443` or `8000-8100`.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(first.trim().parse().ok()?, last.trim().parse().ok()?)
    }
}

impl TryFrom<(u16, u16)> for PortRange {
    type Error = &'static str;

    fn try_from((first, last): (u16, u16)) -> Result<Self, Self::Error> {
        Self::new(first, last).ok_or("a range of ports is empty or begins at 0")
    }
}

impl From<PortRange> for (u16, u16) {
    fn from(range: PortRange) -> Self {
        (range.first, range.last)
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports() {
        assert_eq!(PortRange::parse("443"), PortRange::new(443, 443));
        assert_eq!(PortRange::parse("8000-8100").unwrap().to_string(), "8000-8100");
        for bad in ["", "0", "0-5", "9-8", "65536", "a", "1-"] {
            assert_eq!(PortRange::parse(bad), None, "{bad}");
        }
    }
}
