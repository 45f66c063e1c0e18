//! What a rule can be about.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Where packets go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// Anywhere.
    Any,
    /// A range of addresses.
    Cidr(Ipv4Net),
    /// The addresses of one name, as the node's resolver answered this sandbox.
    Domain(Domain),
    /// The same of every name below this one; not of itself.
    DomainSuffix(Domain),
    /// A group of ranges.
    Group(Group),
}

/// Groups of destinations, by the names the field uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Addresses of the internet: none of those below.
    Public,
    /// RFC 1918, shared carrier space and the other ranges that are somebody's own.
    Private,
    /// 169.254.0.0/16 without the metadata services.
    LinkLocal,
    /// The metadata services of clouds.
    Metadata,
    /// 224.0.0.0/4 and the broadcast address.
    Multicast,
    /// Sandboxes of the same namespace.
    Namespace,
}

impl Group {
    /// Its name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::LinkLocal => "link_local",
            Self::Metadata => "metadata",
            Self::Multicast => "multicast",
            Self::Namespace => "namespace",
        }
    }
}

const fn net(a: u8, b: u8, c: u8, d: u8, len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len)
}

/// Addresses the metadata services of clouds answer at: AWS, Azure, Google and most others; AWS's time and DNS are
/// beside it; Alibaba; Oracle's older one.
const METADATA: [Ipv4Net; 3] = [net(169, 254, 169, 254, 32), net(100, 100, 100, 200, 32), net(192, 0, 0, 192, 32)];
const LINK_LOCAL: [Ipv4Net; 1] = [net(169, 254, 0, 0, 16)];
/// RFC 6890's special-purpose ranges that are not link-local, multicast or the internet's.
const PRIVATE: [Ipv4Net; 12] = [
    net(0, 0, 0, 0, 8),
    net(10, 0, 0, 0, 8),
    net(100, 64, 0, 0, 10),
    net(127, 0, 0, 0, 8),
    net(172, 16, 0, 0, 12),
    net(192, 0, 0, 0, 24),
    net(192, 0, 2, 0, 24),
    net(192, 168, 0, 0, 16),
    net(198, 18, 0, 0, 15),
    net(198, 51, 100, 0, 24),
    net(203, 0, 113, 0, 24),
    net(240, 0, 0, 0, 4),
];
const MULTICAST: [Ipv4Net; 2] = [net(224, 0, 0, 0, 4), net(255, 255, 255, 255, 32)];

/// The ranges of a group that is made of ranges: not of [`Group::Public`], which is what the others are not, nor of
/// [`Group::Namespace`]. Metadata addresses lie within ranges of other groups and win there.
pub fn ranges_of(group: Group) -> &'static [Ipv4Net] {
    match group {
        Group::Private => &PRIVATE,
        Group::LinkLocal => &LINK_LOCAL,
        Group::Metadata => &METADATA,
        Group::Multicast => &MULTICAST,
        Group::Public | Group::Namespace => &[],
    }
}

/// Whether an address is one no sandbox reaches unless the operator allows it: everything that is not the internet's.
pub fn is_forbidden(address: Ipv4Addr) -> bool {
    group_of(address) != Group::Public
}

/// The group an address is in. Never [`Group::Namespace`]: an address does not tell.
pub(super) fn group_of(address: Ipv4Addr) -> Group {
    let groups = [Group::Metadata, Group::LinkLocal, Group::Multicast, Group::Private];
    let holds = |group: &Group| ranges_of(*group).iter().any(|range| range.contains(&address));
    groups.into_iter().find(holds).unwrap_or(Group::Public)
}

/// A domain name: two labels or more, lower case, without the last dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

/// Why a text is no domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no domain name: labels of a-z, 0-9, - and _, joined by dots, at most 253 characters")]
pub struct DomainError(String);

impl Domain {
    /// Reads one; upper case is made lower, one dot at the end is left out.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label = |label: &str| {
            matches!(label.len(), 1..=63)
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_address = name.parse::<Ipv4Addr>().is_ok();
        if name.len() <= 253 && name.split('.').all(label) && !is_address {
            Ok(Self(name))
        } else {
            Err(DomainError(text.chars().take(80).collect()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `name` lies below this one.
    pub fn is_above(&self, name: &Self) -> bool {
        name.0.strip_suffix(&self.0).is_some_and(|rest| rest.ends_with('.'))
    }
}

impl TryFrom<String> for Domain {
    type Error = DomainError;

    fn try_from(text: String) -> Result<Self, DomainError> {
        Self::parse(&text)
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0
    }
}

impl std::fmt::Display for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_one_group() {
        let cases = [
            ("8.8.8.8", Group::Public),
            ("10.0.0.1", Group::Private),
            ("100.64.0.1", Group::Private),
            ("100.100.100.200", Group::Metadata),
            ("127.0.0.1", Group::Private),
            ("0.0.0.0", Group::Private),
            ("169.254.1.1", Group::LinkLocal),
            ("169.254.169.254", Group::Metadata),
            ("224.0.0.1", Group::Multicast),
            ("255.255.255.255", Group::Multicast),
            ("172.32.0.1", Group::Public),
            ("192.0.0.192", Group::Metadata),
        ];
        for (address, group) in cases {
            assert_eq!(group_of(address.parse().unwrap()), group, "{address}");
        }
    }

    #[test]
    fn domains_are_compared_by_whole_labels() {
        let domain = |text| Domain::parse(text).unwrap();
        assert_eq!(domain("PyPI.org.").as_str(), "pypi.org");
        assert!(domain("pypi.org").is_above(&domain("files.pypi.org")));
        assert!(!domain("pypi.org").is_above(&domain("pypi.org")));
        assert!(!domain("pypi.org").is_above(&domain("evilpypi.org")));
        for bad in ["", ".", "a..b", "-a.org", "1.2.3.4", "a b", "*.org", &"x.".repeat(130)] {
            assert!(Domain::parse(bad).is_err(), "{bad}");
        }
    }
}
