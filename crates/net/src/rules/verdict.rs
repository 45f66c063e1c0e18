//! Which connections go on when rules change: the kernel looks at every packet of who began them, but what is answered
//! passes as long as the connection is known.

use std::net::Ipv4Addr;

use moat_model::network::{Action, Destination, Domain, Flow, Peer, Protocol, PublishSpec, decide};

use super::conntrack::Connection;
use super::{Held, policy};
use crate::NetConfig;
use crate::table::Attached;

/// Whether a connection of `held`, begun or answered, is one its rules allow.
pub(super) fn goes_on<'a>(
    config: &NetConfig,
    who: &impl Fn(Ipv4Addr) -> Option<&'a Attached>,
    held: &Held,
    connection: &Connection,
) -> bool {
    let attached = &*held.attached;
    if attached.attachment.pooled {
        return false;
    }
    if connection.from == attached.lease.address {
        return begun(config, who, held, connection);
    }
    match who(connection.from) {
        Some(other) => same_namespace(attached, other),
        // The host wrote to it directly; nobody else can.
        None if connection.to == attached.lease.address => true,
        None => attached.attachment.spec.publish.iter().any(|spec| leads(spec, connection)),
    }
}

fn same_namespace(one: &Attached, other: &Attached) -> bool {
    !other.attachment.pooled && one.attachment.namespace == other.attachment.namespace
}

/// Whether a published port led there, and would again.
fn leads(spec: &PublishSpec, connection: &Connection) -> bool {
    let address = spec.host_address.is_unspecified() || spec.host_address == connection.to;
    let offset = connection.port.checked_sub(spec.host_port).filter(|offset| *offset < spec.count);
    let inner = offset.and_then(|offset| spec.port.checked_add(offset));
    address && policy::number_of(spec.protocol) == connection.protocol && inner == Some(connection.answers_port)
}

fn begun<'a>(
    config: &NetConfig,
    who: &impl Fn(Ipv4Addr) -> Option<&'a Attached>,
    held: &Held,
    connection: &Connection,
) -> bool {
    let (protocol, port) = match connection.protocol {
        1 => (Protocol::Icmp, None),
        6 => (Protocol::Tcp, Some(connection.port)),
        17 => (Protocol::Udp, Some(connection.port)),
        _ => return false,
    };
    let peer = match who(connection.to) {
        _ if connection.to == config.gateway && matches!(port, None | Some(53)) => Peer::Resolver,
        _ if connection.to == config.gateway => Peer::Host,
        Some(other) if same_namespace(&held.attached, other) => Peer::SameNamespace,
        Some(_) => Peer::OtherNamespace,
        None => Peer::None,
    };
    let names = names(held, connection);
    let flow = Flow { address: connection.to, protocol, port, peer, names: &names };
    decide(&held.attached.attachment.spec, &config.ceiling, &flow).action == Action::Allow
}

/// Names by which the rules know the address: of rules it is pinned for, and of that which let the connection begin.
fn names(held: &Held, connection: &Connection) -> Vec<Domain> {
    let attachment = &held.attached.attachment;
    let sets = policy::pin_sets(&held.attached.lease, attachment);
    let rules = attachment.spec.egress.rules.iter().zip(sets);
    let known = rules.filter(|(rule, set)| {
        let pinned = set.as_ref().and_then(|set| held.pins.get(set)).and_then(|pins| pins.get(&connection.to));
        pinned.is_some_and(|end| *end > std::time::Instant::now())
            || (rule.action == Action::Allow && connection.mark == policy::mark_of(attachment, rule))
    });
    known.filter_map(|(rule, _)| name_for(&rule.to)).collect()
}

/// A name the destination fits.
fn name_for(to: &Destination) -> Option<Domain> {
    match to {
        Destination::Domain(domain) => Some(domain.clone()),
        // Any name below it; one as long as names may be has none.
        Destination::DomainSuffix(domain) => Domain::parse(&format!("x.{domain}")).ok(),
        Destination::Any | Destination::Cidr(_) | Destination::Group(_) => None,
    }
}
