//! What a sandbox is made into: elements of the table, and chains of its own where it has rules of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use moat_engine::fabric::Attachment;
use moat_model::network::{
    Action, Destination, Domain, EgressRule, Group, NetworkLease, NetworkMode, PortRange, Protocol, PublishSpec,
};

use super::element::{Data, Element, Part};
use super::ground;
use crate::NetConfig;
use crate::slots::naming;
use crate::table::Attached;

/// Most addresses remembered for one destination of a policy. A name has a handful; below a suffix there may be many.
pub(super) const PINS_MAX: usize = 4096;
const DROP: &str = "counter name drops drop";

/// Everything of one sandbox in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Built {
    /// Its elements.
    pub(super) elements: BTreeSet<Element>,
    /// Chains of its own, with their rules.
    pub(super) chains: BTreeMap<String, Vec<String>>,
    /// Sets of addresses that were resolved for its rules.
    pub(super) pinned: BTreeSet<String>,
}

/// Makes it, given the number its namespace has in this table.
pub(super) fn build(config: &NetConfig, attached: &Attached, mark: u32) -> Built {
    let Attached { lease, attachment } = attached;
    let mut built = Built::default();
    built.elements.insert(Element::of("sandboxes", vec![Part::Address(lease.address)]));
    if attachment.pooled {
        return built;
    }
    let link = naming::link(config, lease.slot);
    let link = || Part::Link(link.clone());
    let mac = Part::Mac(naming::inner_mac(lease.slot));
    let mut put = |element| built.elements.insert(element);
    put(Element::of("sources", vec![link(), Part::Address(lease.address), mac]));
    put(Element::to("namespaces", vec![link()], Data::Value(vec![Part::Mark(mark)])));
    put(Element::of("members", vec![Part::Address(lease.address), Part::Mark(mark)]));
    put(Element::of("live", vec![link()]));
    for spec in &attachment.spec.publish {
        publish(lease.address, spec, &mut put);
    }
    let mode = mode_chain(attachment.spec.mode);
    let (own, chain) = egress(config, lease, attachment, mode);
    put(Element::to("policies", vec![link()], Data::Goto(own.clone())));
    for (set, name, rule) in limits(lease, attachment) {
        put(Element::to(set, vec![link()], Data::Jump(name.clone())));
        built.chains.insert(name, vec![rule]);
    }
    if let Some(rules) = chain {
        built.chains.insert(own, rules);
        built.pinned = pin_sets(lease, attachment).into_iter().flatten().collect();
    }
    built
}

fn mode_chain(mode: NetworkMode) -> &'static str {
    // The other two modes have no place in the table; they would get the narrower one.
    if mode == NetworkMode::Internet { "internet" } else { "internal" }
}

/// Elements that lead ports of the host to it.
fn publish(address: Ipv4Addr, spec: &PublishSpec, put: &mut impl FnMut(Element) -> bool) {
    for offset in 0..spec.count {
        let (Some(outer), Some(inner)) = (spec.host_port.checked_add(offset), spec.port.checked_add(offset)) else {
            return;
        };
        let protocol = Part::Protocol(number_of(spec.protocol));
        let value = Data::Value(vec![Part::Address(address), Part::Port(inner)]);
        put(if spec.host_address.is_unspecified() {
            Element::to("published_any", vec![protocol.clone(), Part::Port(outer)], value)
        } else {
            let key = vec![protocol.clone(), Part::Address(spec.host_address), Part::Port(outer)];
            Element::to("published", key, value)
        });
        put(Element::of("targets", vec![protocol, Part::Address(address), Part::Port(inner)]));
    }
}

/// Its number in a packet.
pub(super) fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Icmp => 1,
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// Where packets of it are judged; with the rules of that chain if it is its own.
fn egress(
    config: &NetConfig,
    lease: &NetworkLease,
    attachment: &Attachment,
    mode: &str,
) -> (String, Option<Vec<String>>) {
    let policy = &attachment.spec.egress;
    if policy.is_open() {
        return (mode.to_owned(), None);
    }
    let links = ground::links(config);
    let mut rules = vec![format!("jump {mode}")];
    for (rule, set) in policy.rules.iter().zip(pin_sets(lease, attachment)) {
        let Some(ports) = ports(rule) else { continue };
        let to = destination(&rule.to, &links, set.as_deref());
        let verdict = match rule.action {
            Action::Allow => "return",
            Action::Deny => DROP,
        };
        if rule.action == Action::Allow && set.is_some() {
            // What it let begin goes on when the name has other addresses, as long as the rule is there.
            let mark = mark_of(attachment, rule);
            rules.push(format!("ct mark {mark:#x} return"));
            rules.push(format!("{to} {ports} ct mark set {mark:#x} return"));
        } else {
            rules.push(format!("{to} {ports} {verdict}"));
        }
    }
    if policy.default == Action::Deny {
        rules.push(DROP.to_owned());
    }
    (format!("egress{:x}", lease.slot), Some(rules))
}

fn destination(to: &Destination, links: &str, set: Option<&str>) -> String {
    match to {
        Destination::Any => String::new(),
        Destination::Cidr(range) if range.prefix_len() == 0 => String::new(),
        Destination::Cidr(range) => format!("ip daddr {}", range.trunc()),
        Destination::Domain(_) | Destination::DomainSuffix(_) => format!("ip daddr @{}", set.unwrap_or_default()),
        Destination::Group(Group::Namespace) => format!("oifname {links}"),
        Destination::Group(Group::Public) => format!("oifname != {links} ip daddr != @special"),
        Destination::Group(Group::Metadata) => format!("oifname != {links} ip daddr @metadata"),
        Destination::Group(Group::LinkLocal) => {
            format!("oifname != {links} ip daddr != @metadata ip daddr @link_local")
        }
        Destination::Group(Group::Multicast) => {
            format!("oifname != {links} ip daddr != @metadata ip daddr @multicast")
        }
        Destination::Group(Group::Private) => {
            format!("oifname != {links} ip daddr != @metadata ip daddr != @multicast ip daddr @private")
        }
    }
}

/// How a rule's protocol and ports are matched; none if nothing ever fits.
fn ports(rule: &EgressRule) -> Option<String> {
    let list = merged(&rule.ports);
    match (rule.protocol, list.is_empty()) {
        (None, true) => Some(String::new()),
        (Some(protocol), true) => Some(format!("meta l4proto {}", protocol.as_str())),
        (None, false) => Some(format!("meta l4proto {{ tcp, udp }} th dport {{ {list} }}")),
        (Some(Protocol::Icmp), false) => None,
        (Some(protocol), false) => Some(format!("{} dport {{ {list} }}", protocol.as_str())),
    }
}

/// Ranges that touch or overlap are one: a set of ranges has no room for two.
fn merged(ranges: &[PortRange]) -> String {
    let mut sorted: Vec<(u16, u16)> = ranges.iter().map(|range| (range.first(), range.last())).collect();
    sorted.sort_unstable();
    let mut all: Vec<(u16, u16)> = Vec::new();
    for (first, last) in sorted {
        match all.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
            _ => all.push((first, last)),
        }
    }
    let text = |(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    all.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// For each rule of a policy, the set that has the addresses resolved for it, if it is about names.
pub(super) fn pin_sets(lease: &NetworkLease, attachment: &Attachment) -> Vec<Option<String>> {
    // Called by what is in it, so that it stays when rules are added, and is found again by another daemon.
    let set = |kind: &str, domain: &Domain| {
        let hash = digest(&[attachment.id.as_str(), kind, domain.as_str()]);
        Some(format!("pins{:x}_{hash:016x}", lease.slot))
    };
    let name = |rule: &EgressRule| match &rule.to {
        Destination::Domain(domain) => set("=", domain),
        Destination::DomainSuffix(domain) => set("<", domain),
        Destination::Any | Destination::Cidr(_) | Destination::Group(_) => None,
    };
    attachment.spec.egress.rules.iter().map(name).collect()
}

/// The mark of connections a rule let begin: the same as long as the rule is.
pub(super) fn mark_of(attachment: &Attachment, rule: &EgressRule) -> u32 {
    // A rule is plain data: it cannot fail to be written. If it did, rules would share their marks, no more.
    let text = serde_json::to_string(rule).unwrap_or_default();
    let hash = digest(&[attachment.id.as_str(), &text]);
    let [a, b, c, d, ..] = hash.to_be_bytes();
    // 0 is what no connection is marked with.
    u32::from_be_bytes([a, b, c, d]).max(1)
}

/// FNV-1a. Whoever makes two of these collide wrote both rules.
fn digest(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Map, chain and rule of each limit asked for.
fn limits(lease: &NetworkLease, attachment: &Attachment) -> Vec<(&'static str, String, String)> {
    let limits = &attachment.spec.limits;
    let slot = lease.slot;
    // A tenth of a second's worth at once: programs send in bursts.
    let rate = |n: u32| format!("limit rate over {n}/second burst {} packets {DROP}", (n / 10).max(5));
    let up = limits.up_packets_per_sec.map(|n| ("up_limits", format!("up{slot:x}"), rate(n)));
    let down = limits.down_packets_per_sec.map(|n| ("down_limits", format!("down{slot:x}"), rate(n)));
    let count = |n| format!("ct direction original ct state new ct count over {n} {DROP}");
    let connections = limits.connections_max.map(|n| ("connections", format!("count{slot:x}"), count(n)));
    [up, down, connections].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_merged() {
        let range = |first, last| PortRange::new(first, last).unwrap();
        assert_eq!(merged(&[range(80, 80), range(8000, 8100), range(8050, 9000), range(81, 81)]), "80-81, 8000-9000");
        assert_eq!(merged(&[range(1, 65_535), range(5, 6)]), "1-65535");
    }
}
