//! `[network]`: what connects sandboxes. The table is NanoBox's, with members of our own beside its three.

use std::net::{Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;
use moat_model::network::Ceiling;
use moat_net::NetConfig;
use serde::Deserialize;

use crate::networks::place::Wanted;

/// Networks, as the operator set them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Absent: if this host can have one.
    pub enabled: Option<bool>,
    /// Name, subnet and gateway, where they are not to be derived.
    pub wanted: Wanted,
    /// The rest. Its name, subnet, gateway and directory are filled in when the node starts.
    pub net: NetConfig,
    /// Callers may publish at any address of the host, and below port 1024.
    pub publish_public: bool,
    /// Ranges beside the subnet from which callers may choose addresses; absent: private ones nobody is known to have.
    pub choose_from: Option<Vec<Ipv4Net>>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            enabled: None,
            wanted: Wanted::default(),
            net: NetConfig::new("/run/moat/net"),
            publish_public: false,
            choose_from: None,
        }
    }
}

impl NetworkConfig {
    /// No network but loopback.
    pub fn off() -> Self {
        Self { enabled: Some(false), ..Self::default() }
    }
}

/// `[network]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawNetwork {
    pub enabled: Option<bool>,
    pub name: Option<String>,
    pub subnet: Option<String>,
    pub gateway: Option<String>,
    pub uplink: Option<String>,
    pub host_iface: Option<String>,
    pub bridge_name: Option<String>,
    pub allow: Option<Vec<String>>,
    pub deny: Option<Vec<String>>,
    pub choose_from: Option<Vec<String>>,
    pub upstreams: Option<Vec<String>>,
    pub domain: Option<String>,
    pub ready: Option<u32>,
    pub slots_max: Option<u32>,
    pub publish_address: Option<String>,
    pub publish_ports: Option<String>,
    pub publish_public: Option<bool>,
}

type Fault = (String, String);

fn fault<T>(key: &str, why: impl Into<String>) -> Result<T, Fault> {
    Err((key.to_owned(), why.into()))
}

/// Checks the table. `dns_server` is NanoBox's, of its table `[oci]`.
pub(super) fn network(
    raw: RawNetwork,
    dns_server: Option<&str>,
    sandboxes_max: usize,
    notes: &mut Vec<String>,
) -> Result<NetworkConfig, Fault> {
    let base = NetworkConfig::default();
    let subnet = raw.subnet.as_deref().map(|text| range("network.subnet", text)).transpose()?;
    let gateway = raw.gateway.as_deref().map(|text| address("network.gateway", text)).transpose()?;
    let upstreams = match &raw.upstreams {
        Some(given) => given.iter().map(|text| upstream("network.upstreams", text)).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let ceiling = Ceiling {
        allow: ranges("network.allow", raw.allow.as_deref())?,
        deny: ranges("network.deny", raw.deny.as_deref())?,
    };
    let net = NetConfig {
        uplink: uplink(raw.uplink, raw.host_iface)?,
        ceiling,
        upstreams: with_dns_server(upstreams, dns_server, subnet, notes)?,
        domain: raw.domain.map(domain).transpose()?.unwrap_or(base.net.domain.clone()),
        publish_address: match raw.publish_address.as_deref() {
            Some(text) => address("network.publish_address", text)?,
            None => base.net.publish_address,
        },
        publish_ports: raw.publish_ports.as_deref().map(ports).transpose()?.unwrap_or(base.net.publish_ports),
        ready: raw.ready.map_or(base.net.ready, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        slots_max: slots_max(raw.slots_max, base.net.slots_max, sandboxes_max)?,
        ..base.net
    };
    let slots = usize::try_from(net.slots_max).unwrap_or(usize::MAX);
    if net.ready > slots {
        return fault("network.ready", format!("{} is more than network.slots_max, {slots}", net.ready));
    }
    let wanted = Wanted { name: raw.name, subnet, gateway };
    // What is derived when the node starts is sound; what was written down is checked here, by the same rules.
    let whole = NetConfig {
        name: wanted.name.clone().unwrap_or_else(|| net.name.clone()),
        subnet: wanted.subnet.unwrap_or(net.subnet),
        gateway: wanted.gateway.unwrap_or(net.gateway),
        ..net.clone()
    };
    whole.check().map_err(|text| match text.split_once(": ") {
        Some((key, why)) => (key.to_owned(), why.to_owned()),
        None => ("network".to_owned(), text),
    })?;
    Ok(NetworkConfig {
        enabled: raw.enabled,
        wanted,
        net,
        publish_public: raw.publish_public.unwrap_or(base.publish_public),
        choose_from: raw.choose_from.map(|given| ranges("network.choose_from", Some(&given))).transpose()?,
    })
}

fn address(key: &str, text: &str) -> Result<Ipv4Addr, Fault> {
    text.parse().or_else(|_| fault(key, format!("{text:?} is not an IPv4 address")))
}

fn range(key: &str, text: &str) -> Result<Ipv4Net, Fault> {
    let read = text.parse::<Ipv4Net>().ok().or_else(|| text.parse::<Ipv4Addr>().map(Ipv4Net::from).ok());
    match read {
        Some(range) if range.trunc() == range => Ok(range),
        Some(range) => fault(key, format!("{range} is not the first of its range; {} is", range.trunc())),
        None => fault(key, format!("{text:?} is no range such as 10.100.0.0/16")),
    }
}

fn ranges(key: &str, given: Option<&[String]>) -> Result<Vec<Ipv4Net>, Fault> {
    given.unwrap_or_default().iter().map(|text| range(key, text)).collect()
}

fn upstream(key: &str, text: &str) -> Result<SocketAddr, Fault> {
    let alone = text.parse::<std::net::IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53));
    match alone.or_else(|| text.parse().ok()) {
        Some(server) => Ok(server),
        None => fault(key, format!("{text:?} is not an address such as 192.0.2.53 or 192.0.2.53:5353")),
    }
}

/// NanoBox's name server: one beside the sandboxes' subnet is asked; one within was NanoBox's own, which is ours here.
fn with_dns_server(
    upstreams: Vec<SocketAddr>,
    dns_server: Option<&str>,
    subnet: Option<Ipv4Net>,
    notes: &mut Vec<String>,
) -> Result<Vec<SocketAddr>, Fault> {
    let Some(text) = dns_server else { return Ok(upstreams) };
    let server = upstream("oci.dns_server", text)?;
    let within = match server.ip() {
        std::net::IpAddr::V4(ip) => subnet.unwrap_or(NetworkConfig::default().net.subnet).contains(&ip),
        std::net::IpAddr::V6(_) => false,
    };
    if within {
        notes.push(format!(
            "oci.dns_server has no effect on this node because {server} lies in the sandboxes' subnet: they ask the node itself, at network.gateway"
        ));
        return Ok(upstreams);
    }
    if !upstreams.is_empty() && !upstreams.contains(&server) {
        return fault("oci.dns_server", "means the same as network.upstreams, which says otherwise: give one of them");
    }
    Ok(vec![server])
}

fn uplink(own: Option<String>, nanobox: Option<String>) -> Result<Option<String>, Fault> {
    match (&own, &nanobox) {
        (Some(own), Some(other)) if own != other => {
            return fault(
                "network.host_iface",
                format!("{other:?} is not the uplink {own:?}; they mean the same: give one"),
            );
        }
        _ => {}
    }
    match own.or(nanobox) {
        Some(link)
            if matches!(link.len(), 1..=15) && link.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'"') =>
        {
            Ok(Some(link))
        }
        Some(link) => fault("network.uplink", format!("{link:?} is no name of a link: 1 to 15 characters")),
        None => Ok(None),
    }
}

fn domain(text: String) -> Result<String, Fault> {
    match moat_model::network::Domain::parse(&text) {
        Ok(domain) => Ok(domain.to_string()),
        Err(e) => fault("network.domain", e.to_string()),
    }
}

fn ports(text: &str) -> Result<(u16, u16), Fault> {
    match moat_model::network::PortRange::parse(text) {
        Some(range) => Ok((range.first(), range.last())),
        None => fault("network.publish_ports", format!("{text:?} is no range such as 20000-32000")),
    }
}

/// Each slot is a link of the host: more than sandboxes are of no use, but for those that stand ready meanwhile.
fn slots_max(given: Option<u32>, base: u32, sandboxes_max: usize) -> Result<u32, Fault> {
    match given {
        Some(0) => fault("network.slots_max", "must be at least 1"),
        Some(n) if n > 65_535 => fault("network.slots_max", "must not exceed 65535: each is a link of the host"),
        Some(n) => Ok(n),
        // Whoever allows more sandboxes means them to have networks.
        None => Ok(base.max(u32::try_from(sandboxes_max).unwrap_or(u32::MAX).saturating_mul(2)).min(65_535)),
    }
}
