//! A dry run: what would become of a packet, and by which rule. Nothing is sent, but a name is looked up.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::StreamExt as _;
use moat_api::rest::network::{NetworkTest, Rule, TestedDestination};
use moat_engine::fabric::Attachment;
use moat_model::lifecycle::SandboxView;
use moat_model::network::{
    Action, Decision, Domain, Flow, NetworkLease, NetworkMode, NetworkSpec, Peer, Protocol, Reason, decide,
};
use moat_model::spec::Owner;
use moat_model::{Namespace, SandboxId};
use moat_net::resolver::Outcome;
use moat_net::table::Attached;

use crate::error::{Error, Result};

use super::read::cut;
use super::{Networks, own, show};

/// Destinations of one question.
const DESTINATIONS_MAX: usize = 100;
/// Names looked up at a time: the resolver lets one sandbox have few questions under way.
const LOOKED_UP_AT_ONCE: usize = 4;
/// Where the resolver answers.
const DNS_PORT: u16 = 53;

/// For whom it is asked.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The sandbox, or one that does not exist.
    pub id: SandboxId,
    /// Its tenant.
    pub namespace: Namespace,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The network it has, or might have.
    pub spec: NetworkSpec,
}

/// Whose addresses are whose.
#[derive(Debug, Clone, Default)]
pub struct Neighbours(BTreeMap<Ipv4Addr, (Namespace, bool)>);

impl Neighbours {
    /// Of everything the engine has.
    pub fn of(views: &[SandboxView]) -> Self {
        let known = |view: &SandboxView| {
            let pooled = view.origin.owner == Owner::Pool;
            Some((view.address?, (view.namespace.clone(), pooled)))
        };
        Self(views.iter().filter_map(known).collect())
    }

    #[cfg(test)]
    pub(super) fn known(entries: impl IntoIterator<Item = (Ipv4Addr, Namespace, bool)>) -> Self {
        Self(entries.into_iter().map(|(address, of, pooled)| (address, (of, pooled))).collect())
    }

    fn peer(&self, namespace: &Namespace, address: Ipv4Addr) -> Option<Peer> {
        let (of, pooled) = self.0.get(&address)?;
        Some(if of == namespace && !pooled { Peer::SameNamespace } else { Peer::OtherNamespace })
    }
}

/// A destination as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    host: Host,
    protocol: Protocol,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Address(Ipv4Addr),
    V6,
    Name(Domain),
}

impl Networks {
    /// Decides about each, in the order asked.
    pub async fn trial(&self, asker: &Asker, asked: &[String], neighbours: &Neighbours) -> Result<NetworkTest> {
        if asked.is_empty() || asked.len() > DESTINATIONS_MAX {
            let why = format!("{} of them; 1 to {DESTINATIONS_MAX} at a time", asked.len());
            return Err(Error::invalid("destinations", why));
        }
        let read = |(index, text): (usize, &String)| {
            let target = target(text).map_err(|why| Error::invalid(&format!("destinations[{index}]"), why));
            target.map(|target| (text.clone(), target))
        };
        let targets: Vec<(String, Target)> = asked.iter().enumerate().map(read).collect::<Result<_>>()?;
        let attached = self.attached(asker);
        let decided = targets.into_iter().map(|(text, target)| self.decided(&attached, neighbours, text, target));
        let results = futures::stream::iter(decided).buffered(LOOKED_UP_AT_ONCE).collect().await;
        Ok(NetworkTest { results })
    }

    fn attached(&self, asker: &Asker) -> Attached {
        // One that has no place is in slot 0, which is nobody's.
        let nowhere = NetworkLease { slot: 0, address: Ipv4Addr::UNSPECIFIED };
        let lease = self.wires.as_ref().and_then(|wires| wires.place_of(&asker.id)).unwrap_or(nowhere);
        let attachment = Attachment {
            id: asker.id.clone(),
            namespace: asker.namespace.clone(),
            labels: asker.labels.clone(),
            pooled: false,
            tap_owner: None,
            spec: asker.spec.clone(),
        };
        Attached { lease, attachment }
    }

    async fn decided(
        &self,
        asker: &Attached,
        neighbours: &Neighbours,
        text: String,
        target: Target,
    ) -> TestedDestination {
        let spec = &asker.attachment.spec;
        let name = match target.host {
            Host::V6 => {
                let why = "sandboxes have no IPv6".to_owned();
                return unreached(text, "mode", why);
            }
            Host::Address(address) => {
                let names = self.wires.as_ref().map(|w| w.names_of(asker, address)).unwrap_or_default();
                return self.at(asker, neighbours, text, (address, target.protocol, target.port), &names);
            }
            Host::Name(name) => name,
        };
        match (spec.mode, &self.wires) {
            (NetworkMode::Host, _) => {
                let why = "mode host has the host's own network, and no rules".to_owned();
                TestedDestination { allowed: true, ..unreached(text, "mode", why) }
            }
            (NetworkMode::Internal | NetworkMode::Internet, Some(wires)) => {
                let Some(found) = wires.look_up(asker, &name).await else {
                    return unreached(text, "name", "the resolver does not work yet".to_owned());
                };
                let (told, withheld) = match found.outcome {
                    Outcome::Addresses { told, withheld } => (told, withheld),
                    other => return unreached(text, "name", unanswered(&other, &spec.egress.rules)),
                };
                let flow = |address: &Ipv4Addr| {
                    let to = (*address, target.protocol, target.port);
                    self.at(asker, neighbours, text.clone(), to, std::slice::from_ref(&found.name))
                };
                let all: Vec<TestedDestination> = told.iter().map(flow).collect();
                let best = all.iter().find(|one| one.allowed).or_else(|| all.first()).cloned();
                best.unwrap_or_else(|| {
                    let why = match withheld.first() {
                        Some(_) => "its addresses are such as nobody may reach, so they are not told",
                        None => "it has no IPv4 address",
                    };
                    TestedDestination { address: withheld.first().copied(), ..unreached(text, "name", why.to_owned()) }
                })
            }
            _ => unreached(text, "mode", "mode isolated has loopback only".to_owned()),
        }
    }

    fn at(
        &self,
        asker: &Attached,
        neighbours: &Neighbours,
        destination: String,
        (address, protocol, port): (Ipv4Addr, Protocol, Option<u16>),
        names: &[Domain],
    ) -> TestedDestination {
        let peer = self.peer(asker, neighbours, address, protocol, port);
        let spec = &asker.attachment.spec;
        let decision = decide(spec, &self.terms.net.ceiling, &Flow { address, protocol, port, peer, names });
        let rule = match decision.reason {
            Reason::Rule { index } => Some(index),
            _ => None,
        };
        TestedDestination {
            destination,
            address: Some(address),
            allowed: decision.action == Action::Allow,
            by: word(decision.reason).to_owned(),
            rule,
            why: why(decision, spec, address),
        }
    }

    fn peer(
        &self,
        asker: &Attached,
        neighbours: &Neighbours,
        address: Ipv4Addr,
        protocol: Protocol,
        port: Option<u16>,
    ) -> Peer {
        if address == self.terms.net.gateway {
            // It answers to pings beside.
            let answers = protocol == Protocol::Icmp || port == Some(DNS_PORT);
            return if answers { Peer::Resolver } else { Peer::Host };
        }
        let other = neighbours.peer(&asker.attachment.namespace, address);
        // A sandbox's loopback is its own: it never leaves.
        other.unwrap_or_else(|| if !address.is_loopback() && own::is_own(address) { Peer::Host } else { Peer::None })
    }
}

fn unreached(destination: String, by: &str, why: String) -> TestedDestination {
    TestedDestination { destination, address: None, allowed: false, by: by.to_owned(), rule: None, why }
}

fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Mode => "mode",
        Reason::Resolver => "resolver",
        Reason::Host => "host",
        Reason::Namespace => "namespace",
        Reason::Ceiling => "ceiling",
        Reason::Rule { .. } => "rule",
        Reason::Default => "default",
    }
}

fn why(decision: Decision, spec: &NetworkSpec, address: Ipv4Addr) -> String {
    match decision.reason {
        Reason::Ceiling | Reason::Mode if address.is_loopback() || address.is_unspecified() => {
            "it leads to the sandbox's own loopback; a packet to it never leaves".to_owned()
        }
        Reason::Mode => match spec.mode {
            NetworkMode::Isolated => "mode isolated has loopback only".to_owned(),
            NetworkMode::Internal => "mode internal reaches sandboxes of its namespace only".to_owned(),
            NetworkMode::Internet | NetworkMode::Host => format!("mode {} has no rules", spec.mode),
        },
        Reason::Resolver => "it is the node's resolver".to_owned(),
        Reason::Host => "it is the node itself, which no sandbox reaches".to_owned(),
        Reason::Namespace => "it is a sandbox of another namespace".to_owned(),
        Reason::Ceiling => "the node refuses it to every sandbox".to_owned(),
        Reason::Rule { index } => {
            let rule = spec.egress.rules.get(index).map(|rule| told(&show::rule(rule))).unwrap_or_default();
            format!("rule {index} of the sandbox fits: {rule}")
        }
        Reason::Default => {
            let word = if decision.action == Action::Allow { "allow" } else { "deny" };
            format!("no rule fits, and the default is {word}")
        }
    }
}

/// A rule on one line.
fn told(rule: &Rule) -> String {
    let to = [
        rule.cidr.clone(),
        rule.domain.clone(),
        rule.domain_suffix.as_ref().map(|name| format!("*.{name}")),
        rule.group.clone(),
    ];
    let to = to.into_iter().flatten().next().unwrap_or_else(|| "anywhere".to_owned());
    let mut text = format!("{} {to}", rule.action);
    if let Some(protocol) = &rule.protocol {
        text = format!("{text} {protocol}");
    }
    if !rule.ports.is_empty() {
        text = format!("{text} ports {}", rule.ports.join(", "));
    }
    text
}

fn unanswered(outcome: &Outcome, rules: &[moat_model::network::EgressRule]) -> String {
    match outcome {
        Outcome::Nobody => "nobody has this name".to_owned(),
        Outcome::Failed => "no server of names answered".to_owned(),
        Outcome::Refused(Reason::Rule { index }) => {
            let rule = rules.get(*index).map(|rule| told(&show::rule(rule))).unwrap_or_default();
            format!("it is not asked for: rule {index} of the sandbox denies every packet to it: {rule}")
        }
        Outcome::Refused(Reason::Default) => {
            "it is not asked for: no rule could let a packet to it out, and the default is deny".to_owned()
        }
        Outcome::Refused(_) => "it is not asked for: the mode has no outside".to_owned(),
        Outcome::Addresses { .. } => String::new(),
    }
}

/// Reads `tcp://name:port` and what is shorter.
fn target(text: &str) -> std::result::Result<Target, String> {
    let shapes = "give address, name, address:port or name:port, with tcp://, udp:// or icmp:// before it if need be";
    let (protocol, rest) = match text.split_once("://") {
        None => (Protocol::Tcp, text),
        Some(("tcp", rest)) => (Protocol::Tcp, rest),
        Some(("udp", rest)) => (Protocol::Udp, rest),
        Some(("icmp", rest)) => (Protocol::Icmp, rest),
        Some(_) => return Err(format!("{:?}: {shapes}", cut(text))),
    };
    let (host, port) = parted(rest);
    let port = match port {
        None => None,
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            _ => return Err(format!("{:?}: ports are 1 to 65535", cut(text))),
        },
    };
    if protocol == Protocol::Icmp && port.is_some() {
        return Err(format!("{:?}: icmp has no ports", cut(text)));
    }
    let host = host_of(host).ok_or_else(|| format!("{:?}: {shapes}", cut(text)))?;
    Ok(Target { host, protocol, port })
}

fn parted(text: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':'));
    }
    match text.split_once(':') {
        // Two colons without brackets: an address of six, which has no port.
        Some((_, rest)) if rest.contains(':') => (text, None),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    }
}

fn host_of(text: &str) -> Option<Host> {
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Some(match IpAddr::V6(address).to_canonical() {
            IpAddr::V4(mapped) => Host::Address(mapped),
            IpAddr::V6(_) => Host::V6,
        });
    }
    if let Some(address) = numbers(text) {
        return Some(Host::Address(address));
    }
    // No name ends with a number: it was to be an address.
    let last = text.trim_end_matches('.').rsplit('.').next()?;
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Domain::parse(text).ok().map(Host::Name)
}

/// An address as programs' libraries read it: one to four numbers, decimal, octal or hexadecimal, the last of which fills
/// what is left.
fn numbers(text: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| match part {
        part if part.starts_with("0x") || part.starts_with("0X") => u32::from_str_radix(part.get(2..)?, 16).ok(),
        part if part.len() > 1 && part.starts_with('0') => u32::from_str_radix(part, 8).ok(),
        part if part.bytes().all(|b| b.is_ascii_digit()) => part.parse().ok(),
        _ => None,
    };
    let parts: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, before) = parts.split_last()?;
    let room = 32 - 8 * u32::try_from(before.len()).ok().filter(|n| *n < 4)?;
    if before.iter().any(|part| *part > 255) || (room < 32 && *last >= 1 << room) {
        return None;
    }
    let shifted = before.iter().zip([24u32, 16, 8]).map(|(part, shift)| part << shift);
    Some(Ipv4Addr::from(shifted.fold(*last, |sum, part| sum | part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_as_a_program_would() {
        let address = |text: &str| Host::Address(text.parse().unwrap());
        let name = |text: &str| Host::Name(Domain::parse(text).unwrap());
        let cases = [
            ("8.8.8.8", address("8.8.8.8"), Protocol::Tcp, None),
            ("udp://8.8.8.8:53", address("8.8.8.8"), Protocol::Udp, Some(53)),
            ("icmp://8.8.8.8", address("8.8.8.8"), Protocol::Icmp, None),
            ("2852039166:80", address("169.254.169.254"), Protocol::Tcp, Some(80)),
            ("0xa9fea9fe", address("169.254.169.254"), Protocol::Tcp, None),
            ("0251.0376.0251.0376", address("169.254.169.254"), Protocol::Tcp, None),
            ("127.1", address("127.0.0.1"), Protocol::Tcp, None),
            ("0", address("0.0.0.0"), Protocol::Tcp, None),
            ("[::ffff:10.0.0.1]:80", address("10.0.0.1"), Protocol::Tcp, Some(80)),
            ("::ffff:a9fe:a9fe", address("169.254.169.254"), Protocol::Tcp, None),
            ("[fe80::1]:80", Host::V6, Protocol::Tcp, Some(80)),
            ("web", name("web"), Protocol::Tcp, None),
            ("tcp://PyPI.org:443", name("pypi.org"), Protocol::Tcp, Some(443)),
        ];
        for (text, host, protocol, port) in cases {
            assert_eq!(target(text).unwrap(), Target { host, protocol, port }, "{text}");
        }
        for bad in ["", "https://a.org/", "a.org:0", "a.org:70000", "icmp://a.org:1", "a b", "256.1.1.1", "tcp://:1"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
