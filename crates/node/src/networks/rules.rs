//! Egress rules as they are asked for.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use moat_api::rest::network::{Egress, Rule};
use moat_model::network::{
    Action, Destination, Domain, EgressPolicy, EgressRule, Group, PortRange, Protocol, RULES_MAX, ranges_of,
};

use crate::error::{Error, Result};

use super::Networks;
use super::read::cut;

/// Ranges of ports in one rule: each is an element of the kernel's.
const PORTS_MAX: usize = 64;

/// Groups that have ranges, none of them reachable unless the operator says so.
const REFUSED: [Group; 4] = [Group::Private, Group::LinkLocal, Group::Metadata, Group::Multicast];

impl Networks {
    pub(super) fn egress(&self, asked: &Egress) -> Result<EgressPolicy> {
        let default = match asked.default.as_deref() {
            None => Action::Allow,
            Some(word) => action("network.egress.default", word)?,
        };
        if asked.rules.len() > RULES_MAX {
            let why = format!("{} rules; at most {RULES_MAX}", asked.rules.len());
            return Err(Error::invalid("network.egress.rules", why));
        }
        let rules = asked.rules.iter().enumerate();
        let rules = rules.map(|(index, rule)| self.rule(&format!("network.egress.rules[{index}]"), rule));
        Ok(EgressPolicy { default, rules: rules.collect::<Result<_>>()? })
    }

    fn rule(&self, at: &str, asked: &Rule) -> Result<EgressRule> {
        let action = action(&format!("{at}.action"), &asked.action)?;
        let protocol = asked.protocol.as_deref().map(|word| protocol(&format!("{at}.protocol"), word)).transpose()?;
        let ports = ports(&format!("{at}.ports"), &asked.ports)?;
        if protocol == Some(Protocol::Icmp) && !ports.is_empty() {
            return Err(Error::invalid(&format!("{at}.ports"), "icmp has no ports; leave one of the two out"));
        }
        let to = self.destination(at, asked, action)?;
        Ok(EgressRule { action, to, ports, protocol })
    }

    fn destination(&self, at: &str, asked: &Rule, action: Action) -> Result<Destination> {
        let domain =
            |field: &str, text: &str| Domain::parse(text).map_err(|e| Error::invalid(&format!("{at}.{field}"), e));
        match (&asked.cidr, &asked.domain, &asked.domain_suffix, &asked.group) {
            (None, None, None, None) => Ok(Destination::Any),
            (Some(text), None, None, None) => {
                let field = format!("{at}.cidr");
                let range = range(&field, text)?;
                if action == Action::Allow && !self.reaches(range) {
                    return Err(Error::invalid(&field, self.unreachable(range)));
                }
                Ok(Destination::Cidr(range))
            }
            (None, Some(name), None, None) => domain("domain", name).map(Destination::Domain),
            (None, None, Some(name), None) => {
                let name = name.strip_prefix("*.").or_else(|| name.strip_prefix('.')).unwrap_or(name);
                domain("domain_suffix", name).map(Destination::DomainSuffix)
            }
            (None, None, None, Some(word)) => self.group(&format!("{at}.group"), word, action).map(Destination::Group),
            _ => Err(Error::invalid(at, "at most one of cidr, domain, domain_suffix and group")),
        }
    }

    fn group(&self, field: &str, word: &str, action: Action) -> Result<Group> {
        let group = match word {
            "public" => Group::Public,
            "namespace" => Group::Namespace,
            "private" => Group::Private,
            "link_local" => Group::LinkLocal,
            "metadata" => Group::Metadata,
            "multicast" => Group::Multicast,
            "host" => {
                let why =
                    "the node itself is never reached from a sandbox, but for its resolver; no rule can change it";
                return Err(Error::invalid(field, why));
            }
            "loopback" => {
                let why = "a sandbox's loopback is its own and never leaves it, and the host's is never reached: there is \
                           nothing to rule";
                return Err(Error::invalid(field, why));
            }
            other => {
                let all = "public, private, link_local, metadata, multicast, namespace";
                return Err(Error::invalid(field, format!("{:?} is none of {all}", cut(other))));
            }
        };
        let ranges = ranges_of(group);
        if action == Action::Allow && !ranges.is_empty() && !ranges.iter().any(|range| self.is_opened(*range)) {
            let why = format!(
                "{word} addresses are refused on this node, so allowing them has no effect; its operator can allow ranges \
                 with network.allow"
            );
            return Err(Error::invalid(field, why));
        }
        Ok(group)
    }

    /// Whether the operator opened something of a range. Groups are of the outside: no sandbox is in them.
    fn is_opened(&self, range: Ipv4Net) -> bool {
        let ceiling = &self.terms.net.ceiling;
        let denied = |range: &Ipv4Net| ceiling.deny.iter().any(|denied| denied.contains(range));
        let opens = |allowed: &Ipv4Net| (allowed.contains(&range) || range.contains(allowed)) && !denied(allowed);
        ceiling.allow.iter().any(opens) && !denied(&range)
    }

    /// Whether anything within a range can be reached at all: of the outside, or of other sandboxes.
    fn reaches(&self, range: Ipv4Net) -> bool {
        let net = &self.terms.net;
        let overlaps = |other: &Ipv4Net| other.contains(&range) || range.contains(other);
        let sandboxes = std::iter::once(&net.subnet).chain(self.terms.choose_from.iter().flatten());
        if sandboxes.into_iter().any(overlaps) || net.ceiling.allow.iter().any(overlaps) {
            return !net.ceiling.deny.iter().any(|denied| denied.contains(&range));
        }
        let refused = REFUSED.iter().flat_map(|group| ranges_of(*group)).chain(&net.ceiling.deny).copied().collect();
        !Ipv4Net::aggregate(&refused).iter().any(|refused| refused.contains(&range))
    }

    fn unreachable(&self, range: Ipv4Net) -> String {
        if self.terms.net.ceiling.deny.iter().any(|denied| denied.contains(&range)) {
            return format!("{range} is refused by the node's operator, so allowing it has no effect; leave it out");
        }
        format!(
            "{range} lies wholly in ranges that are refused (private, link-local, metadata, multicast), so allowing it has \
             no effect; the node's operator can allow it with network.allow; sandboxes of this namespace are group namespace"
        )
    }
}

fn action(field: &str, word: &str) -> Result<Action> {
    match word {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        other => Err(Error::invalid(field, format!("{:?} is none of allow, deny", cut(other)))),
    }
}

fn protocol(field: &str, word: &str) -> Result<Protocol> {
    match word {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "icmp" => Ok(Protocol::Icmp),
        other => Err(Error::invalid(field, format!("{:?} is none of tcp, udp, icmp", cut(other)))),
    }
}

fn ports(field: &str, asked: &[String]) -> Result<Vec<PortRange>> {
    if asked.len() > PORTS_MAX {
        return Err(Error::invalid(field, format!("{} of them; at most {PORTS_MAX} in one rule", asked.len())));
    }
    let read = |(index, text): (usize, &String)| {
        PortRange::parse(text).ok_or_else(|| {
            let why = format!("{:?} is no port from 1 to 65535, nor a range such as 8000-8100", cut(text));
            Error::invalid(&format!("{field}[{index}]"), why)
        })
    };
    asked.iter().enumerate().map(read).collect()
}

/// `10.0.0.0/8` or one address.
pub(super) fn range(field: &str, text: &str) -> Result<Ipv4Net> {
    if text.contains(':') {
        return Err(Error::invalid(field, format!("{:?}: sandboxes have no IPv6; give an IPv4 range", cut(text))));
    }
    let one = text.parse::<Ipv4Addr>().map(Ipv4Net::from).ok();
    let Some(range) = one.or_else(|| text.parse::<Ipv4Net>().ok()) else {
        let why = format!("{:?} is no range such as 192.0.2.0/24, nor an address", cut(text));
        return Err(Error::invalid(field, why));
    };
    if range.trunc() != range {
        return Err(Error::invalid(field, format!("{range} is not the first of its range; {} is", range.trunc())));
    }
    Ok(range)
}
